"""Which of the base's parameters the names of a file mean, and whether those that it lacks were left out on purpose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from bench.core.errors import UsageError
from bench.model.families.roles import Role
from bench.model.families.sdxl import StableDiffusionXL
from methods.released.files import PARTS, SAID, Network
from methods.released.lora import Shapes, within

__all__ = ["counted", "is_a_part", "names_of"]

_BASE = "give the model that it was made from as base"


def names_of(known: Shapes, network: Network) -> tuple[dict[str, str], list[str]]:
    """The file's name by ``component.name``, and what the file lacks of the networks that it has names of.

    A file may hold both networks, each name with its network's before it.

    Raises:
        UsageError: the base has no such parameter, or one of another shape; a parameter is there
            twice.
    """
    usual = network.part or _part_of(known, network)
    names: dict[str, str] = {}
    extra: list[str] = []
    for name in network.tensors:
        if name.endswith("position_ids"):
            continue  # a table of 0, 1, 2, ... that older versions stored
        part = next((p for p in PARTS if not network.part and name.startswith(f"{p}.")), usual)
        if (found := within(known, part, name)) is None:
            extra.append(name)
        elif found in names:
            raise UsageError(
                f"expected each parameter once, got {names[found]} and {name} in "
                f"{network.origin}; remove one of them"
            )
        else:
            names[found] = name
    if extra:
        raise UsageError(
            f"expected the parameters of the base's {usual}, got more than these in "
            f"{network.origin}: {len(extra)}, e.g. {', '.join(sorted(extra)[:3])}; {_BASE}"
        )
    for full, name in names.items():
        if known[full] != network.tensors[name].shape:
            raise UsageError(
                f"expected {full} of shape {known[full]}, got {network.tensors[name].shape} in "
                f"{network.origin}; {_BASE}"
            )
    parts = {full.partition(".")[0] for full in names}
    missing = [n for n in known if n.partition(".")[0] in parts and n not in names]
    return names, missing


def is_a_part(known: Shapes, names: Collection[str]) -> bool:
    """Whether a file of these parameters was meant to hold some of a network, and is not incomplete.

    Of every network that it touches, it holds less than half of the parameters, or else all or none
    of each role. That is a release without the cross-attention, say.
    """
    for part in {name.partition(".")[0] for name in names}:
        own = [name for name in known if name.startswith(f"{part}.")]
        held = sum(name in names for name in own)
        if 2 * held >= len(own) and not _by_roles(own, names):
            return False
    return True


def counted(known: Shapes, names: Collection[str]) -> str:
    """``32 of 686 of the unet``, for each network that the names are of."""
    told = []
    for part in PARTS:
        own = [name for name in known if name.startswith(f"{part}.")]
        if held := sum(name in names for name in own):
            told.append(f"{held} of {len(own)} of the {part}")
    return ", ".join(told)


def _by_roles(own: list[str], names: Collection[str]) -> bool:
    held: dict[frozenset[Role], set[bool]] = defaultdict(set)
    for name in own:
        held[StableDiffusionXL.roles_of(name)].add(name in names)
    return all(len(answers) == 1 for answers in held.values())


def _part_of(known: Shapes, network: Network) -> str:
    """The network that the metadata name, or that most of the names belong to."""
    if (said := network.metadata.get("component")) in PARTS:
        return said
    counts = {p: sum(within(known, p, name) is not None for name in network.tensors) for p in PARTS}
    part = max(counts, key=lambda p: counts[p])
    if not counts[part]:
        raise UsageError(
            f"expected parameters of the base's {SAID}, or a LoRA, got other names in "
            f"{network.origin}, e.g. {', '.join(sorted(network.tensors)[:3]) or 'none'}; convert "
            "the file to diffusers' names"
        )
    return part
