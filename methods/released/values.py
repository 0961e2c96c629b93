"""Values of an edited model against the base's: what is the same, and differences that pass for values."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Literal

from bench.core.errors import UsageError
from bench.core.lazy import torch
from methods.released.base import Base
from methods.released.files import Network

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Values", "alike", "refuse_the_other_kind"]

Values = Literal["absolute", "difference"]
_LOOKS = 32  # matrices, spread over the file
_UNLIKE = 0.1  # a cosine; of unrelated matrices of 1,000 numbers it is 0.03


def alike(mine: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors may be one, stored in the precision of each."""
    coarse, fine = sorted((mine, theirs), key=lambda w: torch.finfo(w.dtype).eps, reverse=True)
    if torch.equal(fine.to(coarse.dtype), coarse):
        return True
    if coarse.dtype == fine.dtype or fine.element_size() >= 4:
        return False
    # Both are rounded, and what was rounded twice may lie a step from what was rounded once. Each
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
            "of its matrices are small and unlike the base's; to have them added to the base's, "
            f"set `values: difference`{some}"
        )
    raise UsageError(
        f"expected differences to be added to the base's, got parameters in {network.origin}: most "
        "of its matrices are near the base's own; leave `values` out"
    )


def _kind_of(base: Base, network: Network, names: Mapping[str, str]) -> Values | None:
    """Says whether most of the matrices are values or differences; ``None``: neither.

    An edit moves a matrix W by D, which has little to do with W: their cosine is near 0. So a
    file's matrix V is called a difference where it is small (|V| < |W|/2) and has nothing of W in
    it. It is called a value where it is near W (|W - V| < |W|/2). What is neither passes as
    declared. A network that was trained anew is as large as W. A pruned or a shrunken matrix is
    small, but a part of W, so that its cosine is at least |V|/|W|.
    """
    fits = [full for full in names if len(base.shapes[full]) >= 2] or list(names)
    apart = -(-len(fits) // _LOOKS)
    spread = (full for start in range(apart) for full in fits[start::apart])
    votes = (_vote(base.value(full), network.value(names[full])) for full in spread)
    counted = list(islice((vote for vote in votes if vote != "nothing"), _LOOKS))
    kinds: tuple[Values, ...] = ("difference", "absolute")
    return next((kind for kind in kinds if 2 * counted.count(kind) > len(counted)), None)


def _vote(W: Tensor, V: Tensor) -> Values | Literal["neither", "nothing"]:
    W, V = W.double().flatten(), V.double().flatten()
    whole, size = float(W.norm()), float(V.norm())
    if not whole or not size:
        return "nothing"  # no edit of this one, or no base to compare with
    cosine, share = float(V @ W) / (whole * size), size / whole
    if share < 0.5 and cosine < max(_UNLIKE, share / 2):
        return "difference"
    return "absolute" if float((W - V).norm()) < whole / 2 else "neither"
