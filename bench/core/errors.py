"""Errors of the user, in one clear line: where, what was expected, what came."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

__all__ = [
    "BRANCH",
    "MOST_MESSAGE",
    "UsageError",
    "did_you_mean",
    "from_pydantic",
    "in_one_line",
    "shown",
    "unknown",
]

MOST_MESSAGE: Final = 2000
"""Characters of a message, at most: whoever reads it sees it in a terminal or a log."""

BRANCH: Final = "\0"
"""Begins what pydantic calls a branch of a field that takes several kinds of values: no part of a place."""

_MOST_NAMES, _MOST_KNOWN = 1000, 1000
_SHOULD = re.compile(r"^\w+ should (be |have |)")
_TYPES = {
    "dict_type": "a mapping",
    "list_type": "a list",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "string_type": "text",
    "tuple_type": "a list",
}


class UsageError(ValueError):
    """One clear line about what the user wrote; the command line exits with 2.

    Attributes:
        message: What was expected, what came and what to do.
        at: The path of keys and indices to the place: ``("attacks", 1, "random_tokens", "tries")``.
    """

    def __init__(self, message: str, *, at: tuple[str | int, ...] = ()) -> None:
        self.message = _cut(message, MOST_MESSAGE)
        self.at = at
        parts = (f"[{p}]" if isinstance(p, int) else f".{_cut(str(p), 100)}" for p in at)
        place = "".join(parts).removeprefix(".")
        line = f"{place}: {self.message}" if place else self.message
        line = _cut(line, MOST_MESSAGE)
        super().__init__("".join(c if c.isprintable() else " " for c in line))

    def below(self, *path: str | int) -> UsageError:
        """The same error, its place seen from ``path`` further up."""
        return UsageError(self.message, at=(*path, *self.at))


def shown(value: object) -> str:
    """``repr``, cut to what fits on a line."""
    return _cut(repr(value[:60] if isinstance(value, str) else value), 60)


def in_one_line(error: BaseException) -> str:
    """The text of a library's error in one line of at most 300 characters; its kind where it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return _cut(text, 300)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def unknown(what: str, word: object, known: Iterable[str]) -> str:
    """``unknown attack 'promts'; did you mean 'prompts'? known: prompts, random_tokens``."""
    names = sorted(known)
    meant = did_you_mean(word, names) or ";"
    told = _cut(", ".join(_cut(name, 100) for name in names[:_MOST_NAMES]), _MOST_KNOWN)
    return f"unknown {what} {shown(word)}{meant} known: {told or 'none'}"


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """``; did you mean 'prompts'?``, or nothing where nothing is near."""
    if not isinstance(word, str):
        return ""
    # Long words and long lists take minutes, and are no slip of the pen.
    names = [name for name in known if len(name) <= 100][:_MOST_NAMES]
    near = get_close_matches(word[:100], names)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def from_pydantic(error: ValidationError, model: type[BaseModel]) -> UsageError:
    """The first complaint of pydantic in one line.

    Args:
        error: What pydantic raised.
        model: What it validated; its fields are the near matches of an unknown one.
    """
    first, *more = error.errors(include_url=False)
    at = tuple(p for p in first["loc"] if not (isinstance(p, str) and p.startswith(BRANCH)))
    # A bad item makes pydantic say also that its list is too short.
    more = [other for other in more if other["loc"] != first["loc"][: len(other["loc"])]]
    got = shown(first["input"])
    context = first.get("ctx", {})
    match first["type"]:
        case "extra_forbidden":
            message = unknown("key", at[-1], _fields(model, at[:-1]))
        case "missing":
            message = "expected this key, got none"
        case "too_short":
            count = context["min_length"]
            message = (
                f"expected at least {count} item{'s'[: count != 1]}, got {context['actual_length']}"
            )
        case "too_long":
            message = f"expected at most {context['max_length']} items, got more"
        case "literal_error":
            known = re.findall(r"'([^']*)'", context["expected"])
            meant = did_you_mean(first["input"], known)
            message = f"expected {context['expected']}, got {got}{meant}"
        case "value_error":
            message = first["msg"].removeprefix("Value error, ")
        case "string_pattern_mismatch":
            message = f"expected text like {context['pattern']}, got {got}"
        case other:
            told = _SHOULD.sub("", first["msg"].partition(",")[0])
            message = f"expected {_TYPES.get(other, told)}, got {got}"
    return UsageError(f"{message} (and {len(more)} more)" if more else message, at=at)


def _fields(model: Any, path: tuple[str | int, ...]) -> list[str]:
    """The fields of the model at ``path`` below ``model``; none where that is not a model."""
    for part in path:
        field = getattr(model, "model_fields", {}).get(part)
        model = _model_in(field.annotation) if field else None
    return list(getattr(model, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    """The model that a field takes, alone or beside other kinds of values."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((m for part in get_args(annotation) if (m := _model_in(part)) is not None), None)
