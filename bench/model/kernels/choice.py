"""The choice of kernels by name: what a user may ask for, and what a run records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final, Literal, get_args

from bench.core.errors import UsageError, unknown

__all__ = ["AUTO", "KINDS", "Attention", "Kernels", "Layout", "Norms", "asked_for"]

Attention = Literal["torch", "cudnn", "flash", "efficient", "math"]
"""Of ``scaled_dot_product_attention``; ``torch`` leaves the choice to torch."""
Layout = Literal["contiguous", "channels_last"]
Norms = Literal["eager", "fused"]
"""Group norm with SiLU in residual blocks: torch's two operations, or one of our own in Triton."""

AUTO: Final = "auto"
KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "attention": get_args(Attention),
    "layout": get_args(Layout),
    "norms": get_args(Norms),
}


@dataclass(frozen=True, slots=True)
class Kernels:
    """The kernels of a denoiser and its VAE.

    Attributes:
        attention: Of the denoiser.
        layout: Of both.
        norms: Of both.
    """

    attention: Attention = "torch"
    layout: Layout = "contiguous"
    norms: Norms = "eager"

    def as_json(self) -> dict[str, str]:
        """For a run's record."""
        return asdict(self)


def asked_for(text: str) -> dict[str, str]:
    """The kernels that a user names, by kind; what is left out is measured.

    Args:
        text: ``auto``, or words such as ``flash channels_last``, in any order.

    Raises:
        UsageError: an unknown word, or two of one kind.
    """
    words = text.replace(",", " ").split()
    if words == [AUTO]:
        return {}
    found: dict[str, str] = {}
    for word in words:
        kind = next((kind for kind, names in KINDS.items() if word in names), None)
        if kind is None:
            known = [AUTO, *(name for names in KINDS.values() for name in names)]
            raise UsageError(f"--kernels: {unknown('word', word, known)}")
        if kind in found:
            raise UsageError(
                f"--kernels: expected one word of {kind}, got {found[kind]} and {word}"
            )
        found[kind] = word
    if not found:
        raise UsageError("--kernels: expected auto or words such as flash channels_last, got none")
    return found
