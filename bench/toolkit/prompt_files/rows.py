"""The rows of a file: what is asked of each, and which are dropped for which reason."""

from __future__ import annotations

import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeGuard

from bench.core.errors import UsageError, shown
from bench.interfaces.minors import about_minors
from bench.interfaces.prompt_source import Draw, Draws
from bench.toolkit.prompt_files.formats import KINDS
from bench.toolkit.prompt_files.meaning import Meaning
from bench.toolkit.prompt_files.table import Record, Table

__all__ = ["Dropped", "PromptRow", "rows_of"]

_LONGEST: Final = 2000
_MOST_GUIDANCE: Final = 1000.0
_MOST_STEPS: Final = 1000
_COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_COMPARED: Final = re.compile(r"(<=|>=|<|>) *(-?\d{1,15}(?:\.\d{1,15})?)")
_ERASED: Final = ("erased", "erase", "0")
_OTHERS: Final = ("others", "other", "retain", "1")
"""What published lists write beside prompts for erased concepts, and beside prompts for others."""

Split = Literal["erased", "other"]


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A prompt.

    Attributes:
        line: Where it stands in the file, from 1.
        prompt: Its text.
        concept: The concept it is for; empty: any.
        goal: Of a candidate, what it was found for; candidates of one goal are alike.
        found: Of a published candidate, the attack and the method it was found on.
        states: Of a candidate, the name of the text states to use instead of the prompt; or empty.
        latents: The name of the noise to start from; or empty.
        start: How many of the sampler's steps that noise has behind it.
        draw: How its image is sampled, where the file is asked for that.
        split: Whether it asks for an erased concept, or for one that should be left as it is.
    """

    line: int
    prompt: str
    concept: str = ""
    goal: str = ""
    found: str = ""
    states: str = ""
    latents: str = ""
    start: int = 0
    draw: Draw | None = None
    split: Split = "erased"

    @property
    def goal_id(self) -> str:
        """The name of its goal in the harness."""
        return f"file-{self.goal or self.line}"


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many rows are not used, by reason.

    Attributes:
        elsewhere: That ``where`` leaves out.
        empty: That are blank.
        minors: That may speak of minors.
    """

    elsewhere: int = 0
    empty: int = 0
    minors: int = 0


def rows_of(table: Table, meaning: Meaning, draws: Draws) -> tuple[list[PromptRow], Dropped]:
    """The rows that can be used, and how many cannot.

    Args:
        table: The file.
        meaning: What its columns hold.
        draws: Whose seeds and guidance scales are asked for.

    Raises:
        UsageError: a value is not what its column should hold; with the line.
    """
    if draws == "file" and meaning.seed is None:
        raise UsageError(
            f"{table.path}: draws: file: expected a column of seeds, got none; say columns: "
            "{seed: NAME}, or draws: suite"
        )
    dropped: Counter[str] = Counter()
    rows: list[PromptRow] = []
    known: dict[str, bool] = {}  # published lists repeat their prompts: 5,000 rows may be ten
    split = meaning.split
    where = [(name, _wanted(values)) for name, values in meaning.where.items()]
    for line, record in table.records:
        if not all(suits(record.get(name)) for name, suits in where):
            dropped["elsewhere"] += 1
            continue
        place = f"{table.path}:{line}"
        prompt = _text(place, "prompt", record.get(meaning.prompt))
        if not prompt:
            dropped["empty"] += 1
            continue
        if prompt not in known:
            known[prompt] = about_minors(prompt)
        if known[prompt]:
            dropped["minors"] += 1
            continue
        about = None if meaning.concept is None else record.get(meaning.concept)
        row = PromptRow(
            line=line,
            prompt=prompt,
            concept="" if about is None else _text(place, "concept", about),
            draw=_draw(place, record, meaning) if draws == "file" else None,
            split=_split(place, split, record.get(split)) if split else "erased",
        )
        rows.append(_candidate(place, row, record) if "goal" in record else row)
    return rows, Dropped(**dropped)


def _wanted(values: Sequence[str]) -> Callable[[object], bool]:
    """Whether a field has one of the values, or a number that is as one of them says: ``> 50``."""
    compared = [found for value in values if (found := _COMPARED.fullmatch(value.strip()))]
    equal = frozenset(map(_folded, values))

    def suits(value: object) -> bool:
        said = _folded(value)
        if said in equal or not compared:
            return said in equal
        try:
            number = float(said)
        except ValueError:
            return False
        return any(_COMPARE[one[1]](number, float(one[2])) for one in compared)

    return suits


def _folded(value: object) -> str:
    """A value as it is compared: small letters, single spaces, whole numbers without a fraction."""
    if isinstance(value, bool):
        return str(value).lower()
    text = "" if value is None else " ".join(str(value).split()).casefold()
    return text.removesuffix(".0") if re.fullmatch(r"-?\d+\.0", text) else text


def _candidate(place: str, row: PromptRow, record: Record) -> PromptRow:
    """The row with the other keys of a published candidate, which count as well."""
    if record.get("weights") is not None:
        raise UsageError(
            f"{place}: a candidate that changes the model's weights is no prompt; it is tried "
            "on other methods by `transfer` in the suite that found it, or remove the row"
        )
    texts = {}
    for key in ("goal", "attack", "method", *KINDS):
        value = record.get(key)
        if value is not None and (not _is_text(value) or len(value) > _LONGEST):
            raise UsageError(
                f"{place}: {key}: expected text of at most {_LONGEST} characters, "
                f"got {shown(value)}"
            )
        texts[key] = value or ""
    found = f"{texts['attack']} on {texts['method']}" if texts["attack"] else ""
    goal, states, latents = texts["goal"], texts["states"], texts["latents"]
    start = _start(place, record.get("start"))
    return replace(row, goal=goal, found=found, states=states, latents=latents, start=start)


def _start(place: str, value: object) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MOST_STEPS:
        raise UsageError(
            f"{place}: start: expected a whole number of steps below {_MOST_STEPS}, got {shown(value)}"
        )
    return value


def _text(place: str, what: str, value: object) -> str:
    if not _is_text(value):
        raise UsageError(f"{place}: {what}: expected text, got {shown(value)}")
    if len(value) > _LONGEST:
        raise UsageError(f"{place}: {what} of {len(value)} characters; at most {_LONGEST}")
    return value.strip()


def _is_text(value: object) -> TypeGuard[str]:
    """A string that can be written as UTF-8; half a surrogate pair, which JSON can escape, cannot."""
    if not isinstance(value, str):
        return False
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


def _split(place: str, column: str, value: object) -> Split:
    said = _folded(value)
    if said in _ERASED:
        return "erased"
    if said in _OTHERS:
        return "other"
    known = ", ".join((*_ERASED, *_OTHERS))
    raise UsageError(
        f"{place}: {column}: expected one of {known}, got {shown(value)}; choose rows by "
        f"where: {{{column}: VALUE}}"
    )


def _draw(place: str, record: Record, meaning: Meaning) -> Draw:
    """How the file says that the image of a row is sampled."""
    seed = _seed(place, record.get(meaning.seed or ""))
    said = None if meaning.guidance is None else record.get(meaning.guidance)
    guidance = _number(place, "guidance", said)
    if guidance is not None and not 0 <= guidance <= _MOST_GUIDANCE:
        raise UsageError(f"{place}: guidance: expected 0 to 1000, got {guidance}")
    away = None if meaning.negative is None else record.get(meaning.negative)
    negative = "" if away is None else _text(place, "negative", away)
    return Draw(seed, guidance, negative)


def _seed(place: str, value: object) -> int:
    """The seed in a field: digits, as a float has no room for large ones; also ``7.0``, as pandas writes it."""
    whole = re.fullmatch(r"(\d{1,19})(\.0)?", str(value).strip())
    if isinstance(value, bool) or whole is None or int(whole[1]) >= 2**63:
        raise UsageError(f"{place}: seed: expected a whole number from 0, got {shown(value)}")
    return int(whole[1])


def _number(place: str, what: str, value: Any) -> float | None:
    """The number in a field; ``None`` where it is empty."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise UsageError(f"{place}: {what}: expected a number, got {shown(value)}")
    return number
