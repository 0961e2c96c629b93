"""Which of the base's parameters the names of a file mean."""

from __future__ import annotations

from bench.core.errors import UsageError
from methods.released.files import PARTS, Network
from methods.released.lora import Shapes, within

__all__ = ["names_of"]

_BASE = "give the model that it was made from as base"


def names_of(known: Shapes, network: Network) -> tuple[dict[str, str], list[str]]:
    """The file's name by ``component.name``, and what of the network the file lacks.

    Raises:
        UsageError: the base has no such parameter, or one of another shape; a parameter is there
            twice.
    """
    part = network.part or _part_of(known, network)
    names: dict[str, str] = {}
    extra: list[str] = []
    for name in network.tensors:
        if name.endswith("position_ids"):
            continue  # a table of 0, 1, 2, ... that older versions stored
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
            f"expected the parameters of the base's {part}, got more than these in "
            f"{network.origin}: {len(extra)}, e.g. {', '.join(sorted(extra)[:3])}; {_BASE}"
        )
    for full, name in names.items():
        if known[full] != network.tensors[name].shape:
            raise UsageError(
                f"expected {full} of shape {known[full]}, got {network.tensors[name].shape} in "
                f"{network.origin}; {_BASE}"
            )
    missing = [n for n in known if n.startswith(f"{part}.") and n not in names]
    return names, missing


def _part_of(known: Shapes, network: Network) -> str:
    """The network that the metadata name, or that most of the names belong to."""
    if (said := network.metadata.get("component")) in PARTS:
        return said
    counts = {p: sum(within(known, p, name) is not None for name in network.tensors) for p in PARTS}
    part = max(counts, key=lambda p: counts[p])
    if not counts[part]:
        raise UsageError(
            f"expected parameters of the base's {' or '.join(PARTS)}, or a LoRA, got other names in "
            f"{network.origin}, e.g. {', '.join(sorted(network.tensors)[:3]) or 'none'}; convert "
            "the file to diffusers' names"
        )
    return part
