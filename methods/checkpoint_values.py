"""Values of an edited model against the base's: what is the same, and differences that pass for values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from bench.errors import UsageError
from bench.lazy import torch
from methods.checkpoint_base import Base
from methods.checkpoint_files import Network

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Values", "alike", "refuse_the_other_kind"]

Values = Literal["absolute", "difference"]
_LOOKS = 32  # matrices, spread over the file


def alike(mine: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors may be one, stored in the precision of each."""
    coarse, fine = sorted((mine, theirs), key=lambda w: torch.finfo(w.dtype).eps, reverse=True)
    if torch.equal(fine.to(coarse.dtype), coarse):
        return True
    if coarse.dtype == fine.dtype or fine.element_size() >= 4:
        return False
    # Both are rounded, and what was rounded twice may lie a step from what was rounded once: each
    # is within half its own spacing of the value that both are of.
    spacings = (
        torch.finfo(w.dtype).eps * w.double().abs().clamp(min=torch.finfo(w.dtype).tiny)
        for w in (coarse, fine)
    )
    return bool(((coarse.double() - fine.double()).abs() <= sum(spacings) / 2).all())


def refuse_the_other_kind(
    base: Base,
    network: Network,
    names: Mapping[str, str],
    declared: Values,
    *,
    lacking: bool,
) -> None:
    """Refuses differences that are declared values, which would destroy the base, and the reverse.

    Args:
        base: What the file is compared with.
        network: The file.
        names: The file's name of each of the base's parameters in it.
        declared: What the user says.
        lacking: The file does not hold all names, and is not said to.

    Raises:
        UsageError: most of its matrices are of the other kind.
    """
    found = _kind_of(base, network, names)
    if found is None or found == declared:
        return
    if found == "difference":
        some = " and `names: some`" if lacking else ""
        raise UsageError(
            f"expected the parameters of an edited model, got differences in {network.origin}: most "
            "of its matrices are nearer to zero than to the base's; to have them added to the "
            f"base's, set `values: difference`{some}"
        )
    raise UsageError(
        f"expected differences to be added to the base's, got parameters in {network.origin}: most "
        "of its matrices are near the base's own; leave `values` out"
    )


def _kind_of(base: Base, network: Network, names: Mapping[str, str]) -> Values | None:
    """What most of the matrices are; ``None`` where that is neither.

    An edit moves a matrix W by D. Projected on W, the value W + D is 1 + e times it and the
    difference D is e times it, where e = <D, W> / |W|² is near 0: an edit has no reason to take W
    itself away. So a file's matrix V is called a difference where it lies nearer to 0 than to W (the
    projection is below 1/2) and is small (|V| < |W|/2), and a value where W - V is both. A network
    that was trained anew is neither: it is as large as W, and has nothing in common with it.
    """
    fits = [full for full in names if len(base.shapes[full]) >= 2] or list(names)
    looked = fits[:: -(-len(fits) // _LOOKS)] if fits else []
    votes = [_vote(base.value(full), network.value(names[full])) for full in looked]
    counted = [vote for vote in votes if vote != "nothing"]
    for kind in ("difference", "absolute"):
        if 2 * counted.count(kind) > len(counted):
            return kind
    return None


def _vote(W: Tensor, V: Tensor) -> Values | Literal["neither", "nothing"]:
    W, V = W.double().flatten(), V.double().flatten()
    norm = float(W.norm())
    if not norm:
        return "nothing"
    projection = float(V @ W) / norm**2
    if projection < 0.5 and float(V.norm()) < norm / 2:
        return "difference"
    if projection > 0.5 and float((W - V).norm()) < norm / 2:
        return "absolute"
    return "neither"
