"""Pages in Markdown and HTML from jinja2 templates that lie beside the code that fills them."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote

from bench.core.characters import visible
from bench.tables.text import NONE, markdown_text

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["html_template", "template"]


@cache
def template(package: str, name: str) -> Template:
    """The template of a package; its filter ``markdown`` escapes, and a name without a value is an error.

    Args:
        package: With dots, e.g. ``bench.report``.
        name: Of the file, e.g. ``page.md.j2``.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Nothing is HTML here: the filter escapes for Markdown, tables are Markdown already.
    environment = Environment(
        loader=PackageLoader(package, ""),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (see above)
    )
    environment.filters["markdown"] = markdown_text
    return environment.get_template(name)


@cache
def html_template(package: str, name: str) -> Template:
    """The template of a package, for HTML: every text is escaped, and a name without a value is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package, ""),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {}  # in the order that was given: Bokeh reads on
    environment.filters["visible"] = visible
    environment.filters["number"] = _number
    environment.filters["sought"] = _sought
    return environment.get_template(name)


def _number(value: float) -> str:
    """Two digits after the point; a dash for a number that is missing."""
    return NONE if math.isnan(value) else f"{value:.2f}"


def _sought(text: str) -> str:
    """The text without marks of HTML, for ``data-filter``.

    Where a list of choices is compared with cells, DataTables compares the markup of the one with the
    text of the other. It looks for the attribute in the first row, so each row has it.
    """
    return quote(text, safe=" /:=,;()[]+*")
