"""A visual-question model as a judge: is the concept in the image, yes or no?

For concepts that no classifier or detector knows: instances, scenes, relations. The answer depends on the
question, which is therefore part of its identity. Networks are transformers' ``BlipForQuestionAnswering``
(Li et al. 2022, https://arxiv.org/abs/2201.12086) and ``ViltForQuestionAnswering`` (Kim et al. 2021,
https://arxiv.org/abs/2102.03334).

The score is the share of "yes" in "yes" and "no". ViLT has a class for each answer. BLIP writes its
answer: the probabilities of its first word are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from bench.core.errors import UsageError, shown
from bench.core.json_files import read_object
from bench.core.lazy import torch
from bench.core.templates import Template
from bench.interfaces import Concept, Judge
from bench.toolkit.from_folder import FromFolder
from bench.toolkit.network_folder import CONFIG, folder_of, load

if TYPE_CHECKING:
    from torch import Tensor

    from bench.toolkit.network_folder import Loaded

__all__ = ["Vqa"]

_CLASSES: Final = {"blip": "BlipForQuestionAnswering", "vilt": "ViltForQuestionAnswering"}
_ANSWERS: Final = ("yes", "no")


class Vqa(FromFolder, Judge):
    """The share of "yes" in the answers "yes" and "no" to a question about the concept.

    Attributes:
        question: What is asked; ``{}`` stands for the concept.
    """

    name: ClassVar[str] = "vqa"
    network_kind: ClassVar[str] = "ForQuestionAnswering"
    reads_texts: ClassVar[bool] = True
    question: Template = "Is there {} in this image?"

    def check_base(self, folder: Path | None) -> None:
        """Refuses a network that is missing, unfit, or has no word for yes or no."""
        super().check_base(folder)
        try:
            self._asks(self._loaded("cpu"))
        except UsageError as error:
            raise error.below(self.name, "weights") from error

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        """The share of "yes".

        Args:
            images_B3HW: float32 in [0, 1].
            concept: Its text stands in the question.

        Returns:
            float32 [B, 1] in [0, 1].
        """
        loaded = self._loaded(str(images_B3HW.device))
        ask = self._asks(loaded)
        question = self.question.replace("{}", concept.text)
        rows = loaded.each(images_B3HW, lambda pixels: ask(pixels, question).softmax(-1)[:, :1])
        return torch.cat([images_B3HW.new_empty(0, 1, dtype=torch.float32), *rows])

    def _loaded(self, device: str) -> Loaded:
        folder = folder_of(self.weights)
        kind = read_object(folder / CONFIG).get("model_type")
        if not isinstance(kind, str) or kind not in _CLASSES:
            known = " or ".join(_CLASSES)
            raise UsageError(f"{folder}: expected a network of type {known}, got {shown(kind)}")
        return load(folder, _CLASSES[kind], device, words=True)

    def _asks(self, loaded: Loaded) -> Callable[[Tensor, str], Tensor]:
        """Pixels and a question -> the logits [b, 2] of yes and no.

        Raises:
            UsageError: the network has no such answers.
        """
        if loaded.network.config.model_type == "vilt":
            classes = _numbers(loaded.network.config.label2id)
            return lambda p, q: _of_vilt(loaded, p, q)[:, classes]
        ids = {word: loaded.words.encode(word, add_special_tokens=False) for word in _ANSWERS}
        unknown = loaded.words.unk_token_id
        numbers = _numbers(
            {w: one[0] for w, one in ids.items() if len(one) == 1 and one[0] != unknown}
        )
        return lambda p, q: _of_blip(loaded, p, q)[:, numbers]


def _numbers(known: dict[str, int]) -> list[int]:
    if lacking := [word for word in _ANSWERS if word not in known]:
        raise UsageError(
            f"expected a network with the answers yes and no, got none for {lacking[0]}"
        )
    return [known[word] for word in _ANSWERS]


def _of_vilt(loaded: Loaded, pixels: Tensor, question: str) -> Tensor:
    """The logits [b, answers] of a classifier of answers."""
    text = _text(loaded, question, len(pixels))
    return loaded.network(**text, pixel_values=pixels).logits


def _of_blip(loaded: Loaded, pixels: Tensor, question: str) -> Tensor:
    """The logits [b, words] of the first word that is written as an answer."""
    network: Any = loaded.network
    text = _text(loaded, question, len(pixels))
    seen = network.vision_model(pixel_values=pixels).last_hidden_state
    asked = network.text_encoder(
        input_ids=text["input_ids"],
        attention_mask=text["attention_mask"],
        encoder_hidden_states=seen,
        encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
    ).last_hidden_state
    begin = torch.full((len(pixels), 1), network.decoder_start_token_id, device=seen.device)
    written = network.text_decoder(
        input_ids=begin,
        encoder_hidden_states=asked,
        encoder_attention_mask=text["attention_mask"],
    )
    return written.logits[:, -1]


def _text(loaded: Loaded, question: str, times: int) -> dict[str, Tensor]:
    made = loaded.words(question, return_tensors="pt", truncation=True)
    names = ("input_ids", "attention_mask", "token_type_ids")
    known = {name: made[name] for name in names if name in made}
    if loaded.network.config.model_type == "blip":
        known.pop("token_type_ids", None)
    return {name: ids.to(loaded.device).expand(times, -1) for name, ids in known.items()}
