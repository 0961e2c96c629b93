"""The prose of jinja2 templates and of the code that fills them, without a value in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Final

__all__ = ["of_html", "of_markdown", "texts"]

_TAG: Final = re.compile(r"\{#-?(?P<note>.*?)-?#\}|\{%.*?%\}|\{\{-?(?P<value>.*?)-?\}\}", re.DOTALL)
_TEXT: Final = re.compile(r'"((?:[^"\\]|\\.)*)"')
_INLINE: Final = frozenset({"a", "b", "i", "span"})
_SILENT: Final = frozenset({"script", "style"})
_READ: Final = frozenset({"alt", "aria-label", "title"})
"""Attributes that are read to people."""


def of_markdown(template: str) -> str:
    """The page of a template with ``x`` for every value, and below it what its tags say."""
    page, said = _filled(template)
    return "\n\n".join([page, *said])


def of_html(template: str) -> list[str]:
    """The paragraphs of a template, what its tags say and the attributes that are read to people."""
    filled, said = _filled(template)
    page = _Page()
    page.feed(filled)
    page.close()
    page.end()
    return page.paragraphs + said


def texts(code: str) -> Iterator[str]:
    """Every text of a module but its docstrings, with ``x`` for every value in it."""
    tree = ast.parse(code)
    within = {id(part) for node in ast.walk(tree) for part in _within(node)}
    for node in ast.walk(tree):
        if id(node) not in within and isinstance(node, ast.Constant | ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "x"
                for part in (node.values if isinstance(node, ast.JoinedStr) else [node])
            )


def _within(node: ast.AST) -> list[ast.expr]:
    """The parts of a text with values, and docstrings: no texts of their own."""
    if isinstance(node, ast.JoinedStr):
        return node.values
    return [node.value] if isinstance(node, ast.Expr) else []


def _filled(template: str) -> tuple[str, list[str]]:
    said: list[str] = []

    def fill(tag: re.Match[str]) -> str:
        value = (tag["value"] or "").strip()
        if value.startswith('"'):  # a text with values in it, under a condition or not
            return "x".join(_TEXT.findall(value.partition('" if ')[0] + '"'))
        said.extend([(tag["note"] or "").strip(), *_TEXT.findall(value)])
        return "x" if value else ""

    return _TAG.sub(fill, template), [text for text in said if text]


class _Page(HTMLParser):
    """Collects paragraphs: every element begins one, but for those within a line."""

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: list[str] = []
        self._line: list[str] = []
        self._silent = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent = tag in _SILENT
        self.paragraphs.extend(value for name, value in attrs if name in _READ and value)
        self._mark(tag)

    def handle_endtag(self, tag: str) -> None:
        self._silent = False
        self._mark(tag)

    def handle_data(self, data: str) -> None:
        # A macro's style sheet stands in no element; prose has no braces.
        if not self._silent and "{" not in data:
            self._line.append(data)

    def end(self) -> None:
        if text := " ".join("".join(self._line).split()):
            self.paragraphs.append(text)
        self._line = []

    def _mark(self, tag: str) -> None:
        if tag == "code":
            self._line.append("`")
        elif tag not in _INLINE:
            self.end()
