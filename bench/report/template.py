"""Pages in Markdown from jinja2 templates that lie beside the code that fills them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from bench.tables.text import markdown_text

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["template"]


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
