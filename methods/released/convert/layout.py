"""Plain names for the tensors of a file: wrappers, copies and prefixes of trainers taken off.

A file holds its parameters below ``state_dict``, ``params`` and the like, with optimisers beside them; or
below ``unet`` and ``text_encoder``, as custom diffusion saves them. Wrappers of modules put ``module.`` before
each name. A wrapper of a text encoder may hold its parts a second time. An average over training is a
copy of each parameter under another prefix. Where both are there, the plain one is taken, which is
what the authors' own scripts load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from bench.core.errors import UsageError
from methods.released.files import PARTS

__all__ = ["Names", "plain_names"]

_WRAPPERS: Final = (
    "state_dict", "model_state_dict", "params", "model", "module", "net", "weights",
)  # fmt: skip
_AVERAGES: Final = ("params_ema", "ema_state_dict", "model_ema", "ema_model", "ema")
_PREFIXES: Final = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
_ALIASES: Final = {
    "embedding.": "text_encoder.text_model.embeddings.",
    "encoder.": "text_encoder.text_model.encoder.",
    "final_layer_norm.": "text_encoder.text_model.final_layer_norm.",
}
"""What AdvUnlearn's wrapper of a text encoder calls parts of it a second time."""
_EMA: Final = ("model_ema.", "ema_model.", "ema.", "params_ema.")

Path = tuple[str, ...]


@dataclass
class Names:
    """Of each new name, the name in the raw file; and what was done to come there.

    Attributes:
        old: By new name.
        flattened: Keys that were opened.
        stripped: Prefixes that were taken off.
        left_out: What is not taken, a phrase each.
    """

    old: dict[str, str]
    flattened: list[str] = field(default_factory=list)
    stripped: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def plain_names(paths: Mapping[str, Path], origin: object) -> Names:
    """Gives the tensors of a file plain names.

    Args:
        paths: Of each name in the raw file, the keys that led to the tensor.
        origin: For errors.

    Raises:
        UsageError: it holds no tensor, or two that come to one name.
    """
    told = Names({})
    open_ = {name: path for name, path in paths.items() if path}
    while key := _wrapper(open_.values()):
        inner = {name: path[1:] for name, path in open_.items() if path[0] == key and path[1:]}
        if rest := sorted({path[0] for path in open_.values()} - {key}):
            told.left_out.append(f"{len(open_) - len(inner)} tensors of {', '.join(rest[:3])}")
        told.flattened.append(key)
        open_ = inner
    if parts := sorted({path[0] for path in open_.values() if path[0] in PARTS and path[1:]}):
        kept = {name: path for name, path in open_.items() if path[0] in parts}
        if rest := sorted({path[0] for path in open_.values()} - set(parts)):
            told.left_out.append(f"{len(open_) - len(kept)} tensors of {', '.join(rest[:3])}")
        told.flattened += parts
        open_ = kept
    for name, path in open_.items():
        new = ".".join(path)
        if (
            not new.isprintable()
        ):  # nor half a pair of surrogates, which no file can be written with
            raise UsageError(f"expected names in plain text, got {new!a} in {origin}; rename it")
        if new in told.old:
            raise UsageError(
                f"expected each name once, got {new} twice in {origin}; give the parts one by one"
            )
        told.old[new] = name
    if not told.old:
        raise UsageError(f"expected parameters, got no tensor of real numbers in {origin}")
    _strip(told, origin)
    _leave_aliases(told)
    return told


def _leave_aliases(told: Names) -> None:
    """Leaves out second names of what the file holds under its own."""
    twice = [
        name
        for name in told.old
        if any(
            name.startswith(a) and full + name.removeprefix(a) in told.old
            for a, full in _ALIASES.items()
        )
    ]
    for name in twice:
        del told.old[name]
    if twice:
        told.left_out.append(f"{len(twice)} second names of the text encoder ({twice[0]})")


def _wrapper(paths: Iterable[Path]) -> str | None:
    """The key that holds the parameters, if the top has one."""
    tops = {path[0] for path in paths if path[1:]}
    return next((key for key in (*_WRAPPERS, *_AVERAGES) if key in tops), None)


def _strip(told: Names, origin: object) -> None:
    """Takes prefixes off, within each network, as long as there are any."""
    while True:
        names = told.old
        if found := next((p for p in _PREFIXES if all(_has(n, p) for n in names)), None):
            _rename(told, partial(_without, prefix=found), origin)
        elif found := next((p for p in _EMA if any(_has(n, p) for n in names)), None):
            copies = [name for name in names if _has(name, found)]
            if len(copies) < len(names):
                told.left_out.append(f"{len(copies)} averages ({found})")
                for name in copies:
                    del names[name]
                continue
            _rename(told, partial(_without, prefix=found), origin)
        else:
            return
        told.stripped.append(found)


def _split(name: str) -> tuple[str, str]:
    """The network that a name begins with, and the rest."""
    part = next((f"{p}." for p in PARTS if name.startswith(f"{p}.")), "")
    return part, name.removeprefix(part)


def _has(name: str, prefix: str) -> bool:
    return _split(name)[1].startswith(prefix) or name.startswith(prefix)


def _without(name: str, prefix: str) -> str:
    if name.startswith(prefix):
        return name.removeprefix(prefix)
    part, rest = _split(name)
    return part + rest.removeprefix(prefix)


def _rename(told: Names, new: Callable[[str], str], origin: object) -> None:
    renamed = {new(name): old for name, old in told.old.items()}
    if len(renamed) < len(told.old):
        raise UsageError(f"expected each name once, got one twice in {origin}; remove one of them")
    told.old = renamed
