"""A user's file of prompts as a suite names it, and the draws that its rows bring along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from bench.core.bounds import Count
from bench.core.errors import BRANCH, shown

__all__ = ["MOST_ROWS", "Columns", "Draw", "Draws", "Goals", "Picked", "PromptSource", "Where"]

MOST_ROWS: Final = 50_000
"""Rows of a file of prompts, at most."""

_MOST_COLUMNS: Final = 1000


def _column(value: object) -> object:
    """Says itself what a column is, so that an error names no branch of a union."""
    if isinstance(value, int) and not isinstance(value, bool):
        if 1 <= value <= _MOST_COLUMNS:
            return value
        raise ValueError(f"expected the number of a column from 1, got {value}")
    if value is None or (isinstance(value, str) and value):
        return value
    raise ValueError(f"expected the name of a column, or its number, got {shown(value)}")


def _texts(value: object) -> object:
    """One value or a list of values, as the texts that a file holds them as."""
    values = value if isinstance(value, list | tuple) else (value,)
    if not values or not all(isinstance(one, str | int | float) for one in values):
        raise ValueError(f"expected a value, or a list of values, got {shown(value)}")
    return tuple(_text(one) for one in values)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


Column = Annotated[
    str | Annotated[int, Field(ge=1, le=_MOST_COLUMNS)] | None, BeforeValidator(_column)
]
Where = Mapping[str, Annotated[tuple[str, ...], BeforeValidator(_texts)]]
"""Values by column: a row counts if its value is one of them."""
Draws = Literal["suite", "file"]
"""Whose seeds and guidance scales are sampled: the suite's, or those of the file's rows."""


class Columns(BaseModel):
    """The columns of a file by what they hold; ``None``: as its layout has them, or none.

    Attributes:
        prompt: What is sampled. A number is the place of the column, from 1, in a file whose first
            line is a row already.
        concept: The concept that a row is for.
        seed: Of the image.
        guidance: The guidance scale.
        negative: The negative prompt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: Column = None
    concept: Column = None
    seed: Column = None
    guidance: Column = None
    negative: Column = None

    @property
    def named(self) -> dict[str, str | int]:
        """The columns that were named, by meaning."""
        return {meaning: column for meaning, column in self if column is not None}


class Picked(BaseModel):
    """The part of a file of prompts that is used, and how.

    Attributes:
        columns: What its columns hold, where that is not seen from its header.
        where: The rows that count.
        draws: Whose seeds and guidance scales are sampled.
        limit: At most so many rows per concept, the first; ``None``: all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    columns: Columns = Columns()
    where: Where = Field(default_factory=dict)
    draws: Draws = "suite"
    limit: int | None = Field(None, ge=1, le=MOST_ROWS)

    def picking(self) -> dict[str, Any]:
        """The fields of this class that are not as they are by default: they decide which rows are used."""
        usual = Picked()
        fields = self.model_dump(mode="json", include=set(Picked.model_fields))
        return {k: v for k, v in fields.items() if getattr(self, k) != getattr(usual, k)}


class PromptSource(Picked):
    """A file of prompts; see ``docs/prompt-files.md``.

    Attributes:
        file: Its path.
    """

    file: str = Field(min_length=1)

    def __str__(self) -> str:
        """The name of the file and the rows that count: a table has no room for a path."""
        where = ", ".join(f"{name}: {'|'.join(values)}" for name, values in self.where.items())
        return f"{Path(self.file).name} where {where}" if where else Path(self.file).name


def _no_path(value: object) -> object:
    if isinstance(value, str) and Path(value).suffix:
        raise ValueError(
            f"expected a number, or the file of the goals as {{file: NAME}}, got {shown(value)}"
        )
    return value


def _branch(value: object) -> str:
    return BRANCH + ("file" if isinstance(value, Mapping | PromptSource) else "number")


Goals = Annotated[
    Annotated[Count, Tag(f"{BRANCH}number")] | Annotated[PromptSource, Tag(f"{BRANCH}file")],
    Discriminator(_branch),
    BeforeValidator(_no_path),
]
"""How many goals per prompt set; or the file whose rows they are."""


@dataclass(frozen=True, slots=True)
class Draw:
    """The seed, guidance scale and negative prompt that a row of a file brings; ``None``: as the suite says.

    Attributes:
        seed: Of the noise, from 0 to 2^63 - 1.
        guidance: The guidance scale.
        negative: The negative prompt; it counts where the edit has no guidance of its own.
    """

    seed: int
    guidance: float | None = None
    negative: str = ""

    def as_json(self) -> list[object]:
        """The values, for a digest."""
        return [self.seed, self.guidance, self.negative]
