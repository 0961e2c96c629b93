"""Somebody's edited model as a method: the weights of a released erasure, laid over its base.

Read is a diffusers pipeline folder: its ``unet`` and text encoders, all or what it has of them, and
nothing else. So are the folder or the safetensors file of one of them or of both. So is a LoRA in
the key styles of PEFT, diffusers (new and old) and kohya. They lie at a path, or in a repository of
the hub at a commit. They may hold the changed parameters alone, as every release of ESD and UCE
does: that is found out and said. Or they hold differences to be added (``values: difference``).
Adapters that act in the forward pass, SPM's and Receler's, become hooks
(:mod:`methods.released.hooked`).

Nothing in a file is executed or unpickled, and nothing is taken on trust. What the headers say,
names, shapes, precisions and metadata, is compared with the base when a plan is made. So are the
values of files up to 512 MiB. Those of larger ones are read in the run, before anything is sampled.
The plan reads only a sample of them, which tells differences from values. What does not fit is
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
from bench.core.spec import added, content, name_of, runtime
from bench.core.weight_files import sound
from bench.interfaces import Concept, Context, Erasure, Slot
from bench.model.text_to_image import TextToImage
from methods.released.base import Base
from methods.released.changes import Change, Changes, in_words
from methods.released.files import (
    Network,
    content_of,
    files_of,
    is_there,
    networks,
)
from methods.released.hooked import check_hook, hook_of, is_erasers, is_gated, kind_of, some_effect
from methods.released.hub import check_place, fetched, is_cached
from methods.released.kinds import other_base, refuse_foreign
from methods.released.lora import Layer, is_lora, layers, merged
from methods.released.names import counted, is_a_part, names_of
from methods.released.values import alike, refuse_the_other_kind

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Checkpoint"]

_CHEAP = 512 * 2**20  # bytes whose values are read when a plan is made: under two seconds
_HUB = ("hub", "commit", "subfolder")
_Laid: TypeAlias = "dict[str, Callable[[], Tensor]]"


class Checkpoint(Erasure):
    """The base with the weights of a file.

    Its identity is the content of the file, wherever that lies.

    Attributes:
        path: A safetensors file or a folder; see the module; empty: ``hub`` says where, and is required.
        hub: A repository of the hub, owner and name; empty: ``path`` says where. What is not in
            its cache yet is downloaded.
        commit: Of it, 40 hex digits; suites call it ``revision``, as they do a base's; empty: there is no ``hub``.
        subfolder: Where in it the files lie; empty: at its top.
        sha256: Of the content; empty: taken from the file, as the spec is built. With it given, the file
            is needed only where the edit is made, and must have it.
        scale: Strength of a LoRA or of differences; whole parameters have 1. From -100 to 100.
        names: ``all``: the file must hold every parameter of a network; ``some``: it may hold the
            changed ones alone; ``auto``: either, as the file shows. Changes no number.
        values: ``absolute``: the parameters themselves; ``difference``: what is to be added to the
            base's. The wrong one is refused by the values.
        gate: Of SPM's adapters and their like. ``prompt``: as near as the prompt is to their concept;
            ``open``: merged as a LoRA, as ACE's example does it.
    """

    name: ClassVar[str] = "checkpoint"
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights", "hooks"})
    # Fields without which no edit can be made, though the spec can be built without them.
    needs: ClassVar[tuple[str, ...]] = ("path",)
    path: str = runtime("")
    hub: str = runtime("")
    commit: str = runtime("")
    subfolder: str = runtime("")
    sha256: str = Field("", pattern="^([0-9a-f]{64})?$")
    scale: Factor = 1.0
    names: Literal["auto", "all", "some"] = "auto"
    values: Literal["absolute", "difference"] = "absolute"
    gate: Literal["prompt", "open"] = added("prompt")

    @model_validator(mode="before")
    @classmethod
    def _know_the_content(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        if "revision" in fields:  # of a spec, that is the revision of its algorithm
            fields = {**fields, "commit": fields["revision"]}
            del fields["revision"]
        path, hub, *rest = (fields.get(key) or "" for key in ("path", *_HUB))
        if hub or any(rest):
            if path:
                raise UsageError("expected path or hub, got both; leave one of them out")
            check_place(hub, *rest)
        if fields.get("sha256") or not isinstance(path, str) or not (path or hub):
            return fields
        return {**fields, "sha256": content_of(files_of(path or fetched(hub, *rest)))}

    def identity(self) -> dict[str, Any]:
        """See the base class. Where ``names`` were found out, it says ``all``, which used to be the default."""
        about = super().identity()
        if self.names == "auto":
            about["fields"]["names"] = "all"
        return about

    @property
    def lacking(self) -> tuple[str, ...]:
        """See the base class: a place in the hub is a path."""
        return () if self.hub else super().lacking

    def _described(self) -> str:
        """The file's name and the beginning of its sha256, which tells namesakes apart."""
        extra = [] if self.scale == 1 else [f"scale={self.scale:g}"]
        extra += [] if self.values == "absolute" else [self.values]
        extra += [] if self.gate == "prompt" else [f"gate={self.gate}"]
        name = "/".join(filter(None, (self.hub, self.subfolder))) or name_of(self.path)
        return f"checkpoint({', '.join([name, self.sha256[:8], *extra])})"

    def _place(self) -> str:
        """Where the files lie; empty without any."""
        return fetched(self.hub, self.commit, self.subfolder) if self.hub else self.path

    def parameters(self, model: TextToImage) -> list[str]:
        """Every parameter of the UNet and the text encoder."""
        return list(model.base_values)

    def ways_around(self) -> tuple[str, ...]:
        """See the base class: those of the hooks that its files hold."""
        hooks = [network for network in self._networks(content) if self._acts(network)]
        ways = (way for one in hooks for way in kind_of(one).bypassed_by)
        return tuple(dict.fromkeys(ways))

    def check_base(self, folder: Path | None) -> None:
        """Refuses what its file tells without a run: all but the values of a file above 512 MiB, and sums too large.

        A file that is not there is left to the run: where the edit is made already, nothing needs
        it. The base's values are taken in float32; in a suite of another precision the run tells
        whether anything of the edit is left.

        Args:
            folder: The base's pipeline folder; without one, the file is checked by itself.

        Raises:
            UsageError: the file is not what was expected, or does not suit the base.
        """
        with _called(self.name):
            if not self._is_here():
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
            for network in found:  # all of it: the search for a difference ends at the first
                for path in network.files if cheap else ():
                    sound(path)
            if cheap and not (self._hooks(found) or any(True for _ in self._edited(base, laid))):
                raise self._no_edit()

    def _is_here(self) -> bool:
        """Whether there is anything to look at: an edit that is made already needs no file."""
        if not self.hub:
            return bool(self.path) and is_there(self.path)
        # With its sha256 given, nothing is downloaded for a plan.
        return is_cached(self.hub, self.commit, self.subfolder)

    def remarks(self, folder: Path | None) -> tuple[str, ...]:
        """Says what the files hold, where that is a part of a network; and that they name another base.

        Raises:
            UsageError: the files are not what was expected.
        """
        if not self._is_here():
            return ()
        with _called(self.name):
            base = None if folder is None else Base.of_folder(folder)
            found = self._networks(content)
            lines = [line for network in found for line in other_base(network, folder)]
            if base is not None and (part := self._in_part(base, found)):
                lines.append(f"{self._place()} holds {part}; the others stay the base's")
        return tuple(f"{self.name}: {line}" for line in lines)

    def compared(self, base: Base) -> tuple[str, list[Change]]:
        """Says what the files hold of the base's networks, and how much they change of each part's parameters.

        Raises:
            UsageError: the files are not what was expected, or do not suit the base.
        """
        with _called(self.name):
            changes = Changes()
            found = self._networks(content)
            laid = self._laid(base, found)
            for _ in self._edited(base, laid, changes):
                pass
            return self._held(base, found, laid), changes.of(base)

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The model with the parameters of the file that differ from its own.

        Raises:
            UsageError: the file is not there, or not what was expected.
        """
        with _called(self.name):
            if not self.path and not self.hub:
                raise UsageError("expected the path of an edited model as `path`, got none")
            base = Base.of_model(model)
            edited: dict[str, Tensor] = {}
            changes = Changes()
            found = self._networks(file_sha256)
            laid = self._laid(base, found)
            for name, value in self._edited(base, laid, changes):
                own = model.parameter(name).dtype
                if not bool(value.to(own).isfinite().all()):
                    raise UsageError(
                        f"expected values that {own} can hold, got larger ones in {name} of "
                        f"{self._place()}; run the suite in float32"
                    )
                edited[name] = value
            ctx.progress(1, 1, self.name)
            hooks = self._hooks(found)
            if not edited and not hooks:
                raise self._no_edit()
            ctx.note(holds=self._held(base, found, laid), changed=in_words(changes.of(base)))
            made = model.with_weights(edited)
            for network in hooks:
                made = made.with_hook(*hook_of(model, base.shapes, network))
            return made

    def _networks(self, digest: Callable[[Path], str]) -> list[Network]:
        place = self._place()
        files = files_of(place)
        if (found := content_of(files, digest)) != self.sha256:
            raise UsageError(
                f"expected {place} with sha256 {self.sha256[:12]}, got {found[:12]}: it has "
                "changed; restore it or correct `sha256`"
            )
        return networks(files, place)

    def _laid(self, base: Base, found: Sequence[Network]) -> _Laid:
        """``component.name`` of what the files hold, and what reads its new value.

        Raises:
            UsageError: names, shapes, metadata or settings are not what was expected.
        """
        laid: _Laid = {}
        for network in found:
            refuse_foreign(network, base.text_width, is_xl=base.is_xl)
            refuse_odd_numbers(network.tensors, network.origin)
            if self._acts(network):
                self._refuse_settings(network)
                check_hook(base.shapes, network)
                continue
            adapter = is_lora(network.tensors)
            one = (self._adapter if adapter else self._whole)(base, network)
            if twice := sorted(one.keys() & laid.keys()):
                raise UsageError(
                    f"expected each parameter once, got {twice[0]} in two files of {self._place()}; "
                    "give one of them"
                )
            laid |= one
        return laid

    def _acts(self, network: Network) -> bool:
        """Whether a file acts in the forward pass, and not on the parameters."""
        return is_erasers(network) or (is_gated(network) and self.gate == "prompt")

    def _hooks(self, found: Sequence[Network]) -> list[Network]:
        """The files that become hooks and change anything."""
        return [network for network in found if self._acts(network) and some_effect(network)]

    def _held(self, base: Base, found: Sequence[Network], laid: _Laid) -> str:
        """The content of the files, in words."""
        hooks = [network for network in found if self._acts(network)]
        told = [counted(base.shapes, laid.keys())] if laid else []
        told += [
            f"{kind_of(n).name} of {len(n.tensors)} tensors, for the forward pass" for n in hooks
        ]
        return ", ".join(told)

    def _refuse_settings(self, network: Network) -> None:
        """Refuses what is said of parameters, where there are none."""
        if self.scale != 1 or self.values != "absolute":
            raise UsageError(
                f"expected parameters or a LoRA for `scale` and `values`, got an adapter that acts in the "
                f"forward pass in {network.origin}; leave both out, or set `gate: open` for one with a gate"
            )

    def _adapter(self, base: Base, network: Network) -> _Laid:
        if self.values == "difference":
            raise UsageError(
                f"expected differences of parameters, got a LoRA in {network.origin}; leave `values` out"
            )

        def number(name: str) -> float:
            return float(network.value(name))

        def value(layer: Layer) -> Tensor:
            halves = network.value(layer.down), network.value(layer.up)
            return merged(base.value(layer.parameter), *halves, self.scale * layer.strength)

        found = layers(base.shapes, network.shapes, network.about, number, origin=network.origin)
        return {layer.parameter: partial(value, layer) for layer in found}

    def _whole(self, base: Base, network: Network) -> _Laid:
        if self.scale != 1 and self.values == "absolute":
            raise UsageError(
                f"expected a LoRA to scale by {self.scale:g}, got whole parameters in "
                f"{network.origin}; leave `scale` out"
            )
        names, missing = names_of(base.shapes, network)
        taken = self.names == "some" or (self.names == "auto" and is_a_part(base.shapes, names))
        lacking = [] if taken else missing
        refuse_the_other_kind(base, network, names, self.values, lacking=bool(lacking))
        if lacking:
            raise UsageError(
                f"expected the parameters of the base's {lacking[0].partition('.')[0]}, got not all "
                f"of these in {network.origin}: {len(lacking)}, e.g. {', '.join(sorted(lacking)[:3])}; "
                "give the model that it was made from as base, or set `names: some`"
            )

        def added(full: str, name: str) -> Tensor:
            own = base.value(full).double()
            return (own + self.scale * network.value(name).double()).float()

        if self.values == "difference":
            return {full: partial(added, full, name) for full, name in names.items()}
        return {full: partial(network.value, name) for full, name in names.items()}

    def _in_part(self, base: Base, found: Sequence[Network]) -> str:
        """Says what the files hold, if it is not all of the networks that they touch; empty if it is, or of a LoRA."""
        whole = [n for n in found if not is_lora(n.tensors) and not self._acts(n)]
        names = [names_of(base.shapes, network) for network in whole]
        held = {full for one, _ in names for full in one}
        return counted(base.shapes, held) if any(missing for _, missing in names) else ""

    def _edited(
        self, base: Base, laid: _Laid, changes: Changes | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """The values that differ from the base by more than the rounding of the file or of the base."""
        for name, read in laid.items():
            value = read()
            if not bool(value.isfinite().all()):
                raise UsageError(
                    f"expected finite numbers, got others in {name} with {self._place()} added; lower "
                    "`scale`, or fetch the file again"
                )
            own = base.value(name)
            apart = not alike(own, value)
            if changes is not None:
                changes.saw(name, own, value if apart else None)
            if apart:
                yield name, value

    def _no_edit(self) -> UsageError:
        return UsageError(
            f"expected an edited model, got the base itself: no parameter in {self._place()} differs "
            "from it; check that it is the edited file"
        )


@contextmanager
def _called(name: str) -> Iterator[None]:
    """Has errors begin with the method's name, once."""
    try:
        yield
    except UsageError as error:
        raise error.below(name) from error
