"""Pages of the documentation that a command keeps: a marked place holds what it writes, the rest is ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from bench.core.errors import UsageError
from bench.core.files import regular

__all__ = ["kept_in"]

_END: Final = "<!-- end of what is written -->"


def kept_in(page: Path, command: str, made: str) -> str:
    """The text of a page with what a command made in the place of what it holds.

    Args:
        page: A file in Markdown.
        command: Its name marks the place: ``<!-- written by `tvc-bench COMMAND` -->``.
        made: Markdown.

    Raises:
        UsageError: the page has no such place, or several.
    """
    begin = f"<!-- written by `tvc-bench {command}` -->"
    text = regular(page).read_text(encoding="utf-8")
    place = re.compile(f"{re.escape(begin)}\n.*?{re.escape(_END)}", re.DOTALL)
    if len(place.findall(text)) != 1:
        raise UsageError(f"{page}: expected one place between {begin} and {_END}, got none or more")
    return place.sub(lambda _: f"{begin}\n\n{made}\n\n{_END}", text)
