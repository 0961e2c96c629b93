"""Sentences of docstrings, comments, pages and templates of pages are short: one idea each."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.bench.core.templates import of_html, of_markdown, texts
from tests.bench.core.test_docstrings import FOLDERS, ROOT, docstrings

MOST: Final = 25
"""Words of a sentence at most, everywhere."""

# The changelog is none of them: there a change has one sentence, however much it has to name.
PAGES: Final = ("README.md", "CONTRIBUTING.md", "results/leaderboard/README.md")
FILLING: Final = (
    "bench/perf/page.py", "bench/report/candidates.py", "bench/report/page.py", "tvc/paper/page.py",
    "tvc/paper/run.py",
)  # fmt: skip
"""Modules with sentences for the pages under ``results/``."""
TEMPLATES: Final = tuple(
    str(path.relative_to(ROOT))
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.j2"))
)

_END: Final = re.compile(r"(?<=[.!?])[)\"'”*]*\s+(?=[A-Z\"'`:*(0-9\[“])|(?<=:)\s+(?=[*-] )")
_LIST: Final = re.compile(r"^\s*([*+-]|\d+\.)\s")
_ABBREVIATIONS: Final = re.compile(r"\b(e\.g|i\.e|et al|cf|vs|Eq|Fig|Sec|Tab|No|pp?)\.")


def paragraphs(text: str) -> Iterator[str]:
    """The prose of a text: no code, no tables, no headings; an item of a list is a paragraph."""
    lines: list[str] = []
    fenced = False
    for line in [*text.splitlines(), ""]:
        if line.lstrip().startswith("```"):
            fenced = not fenced
        code = fenced or line.lstrip().startswith(("|", "#", "```", ">>>"))
        code = code or (line.startswith("    ") and not lines)
        prose = line.strip() and not code
        if (not prose or _LIST.match(line)) and lines:
            yield " ".join(lines)
            lines = []
        if prose:
            lines.append(_LIST.sub("", line).strip())


def documented(text: str) -> Iterator[str]:
    """The prose of a docstring: its code is indented by four, and so are the entries of its sections."""
    section, before = False, ""
    lines: list[str] = []
    for line in text.splitlines():
        indented = line.startswith("    ")
        section = (indented and (section or before.endswith(":"))) or (section and not line)
        if section and re.match(r"    \S+( \([^)]*\))?: ", line):
            lines += ["", line.partition(": ")[2]]
        elif section and before.endswith(":"):
            lines += ["", line.strip()]
        else:
            lines.append(line.strip() if section else line)
        before = line
    yield from paragraphs("\n".join(lines))


def comments(path: Path) -> Iterator[str]:
    """The comments of a file; those of lines that follow each other are one."""
    block: list[str] = []
    last = -1
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type != tokenize.COMMENT or re.match(
                r"#( -|!|:| type:| noqa| fmt:)", token.string
            ):
                continue
            alone = token.line.lstrip().startswith("#")
            if block and not (alone and token.start[0] == last + 1):
                yield " ".join(block)
                block = []
            block.append(token.string.lstrip("# "))
            last = token.start[0] if alone else -1
    if block:
        yield " ".join(block)


def sentences(paragraph: str) -> Iterator[str]:
    yield from _END.split(_ABBREVIATIONS.sub(r"\1", paragraph))


def words(sentence: str) -> int:
    """How many words are read: a piece of code or a link's address counts as one, a sign as none."""
    plain = re.sub(r"``.+?``|`.+?`|\]\(\S+?\)", "x", sentence)
    return sum(bool(re.search(r"\w", word)) for word in plain.split())


def prose(folder: str) -> Iterator[tuple[str, str]]:
    """Where and what every sentence of a folder is."""
    for path in sorted((ROOT / folder).rglob("*.md" if folder == "docs" else "*.py")):
        where = str(path.relative_to(ROOT))
        if folder == "docs":
            found = list(paragraphs(path.read_text(encoding="utf-8")))
        else:
            found = [p for _, text in docstrings(path) for p in documented(text)]
            found += comments(path)
        yield from ((where, sentence) for p in found for sentence in sentences(p))


def of_page(path: Path) -> list[str]:
    """The paragraphs of a page, of a template of pages, or of a module that fills one."""
    text = path.read_text(encoding="utf-8")
    match path.suffixes:
        case [".html", ".j2"]:
            return of_html(text)
        case [*_, ".j2"]:
            return list(paragraphs(of_markdown(text)))
        case [".py"]:
            return [p for said in texts(text) for p in paragraphs(said)]
        case _:
            return list(paragraphs(text))


@pytest.mark.parametrize("folder", [*FOLDERS, "docs"])
def test_no_sentence_is_longer_than_it_has_to_be(folder: str) -> None:
    found = [(words(text), where, text) for where, text in prose(folder)]
    assert found
    longer = [f for f in found if f[0] > MOST]
    assert not longer, "say it in two sentences"


@pytest.mark.parametrize("page", [*PAGES, *TEMPLATES, *FILLING])
def test_no_sentence_of_a_page_is_longer_than_it_has_to_be(page: str) -> None:
    found = [(words(text), text) for p in of_page(ROOT / page) for text in sentences(p)]
    assert found
    longer = [f for f in found if f[0] > MOST]
    assert not longer, "say it in two sentences"


def test_words_and_sentences_are_counted() -> None:
    text = "Reads `a b c` of it (Gandikota et al. 2024).  Is\nit read? Yes.\n\n    code is none\n\n"
    text += "| a | table |\n* An item.\n"
    found = [s for p in paragraphs(text) for s in sentences(p)]
    assert [words(s) for s in found] == [8, 3, 1, 2]
    args = "Returns it.\n\nArgs:\n    folder: Where it\n        lies. Or not.\n"
    assert [words(s) for p in documented(args) for s in sentences(p)] == [
        2,
        1,
        3,
        2,
    ]  # the name of the section is one


def test_templates_are_read_as_their_readers_do() -> None:
    tags = '{# Not\nshown. #}{% if a %}Of {{ n }} rows.{{ " (" ~ n ~ " lost.)" if n }}{% endif %}'
    tags += '\n{{ table(rows, "In percent") }}\n'
    assert list(paragraphs(of_markdown(tags))) == [
        "Of x rows. (x lost.) x",
        "Not shown.",
        "In percent",
    ]
    page = (
        '<style>p { x: y }</style><p title="Of it">Read <i>this</i>: <code>a b</code>.<td>{{ n }}'
    )
    assert of_html(page) == ["Of it", "Read this: `a b`.", "x"]
    assert of_html("{% macro style() %}body { font: serif; }{% endmacro %}<p>Yes.") == ["Yes."]
    assert list(texts('"""Of a module."""\na = f"{n} rows " "are read"')) == ["x rows are read"]
