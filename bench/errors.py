"""What the user got wrong, in one clear line: where, what was expected, what came, what was meant."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

__all__ = ["UsageError", "from_pydantic", "shown", "unknown"]

_SHOULD = re.compile(r"^\w+ should (be|have|match) ")


class UsageError(ValueError):
    """One clear line about what the user wrote; the command line exits with 2.

    Attributes:
        message: What was expected, what came and what to do.
        at: The path of keys and indices to the place: ``("attacks", 1, "random_tokens", "tries")``.
    """

    def __init__(self, message: str, *, at: tuple[str | int, ...] = ()) -> None:
        self.message = " ".join(message.splitlines())
        self.at = at
        place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in at).removeprefix(".")
        super().__init__(f"{place}: {self.message}" if place else self.message)

    def below(self, *path: str | int) -> UsageError:
        """The same error, its place seen from ``path`` further up."""
        return UsageError(self.message, at=(*path, *self.at))


def shown(value: object) -> str:
    """``repr``, cut to what fits on a line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def unknown(what: str, word: object, known: Iterable[str]) -> str:
    """``unknown attack 'promts'; did you mean 'prompts'? known: prompts, random_tokens``."""
    names = sorted(known)
    near = get_close_matches(word[:100], names, n=3) if isinstance(word, str) else []
    meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
    return f"unknown {what} {shown(word)}{meant} known: {', '.join(names) or 'none'}"


def from_pydantic(error: ValidationError, model: type[BaseModel]) -> UsageError:
    """The first complaint of pydantic in one line.

    Args:
        error: What pydantic raised.
        model: What it validated; its fields are the near matches of an unknown one.
    """
    first, *more = error.errors(include_url=False)
    at = tuple(first["loc"])
    got = shown(first["input"])
    context = first.get("ctx", {})
    match first["type"]:
        case "extra_forbidden":
            message = unknown("key", at[-1], _fields(model, at[:-1]))
        case "missing":
            message = "expected this key, got none"
        case "too_short":
            count = context["min_length"]
            message = f"expected at least {count} item{'s'[: count != 1]}, got {got}"
        case "literal_error":
            known = re.findall(r"'([^']*)'", context["expected"])
            near = get_close_matches(str(first["input"])[:100], known, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            message = f"expected {context['expected']}, got {got}{meant}"
        case "value_error":
            message = first["msg"].removeprefix("Value error, ")
        case _:
            message = f"{_SHOULD.sub('expected ', first['msg'])}, got {got}"
    return UsageError(f"{message} (and {len(more)} more)" if more else message, at=at)


def _fields(model: Any, path: tuple[str | int, ...]) -> list[str]:
    """The fields of the model at ``path`` below ``model``; none where that is not a model."""
    for part in path:
        field = getattr(model, "model_fields", {}).get(part)
        model = field.annotation if field else None
    return list(getattr(model, "model_fields", {}))
