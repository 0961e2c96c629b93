"""The meaning of a file's columns: as a user says, else as its layout has them, else by their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench.core.errors import UsageError, did_you_mean, shown
from bench.interfaces.prompt_source import Picked
from bench.toolkit.prompt_files.layouts import Layout, layout_of
from bench.toolkit.prompt_files.table import Record, Table

__all__ = ["CLASSES", "Meaning", "meaning_of"]

CLASSES: Final = (
    *("class", "classes", "class_name", "artist", "artists", "type", "label", "label_str", "style"),
    *("label_name", "category", "categories", "object", "celebrity", "identity", "name", "target"),
)
"""Columns that look as if they named what a row is about."""

_PROMPTS: Final = ("text", "caption", "captions", "prompts", "sentence", "target_prompt")
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "concept": ("concept",),
    "seed": ("evaluation_seed", "sd_seed", "seed"),
    "guidance": ("evaluation_guidance", "sd_guidance_scale", "guidance", "guidance_scale"),
    "negative": ("negative_prompt", "negative"),
}
"""Columns of files of no known layout, by what they mean."""
_WORDS_OF_A_PROMPT: Final = 3


@dataclass(frozen=True, slots=True)
class Meaning:
    """The columns of a file by what they mean; ``None``: there is none.

    Attributes:
        prompt: What is sampled.
        concept: What a row is for.
        seed: Of the image.
        guidance: The guidance scale.
        negative: The negative prompt.
        layout: The published layout that it was seen from.
        where: The values that count, by column.
        unused: Columns that look like classes and are not used, beside one that is.
    """

    prompt: str | int
    concept: str | int | None = None
    seed: str | int | None = None
    guidance: str | int | None = None
    negative: str | int | None = None
    layout: Layout | None = None
    where: Mapping[str | int, tuple[str, ...]] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    @property
    def split(self) -> str:
        """The column that says which rows are to be kept, unless ``where`` chooses by it."""
        split = self.layout.split if self.layout else ""
        return "" if split in self.where else split

    @property
    def named(self) -> bool:
        """Whether the concept of a row is whatever concept its prompt names."""
        return bool(self.layout and self.layout.named and self.concept is None)


def meaning_of(table: Table, picked: Picked) -> Meaning:
    """The meaning of a file's columns.

    Args:
        table: The file.
        picked: What the user says of it.

    Raises:
        UsageError: no column holds prompts, one that was named is not there, or one looks like a
            class and nothing is said of it.
    """
    layout = layout_of(table.columns)
    where = {_there(table, name, "where"): values for name, values in picked.where.items()}
    found = _guessed(table, layout, where)
    for meaning, column in picked.columns.named.items():
        found[meaning] = _there(table, column, f"columns.{meaning}")
    if found.get("prompt") is None:
        raise _no_prompts(table)
    free = _classes(table, {*found.values(), *where})
    if layout is not None:
        free = ()  # what a published list has beside is known
    elif free and found.get("concept") is None:
        raise _unused_class(table, free[0])
    return Meaning(layout=layout, where=where, unused=free, **found)


def _guessed(
    table: Table, layout: Layout | None, where: Mapping[str | int, object]
) -> dict[str, Any]:
    """The meanings that the header tells by itself; a column that chooses rows names no concepts."""
    known = {
        meaning: next((n for n in names if n in table.columns), None)
        for meaning, names in _NAMES.items()
    }
    prompt = "prompt" if "prompt" in table.columns else None
    if layout is not None:
        prompt = layout.prompt
        known["concept"] = layout.concept or None
        known["seed"] = next((n for n in layout.seed if n in table.columns), None)
        known["guidance"] = next((n for n in layout.guidance if n in table.columns), None)
    found: dict[str, Any] = {"prompt": prompt, **known}
    if table.columns == (1,):
        found["prompt"] = 1  # a plain list
    if found["concept"] in where:
        found["concept"] = None
    return found


def _there(table: Table, column: str | int, place: str) -> str | int:
    """The column, if the file has it."""
    if column in table.columns:
        return column
    if isinstance(column, str) and column.isdecimal() and int(column) in table.columns:
        return int(column)  # a key of a mapping is a text
    told = _told(table.columns)
    near = did_you_mean(column, [name for name in table.columns if isinstance(name, str)])
    raise UsageError(
        f"{table.path}: {place}: expected one of its columns, got {shown(column)}{near or ';'} "
        f"they are {told}"
    )


def _classes(table: Table, used: set[str | int | None]) -> tuple[str, ...]:
    """The columns that look like classes, hold something and are not used."""
    free = [
        name
        for name in table.columns
        if isinstance(name, str) and name.strip().lower() in CLASSES and name not in used
    ]
    return tuple(name for name in free if any(_filled(table.records, name)))


def _filled(records: Sequence[tuple[int, Record]], name: str) -> Iterable[bool]:
    return (record.get(name) not in (None, "") for _, record in records)


def _unused_class(table: Table, name: str) -> UsageError:
    values = dict.fromkeys(str(record[name]) for _, record in table.records if record.get(name))
    few = ", ".join(shown(value) for value in list(values)[:3])
    first = shown(next(iter(values), ""))
    return UsageError(
        f"{table.path}: the column {shown(name)} is not used, and its {len(table.records)} rows would "
        f"all count for each concept ({len(values)} value{'s' * (len(values) != 1)}: {few}"
        f"{', ...' * (len(values) > 3)}); say columns: {{concept: {name}}} if it names concepts of the "
        f"suite, or where: {{{name}: {first}}} for the rows that count"
    )


def _no_prompts(table: Table) -> UsageError:
    """Says what to do with a file whose prompts nobody can tell."""
    names = [name for name in table.columns if isinstance(name, str)]
    known = [name for name in names if name.strip().lower() in _PROMPTS]
    if known:
        advice = f"; say columns: {{prompt: {known[0]}}}"
    elif table.header and any(len(name.split()) >= _WORDS_OF_A_PROMPT for name in names):
        place = 1 + max(range(len(names)), key=lambda i: len(names[i]))
        advice = (
            "; no header? The first line looks like a prompt: "
            f"say columns: {{prompt: {place}}}, the number of the column that holds the prompts"
        )
    elif names:
        advice = "; say which holds the prompts: columns: {prompt: NAME}"
    else:
        advice = ""
    line = f":{table.header}" if table.header else ""
    return UsageError(
        f"{table.path}{line}: expected a column named prompt, got {_told(table.columns)}{advice}"
    )


def _told(columns: Sequence[str | int]) -> str:
    """The columns, as far as they fit on a line."""
    text = ", ".join(map(str, columns)) or "none"
    return text if len(text) <= 200 else f"{text[:197]}..."
