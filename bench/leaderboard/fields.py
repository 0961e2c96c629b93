"""The fields that cards share: texts on one line, digests, rates with their denominators."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from bench.core.characters import plain

__all__ = ["Card", "Commit", "Count", "Line", "Mean", "Number", "Rate", "Sha", "Share", "Url"]


def _url(text: str) -> str:
    if text and not text.startswith("https://"):
        raise ValueError(f"expected an address that begins with https://, got {text[:60]!r}")
    return text


Line = Annotated[str, Field(max_length=2000), AfterValidator(plain)]
"""A text on one line, without characters that steer a terminal."""
Url = Annotated[Line, AfterValidator(_url)]
"""An address that begins with https://, or nothing."""
Sha = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
Count = Annotated[int, Field(ge=0, le=10**15)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class Card(BaseModel):
    """A part of a card: frozen, strict, without fields that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Rate(Card):
    """A share with its 95 % interval and its denominator.

    Attributes:
        value: In [0, 1].
        low: Lower bound; ``None`` where it cannot be estimated.
        high: Upper bound; likewise.
        of: How many goals, images or answers it is a share of.
    """

    value: Share
    low: Share | None
    high: Share | None
    of: Count


class Mean(Card):
    """A mean with the number of values behind it.

    Attributes:
        value: In the unit that its field names.
        of: How many values.
    """

    value: Number
    of: Count
