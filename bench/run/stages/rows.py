"""Says why a row has the status that it has."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["reasons"]


def reasons(status: Sequence[str]) -> list[str]:
    """Why a row has the status ``error``; empty for the others."""
    return ["the latents or the image are not finite" if s == "error" else "" for s in status]
