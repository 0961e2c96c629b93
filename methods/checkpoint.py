"""Somebody's edited model as a method: the weights of a released erasure, laid over its base.

Read are: a diffusers pipeline folder (its ``unet`` and ``text_encoder``, both or what it has of
them, and nothing else), the folder or the safetensors file of one of them, and a LoRA in the key
styles of PEFT, diffusers (new and old) and kohya. The files may hold the changed parameters alone
(``names: some``: every release of ESD and UCE), or differences to be added (``values: difference``).

Nothing in a file is executed or unpickled, and nothing is taken on trust. What the headers say,
names, shapes, precisions and metadata, is compared with the base when a plan is made. So are the
values of files up to 512 MiB; those of larger ones are read in the run, before anything is sampled,
and only a sample of them, which tells differences from values, in the plan. What does not fit is
refused in one line.

The concepts play no part: what is erased is what the file's author erased. Which base the file was
made from cannot be checked beyond names, shapes and what its metadata say; that is the user's to
know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, model_validator

from bench.core.bounds import Factor
from bench.core.digest import file_sha256
from bench.core.errors import UsageError
from bench.core.headers import refuse_odd_numbers
from bench.core.spec import content, runtime
from bench.core.weight_files import sound
from bench.interfaces import Concept, Context, Erasure, Slot
from bench.model.text_to_image import TextToImage
from methods.released.base import Base
from methods.released.files import (
    Network,
    content_of,
    files_of,
    is_there,
    networks,
)
from methods.released.kinds import refuse_foreign
from methods.released.lora import Layer, is_lora, layers, merged
from methods.released.names import names_of
from methods.released.values import alike, refuse_the_other_kind

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Checkpoint"]

_CHEAP = 512 * 2**20  # bytes whose values are read when a plan is made: under two seconds
_Laid: TypeAlias = "dict[str, Callable[[], Tensor]]"


class Checkpoint(Erasure):
    """The base with the weights of a file.

    Its identity is the content of the file, wherever that lies.

    Attributes:
        path: A safetensors file or a folder; see the module. Required.
        sha256: Of the content; taken from the file when it is not given. With it given, the file
            is needed only where the edit is made, and must have it.
        scale: Strength of a LoRA or of differences; whole parameters have 1. From -100 to 100.
        names: ``all``: the file must hold every parameter of a network; ``some``: it may hold the
            changed ones alone, as every release of ESD and UCE does.
        values: ``absolute``: the parameters themselves; ``difference``: what is to be added to the
            base's. The wrong one is refused by the values.
    """

    name: ClassVar[str] = "checkpoint"
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights"})
    # Fields without which no edit can be made, though the spec can be built without them.
    needs: ClassVar[tuple[str, ...]] = ("path",)
    path: str = runtime("")
    sha256: str = Field("", pattern="^([0-9a-f]{64})?$")
    scale: Factor = 1.0
    names: Literal["all", "some"] = "all"
    values: Literal["absolute", "difference"] = "absolute"

    @model_validator(mode="before")
    @classmethod
    def _know_the_content(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and isinstance(fields.get("path"), str) and fields["path"]:
            if not fields.get("sha256"):
                return {**fields, "sha256": content_of(files_of(fields["path"]))}
        return fields

    def _described(self) -> str:
        """The file's name and the beginning of its sha256, which tells namesakes apart."""
        extra = [] if self.scale == 1 else [f"scale={self.scale:g}"]
        extra += [] if self.values == "absolute" else [self.values]
        return f"checkpoint({', '.join([Path(self.path).name, self.sha256[:8], *extra])})"

    def parameters(self, model: TextToImage) -> list[str]:
        """Every parameter of the UNet and the text encoder."""
        return list(model.base_values)

    def check_base(self, folder: Path | None) -> None:
        """Refuses what its file tells without a run: all but the values of a file above 512 MiB.

        A file that is not there is left to the run: where the edit is made already, nothing needs
        it. The base's values are taken in float32; in a suite of another precision the run tells
        whether anything of the edit is left.

        Args:
            folder: The base's pipeline folder; without one, the file is checked by itself.

        Raises:
            UsageError: the file is not what was expected, or does not suit the base.
        """
        with _called(self.name):
            if not self.path or not is_there(self.path):
                return
            found = self._networks(content)
            cheap = sum(network.size for network in found) <= _CHEAP
            base = None if folder is None else Base.of_folder(folder)
            if base is None:
                for network in found:
                    refuse_foreign(network, None)
                    refuse_odd_numbers(network.tensors, network.origin)
                    for path in network.files if cheap else ():
                        sound(path)
                return
            laid = self._laid(base, found)
            if cheap and not sum(1 for _ in self._edited(base, laid)):
                raise self._no_edit()

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with the parameters of the file that differ from its own.

        Raises:
            UsageError: the file is not there, or not what was expected.
        """
        with _called(self.name):
            if not self.path:
                raise UsageError("expected the path of an edited model as `path`, got none")
            base = Base.of_model(model)
            edited: dict[str, Tensor] = {}
            for name, value in self._edited(base, self._laid(base, self._networks(file_sha256))):
                own = model.parameter(name).dtype
                if not bool(value.to(own).isfinite().all()):
                    raise UsageError(
                        f"expected values that {own} can hold, got larger ones in {name} of "
                        f"{self.path}; run the suite in float32"
                    )
                edited[name] = value
            ctx.progress(1, 1, self.name)
            if not edited:
                raise self._no_edit()
            return model.with_weights(edited)

    def _networks(self, digest: Callable[[Path], str]) -> list[Network]:
        files = files_of(self.path)
        if (found := content_of(files, digest)) != self.sha256:
            raise UsageError(
                f"expected {self.path} with sha256 {self.sha256[:12]}, got {found[:12]}: it has "
                "changed; restore it or correct `sha256`"
            )
        return networks(files, self.path)

    def _laid(self, base: Base, found: Sequence[Network]) -> _Laid:
        """``component.name`` of what the files hold, and what reads its new value.

        Raises:
            UsageError: names, shapes, metadata or settings are not what was expected.
        """
        laid: _Laid = {}
        for network in found:
            refuse_foreign(network, base.text_width)
            refuse_odd_numbers(network.tensors, network.origin)
            adapter = is_lora(network.tensors)
            one = (self._adapter if adapter else self._whole)(base, network)
            if twice := sorted(one.keys() & laid.keys()):
                raise UsageError(
                    f"expected each parameter once, got {twice[0]} in two files of {self.path}; "
                    "give one of them"
                )
            laid |= one
        return laid

    def _adapter(self, base: Base, network: Network) -> _Laid:
        if self.values == "difference":
            raise UsageError(
                f"expected differences of parameters, got a LoRA in {self.path}; leave `values` out"
            )

        def number(name: str) -> float:
            return float(network.value(name))

        def value(layer: Layer) -> Tensor:
            halves = network.value(layer.down), network.value(layer.up)
            return merged(base.value(layer.parameter), *halves, self.scale * layer.strength)

        found = layers(base.shapes, network.shapes, network.about, number, origin=self.path)
        return {layer.parameter: partial(value, layer) for layer in found}

    def _whole(self, base: Base, network: Network) -> _Laid:
        if self.scale != 1 and self.values == "absolute":
            raise UsageError(
                f"expected a LoRA to scale by {self.scale:g}, got whole parameters in "
                f"{self.path}; leave `scale` out"
            )
        names, missing = names_of(base.shapes, network)
        lacking = missing if self.names == "all" else []
        refuse_the_other_kind(base, network, names, self.values, lacking=bool(lacking))
        if lacking:
            raise UsageError(
                f"expected the parameters of the base's {lacking[0].partition('.')[0]}, got not all "
                f"of these in {self.path}: {len(lacking)}, e.g. {', '.join(sorted(lacking)[:3])}; "
                "give the model that it was made from as base, or set `names: some`"
            )

        def added(full: str, name: str) -> Tensor:
            own = base.value(full).double()
            return (own + self.scale * network.value(name).double()).float()

        if self.values == "difference":
            return {full: partial(added, full, name) for full, name in names.items()}
        return {full: partial(network.value, name) for full, name in names.items()}

    def _edited(self, base: Base, laid: _Laid) -> Iterator[tuple[str, Tensor]]:
        """The values that differ from the base by more than the rounding of the file or of the base."""
        for name, read in laid.items():
            value = read()
            if not bool(value.isfinite().all()):
                raise UsageError(
                    f"expected finite numbers, got others in {name} with {self.path} added; lower "
                    "`scale`, or fetch the file again"
                )
            if not alike(base.value(name), value):
                yield name, value

    def _no_edit(self) -> UsageError:
        return UsageError(
            f"expected an edited model, got the base itself: no parameter in {self.path} differs "
            "from it; check that it is the edited file"
        )


@contextmanager
def _called(name: str) -> Iterator[None]:
    """Has errors begin with the method's name, once."""
    try:
        yield
    except UsageError as error:
        raise error.below(name) from error
