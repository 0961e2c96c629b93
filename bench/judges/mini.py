"""The miniature's judge: a small classifier of its world, trained on rendered pictures.

It knows every attribute of the world in which a concept can lie, a head each: object, character,
style, colour, background. Each head also has the answer "none of these".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from bench.core.clock import model_time
from bench.core.errors import UsageError, unknown
from bench.core.files import regular
from bench.core.json_files import read_object
from bench.core.lazy import torch
from bench.core.shipped import folder_of, judge_folder
from bench.core.spec import PathText, content
from bench.core.weight_files import sound
from bench.interfaces import Concept, Judge

if TYPE_CHECKING:
    from torch import Tensor

    from bench.toolkit.judge_net import JudgeNet

__all__ = ["MiniJudge"]

_BATCH = 256
_SIDE = 64
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


class MiniJudge(Judge):
    """The probability of a class of one head.

    Attributes:
        folder: Holds ``config.json`` and ``model.safetensors``; empty: the miniature's own judge.
    """

    name: ClassVar[str] = "mini_judge"
    side: ClassVar[int | None] = _SIDE
    folder: PathText = ""

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        """The softmax probability of the class ``concept.text``.

        Args:
            images_B3HW: float32 [B, 3, 64, 64] in [0, 1].
            concept: Its head is ``concept.head``, or else its family.

        Returns:
            float32 [B, 1].

        Raises:
            UsageError: the judge has no such head, or the head no such class.
        """
        net = self._net(images_B3HW)
        head, column = self._place(concept, net.classes)
        rows = [out[head].softmax(-1)[:, column] for out in _logits(net, images_B3HW)]
        return torch.cat([images_B3HW.new_empty(0), *rows])[:, None]

    @property
    def network(self) -> str:
        """Its weights."""
        return content(self._folder() / _WEIGHTS)

    def check_base(self, folder: Path | None) -> None:
        """Refuses a folder without the weights of such a judge; the shipped one is taken as it is."""
        if not self.folder:
            return
        from bench.toolkit.judge_net import judge_on

        try:
            sound(regular(self._folder() / _WEIGHTS))
            judge_on(self._folder(), "cpu")
        except UsageError as error:
            raise error.below(self.name, "folder") from error

    def check_concept(self, concept: Concept) -> None:
        """Refuses what is no class of a head of the judge's folder."""
        self._place(concept, _heads(self._folder()))

    def predict(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """The most likely class of every head.

        Args:
            images_B3HW: float32 [B, 3, 64, 64] in [0, 1].

        Returns:
            Head -> int64 [B]; the number of the head's classes stands for "none of these".
        """
        net = self._net(images_B3HW)
        rows = [{h: x.argmax(-1) for h, x in out.items()} for out in _logits(net, images_B3HW)]
        none = images_B3HW.new_empty(0, dtype=torch.int64)
        return {head: torch.cat([none, *(row[head] for row in rows)]) for head in net.classes}

    def heads(self) -> dict[str, list[str]]:
        """Head -> its classes in label order; one more stands for "none of these"."""
        return _heads(self._folder())

    def files(self) -> tuple[Path, ...]:
        """Its weights and the classes of its heads; the shipped judge's come with the code."""
        folder = self._folder()
        settings = (folder / _CONFIG,) if self.folder else ()
        return (*settings, folder / _WEIGHTS)

    def _folder(self) -> Path:
        return folder_of(self.folder, ours=judge_folder())

    def _place(self, concept: Concept, heads: Mapping[str, Sequence[str]]) -> tuple[str, int]:
        """The head that tells the concept, and its column there."""
        head = concept.head or concept.family
        if head not in heads:
            what = f"head of {self.name} for the concept {concept.text!r}"
            raise UsageError(unknown(what, head, heads))
        if concept.text not in heads[head]:
            what = f"class of the head {head!r} of {self.name}"
            raise UsageError(unknown(what, concept.text, heads[head]))
        return head, heads[head].index(concept.text)

    def _net(self, images_B3HW: Tensor) -> JudgeNet:
        if images_B3HW.ndim != 4 or images_B3HW.shape[1:] != (3, _SIDE, _SIDE):
            shape = list(images_B3HW.shape)
            raise ValueError(f"{self.name}: expected images [B, 3, {_SIDE}, {_SIDE}], got {shape}")
        from bench.toolkit.judge_net import judge_on

        return judge_on(self._folder(), str(images_B3HW.device))


def _heads(folder: Path) -> dict[str, list[str]]:
    """The classes of each head, as the folder's ``config.json`` has them."""
    path = folder / _CONFIG
    match read_object(path):
        case {"heads": dict(heads)} if all(map(_is_names, heads.values())):
            return cast("dict[str, list[str]]", heads)
    raise UsageError(f"{path}: expected heads, each a list of class names")


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _logits(net: JudgeNet, images_B3HW: Tensor) -> Iterator[dict[str, Tensor]]:
    """Logits of one batch after another; gradients flow where the images ask for them."""
    gradients = images_B3HW.requires_grad and torch.is_grad_enabled()
    for at in range(0, len(images_B3HW), _BATCH):
        with torch.set_grad_enabled(gradients), model_time():
            out: dict[str, Tensor] = net(images_B3HW[at : at + _BATCH].float())
        yield out
