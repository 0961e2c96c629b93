"""Suite files with mistakes in them, made from the shipped ones."""

from __future__ import annotations

import random
import re
from typing import Final

from bench.config.suite import SUITES, suite_names

__all__ = ["mutated_suite"]

SCALARS: Final = (
    "0", "-1", "1e308", "-1e308", ".nan", ".inf", "010", "1_000", "1:30:00", "9" * 40, "2026-01-01", "yes",
    "no", "~", "null", "true", "''", "'all'", "all", "[]", "{}", "[[]]", "{a: {}}", "&a x", "*a", "!!int 3",
    "<<", "=", "~nosuchuser", "./nofolder", "/dev/zero", "/x/y", "a/b", "x" * 300, "os:getcwd", "os.path:x",
    '"\\e[2J"', '"\\0"', '"\\u202e"', "\x1b", "\u202e", ":star:", "'=cmd'", "'[star]'", "none", "miniature",
    "1000000", "1.0e-300", "16.5", "|\n  a\n  b", "'a\n\n b'", "% x", "@x", "`x`", "- - -", "? x", "{", "]",
)  # fmt: skip
_VALUE = re.compile(r"(?<=: )[^\s,{}\[\]#]+|(?<=- )[\w.:-]+|(?<=\[)[^\s,\]]+")
_WORD = re.compile(r"[\w-]+")


def mutated_suite(rng: random.Random) -> bytes:
    """The bytes of a shipped suite's file after one to four mistakes.

    Args:
        rng: Chooses; the same one gives the same file.
    """
    text = (SUITES / f"{rng.choice(suite_names())}.yaml").read_text(encoding="utf-8")
    for _ in range(rng.randint(1, 4)):
        text = rng.choice(_MISTAKES)(text, rng)
    data = text.encode("utf-8", "surrogatepass")
    return _torn(data, rng) if rng.random() < 0.1 else data


def _value(text: str, rng: random.Random) -> str:
    """A value becomes another."""
    return _replaced(text, _VALUE, rng.choice(SCALARS), rng)


def _swapped(text: str, rng: random.Random) -> str:
    """A word becomes another of the file: right names in wrong places."""
    words = _WORD.findall(text)
    return _replaced(text, _WORD, rng.choice(words), rng) if words else text


def _slip(text: str, rng: random.Random) -> str:
    """A word loses, doubles or changes a letter."""
    found = list(_WORD.finditer(text))
    if not found:
        return text
    at = rng.randrange(*rng.choice(found).span())
    return text[:at] + rng.choice(("", text[at] * 2, rng.choice("aeo_-1: \t"))) + text[at + 1 :]


def _lines(text: str, rng: random.Random) -> str:
    """A line goes, comes twice, moves, or is indented otherwise."""
    lines = text.splitlines(keepends=True)
    if not lines:
        return text
    at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
    line = lines[at]
    match rng.randrange(4):
        case 0:
            del lines[at]
        case 1:
            lines.insert(to, line)
        case 2:
            lines.insert(to, lines.pop(at))
        case _:
            lines[at] = rng.choice(("  ", " ", "\t", "- ")) + line
    return "".join(lines)


def _long(text: str, rng: random.Random) -> str:
    """Something comes very often, or nests very deeply."""
    many = rng.choice((100, 3_000))
    at = rng.randrange(len(text) + 1)
    piece = rng.choice(("[", "{a: ", "- ", "x", "- uce\n", f"  - uce: {{lam: 0.{many}}}\n", "é"))
    return text[:at] + piece * many + text[at:]


_MISTAKES: Final = (_value, _value, _value, _swapped, _slip, _lines, _long)


def _replaced(text: str, pattern: re.Pattern[str], new: str, rng: random.Random) -> str:
    found = list(pattern.finditer(text))
    if not found:
        return text
    start, end = rng.choice(found).span()
    return text[:start] + new + text[end:]


def _torn(data: bytes, rng: random.Random) -> bytes:
    """Bytes are lost or changed, or it is in another encoding."""
    at = rng.randrange(len(data) + 1)
    return rng.choice((
        data[:at],
        data[:at] + rng.randbytes(3) + data[at:],
        data[:at] + b"\x00" + data[at + 1 :],
        b"\xff\xfe" + data.decode("utf-8", "replace").encode("utf-16-le"),
    ))  # fmt: skip
