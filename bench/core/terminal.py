"""Where people read what the command line says: text as it is, and nothing in it that steers a terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from bench.core.characters import visible

__all__ = ["PlainFormatter", "Terminal"]


class Terminal(Console):
    """A console that shows names as they are: no markup, no emoji, hidden characters as escapes.

    Whatever is printed passes through :meth:`render`, tables and live bars too, so this is the one
    place that sees all of it.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of what is printed; those that move rich's own cursor stay as they are."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(visible(text), style)


class PlainFormatter(logging.Formatter):
    """A logger's line, hidden characters as escapes."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and below it the traceback if there is one."""
        return visible(super().format(record))
