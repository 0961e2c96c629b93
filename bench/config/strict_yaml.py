"""Plain YAML, read strictly: mappings, lists, text, numbers; what two versions of YAML read differently is refused.

Scalars follow the core schema of YAML 1.2. YAML 1.1 makes something else of ``1:30:00`` (5400),
``010`` (8), ``1_000``, ``yes`` or ``2026-01-01``. No suite may hold such a surprise, so these are
refused in one line. No anchors, aliases, tags or merges: a value is written where it stands. Time
and memory are linear in the text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias

import yaml

from bench.core.characters import plain
from bench.core.errors import UsageError, shown

__all__ = ["Place", "parse_yaml"]

# The one in C reads a megabyte in half a second, the one in Python in a quarter of a minute.
_Parser: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Place: TypeAlias = tuple[str | int, ...]
Scalar: TypeAlias = str | int | float | bool | None

_MAX_DEPTH: Final = 16
_MAX_NUMBER: Final = 100
_MAX_VALUES: Final = 100_000
_CONSTANTS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
# How YAML 1.1 writes numbers where YAML 1.2 sees text or another number.
_OLD_NUMBER = re.compile(
    r"[-+]?(0[0-9_]+|0[bB][01_]+|0[xX][0-9a-fA-F_]+|0o[0-7]+|0[0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?"
    r"|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?|[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?"
    r"|\.[0-9][0-9_]*([eE][-+]?[0-9]+)?)",
    re.ASCII,
)
_OLD_TRUTH = re.compile("yes|no|on|off", re.IGNORECASE)
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt]|[ \t]+)?[0-9:.]*([ \t]*(Z|[-+][0-9:]+))?")
_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ufeff\ue000-\ufffd\U00010000-\U0010ffff]")
_OTHERS: Final = {"=": "value", "<<": "merge"}


def parse_yaml(path: Path, text: str) -> tuple[object, dict[Place, int]]:
    """The plain value of a YAML text, and the line of every key and item of it.

    Args:
        path: Where it is from, for the error.
        text: One document.

    Raises:
        UsageError: ``FILE:LINE: expected ..., got ...``.
    """
    if refused := _NOT_YAML.search(text):
        line = text.count("\n", 0, refused.start()) + 1
        raise UsageError(f"{path}:{line}: character {ord(refused[0])} is not allowed")
    reader = _Reader(text)
    try:
        return reader.document(), reader.lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        reason = f"{error.problem or error.context}"
    except (
        yaml.YAMLError,
        ValueError,
        OverflowError,
    ) as error:  # an escape that names no character
        line, reason = reader.line, str(error)
    raise UsageError(f"{path}:{line}: {reason}")


class _Reader:
    """Builds the value from the parser's events, one after the other.

    Attributes:
        lines: Of every key and item so far, counted from 1.
    """

    def __init__(self, text: str) -> None:
        self.lines: dict[Place, int] = {(): 1}
        self._parser = _Parser(text)
        self._event: Any = None
        self._values = 0

    @property
    def line(self) -> int:
        """Where the last sound part of the text ends."""
        return self._event.end_mark.line + 1 if self._event else 1

    def document(self) -> object:
        """The one document's value; ``None`` where there is none."""
        self._next()  # the stream begins
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        self.lines[()] = self._next().start_mark.line + 1
        value = self._value(())
        self._next()
        if not isinstance(self._next(), yaml.StreamEndEvent):
            _wrong("expected one document, but found another document", self._event)
        return value

    def _next(self) -> Any:
        self._event = self._parser.get_event()
        return self._event

    def _value(self, at: Place) -> object:
        """The value that the current event begins; afterwards its last event is the current one."""
        self._refuse_what_is_not_plain(len(at))
        self._values += 1
        if self._values > _MAX_VALUES:
            _wrong(f"expected at most {_MAX_VALUES:,} values, got more", self._event)
        match self._event:
            case yaml.ScalarEvent():
                return _scalar(self._event)
            case yaml.SequenceStartEvent():
                return list(self._items(at))
        result: dict[str, object] = {}
        while not isinstance(self._next(), yaml.MappingEndEvent):
            key = self._key(len(at) + 1)
            if key in result:
                first = self.lines[(*at, key)]
                _wrong(
                    f"expected each key once, got {shown(key)} again (line {first})", self._event
                )
            self.lines[(*at, key)] = self._event.start_mark.line + 1
            self._next()
            result[key] = self._value((*at, key))
        return result

    def _items(self, at: Place) -> Iterator[object]:
        index = 0
        while not isinstance(self._next(), yaml.SequenceEndEvent):
            self.lines[(*at, index)] = self._event.start_mark.line + 1
            yield self._value((*at, index))
            index += 1

    def _key(self, depth: int) -> str:
        self._refuse_what_is_not_plain(depth)
        event = self._event
        if not isinstance(event, yaml.ScalarEvent):
            kind = "seq" if isinstance(event, yaml.SequenceStartEvent) else "map"
            _wrong(f"expected text or a number, got a {kind}; quote it if it is text", event)
        if _is_bare(event) and (event.value in _CONSTANTS or _OLD_TRUTH.fullmatch(event.value)):
            _wrong(f"expected text as a key, got {shown(event.value)}; quote it", event)
        key = _scalar(event)
        if not isinstance(key, str):
            _wrong(f"expected text as a key, got {shown(event.value)}; quote it", event)
        return key

    def _refuse_what_is_not_plain(self, depth: int) -> None:
        event = self._event
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            _wrong("anchors and aliases (& and *) are not allowed; write it out", event)
        if event.tag:
            _wrong(f"tags are not allowed, got {event.tag}", event)
        if depth >= _MAX_DEPTH:
            _wrong(f"expected at most {_MAX_DEPTH} levels, got more", event)


def _scalar(event: yaml.ScalarEvent) -> Scalar:
    text: str = event.value
    if not _is_bare(event):
        return _text(event)
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if (kind := _OTHERS.get(text)) or (_DATE.fullmatch(text) and (kind := "timestamp")):
        _wrong(f"expected text or a number, got a {kind}; quote it if it is text", event)
    if _OLD_TRUTH.fullmatch(text):
        _wrong(f"expected true or false, got {text}; quote it if it is text", event)
    if text[0] not in "+-.0123456789":
        return _text(event)
    if _NOT_FINITE.fullmatch(text):
        _wrong(f"expected a finite number, got {text}", event)
    old = _OLD_NUMBER.fullmatch(text)
    if len(text) > _MAX_NUMBER and (old or _FLOAT.fullmatch(text)):
        _wrong(f"expected a number of at most {_MAX_NUMBER} characters, got more", event)
    if _INTEGER.fullmatch(text):
        if abs(whole := int(text)) >= 2**63:
            _wrong(f"expected a number of at most 63 bits, got {text}", event)
        return whole
    if _FLOAT.fullmatch(text):
        if not math.isfinite(number := float(text)):
            _wrong(f"expected a finite number, got {text}", event)
        return number
    if old:
        problem = f"expected a number in plain decimal digits, got {text}; quote it if it is text"
        _wrong(problem, event)
    return _text(event)


def _text(event: yaml.ScalarEvent) -> str:
    text: str = event.value
    if any("\ud800" <= character <= "\udfff" for character in text if character > "\x7f"):
        _wrong("expected text, got a lone surrogate", event)
    try:
        return plain(text)
    except ValueError as error:
        _wrong(str(error), event)


def _is_bare(event: yaml.ScalarEvent) -> bool:
    """Whether it stands without quotes, so that it may be a number."""
    return not event.style


def _wrong(problem: str, there: Any) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=there.start_mark)
