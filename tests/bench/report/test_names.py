"""One set of nasty names, from the suite file to every file of the report and to the terminal, and back."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from bench.config.suite import load_suite
from bench.core.shipped import clip_folder
from bench.core.terminal import Terminal
from bench.model.backbone import load_backbone
from bench.model.text_to_image import TextToImage
from bench.publish import Asked, publish
from bench.run.plan import make_plan
from bench.run.runner import Watcher, run_plan
from bench.run.store import Store
from bench.tables.headline import console_worst
from bench.tables.spreadsheet import as_cell, from_cell

NAMES = (
    "=1+1",
    "@sum",
    "-1",
    "'quoted",
    "[star]",
    "*star*",
    ":star:",
    "$x$ | `a` <b>",
    "50% a_b & {c}#",
    "مرحبا",
)
SUITE = """\
name: nasty
sampler: {steps: 1, size: 32}
methods: [none, destroyed]
attacks: [{prompts: {prompt_sets: [name]}}, {random_tokens: {tries: 1}}, {seed_search: {tries: 1}}]
judges: [{clip_zero_shot: {alternatives: [moon]}}]
surrogate: {clip_zero_shot: {alternatives: [moon], clip: OTHER}}
metrics: [drift]
goals: 1
utility: {neighbours: 0, others: 0}
keep_images: 1
concepts: """
LATEX = {
    r"\textbackslash{}": "\\", r"\textasciigrave{}": "`", r"\textless{}": "<", r"\textgreater{}": ">",
    "{[}": "[", "{*}": "*", r"\$": "$", r"\%": "%", r"\&": "&", r"\#": "#", r"\_": "_", r"\{": "{",
    r"\}": "}",
}  # fmt: skip


def another_clip(folder: Path) -> None:
    """The miniature's CLIP with another weight: a surrogate may not be the judge's network."""
    shutil.copytree(clip_folder(), folder)
    shutil.copytree(clip_folder().parent / "tokenizer", folder.parent / "tokenizer")
    weights = load_file(folder / "model.safetensors")
    weights["logit_scale"] = weights["logit_scale"] + 0.1
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, pd.DataFrame]]:
    """The folder of a report, and its worst cases."""
    folder = tmp_path_factory.mktemp("nasty")
    concepts = [{"text": name, "prompts": {"name": ["a star"]}} for name in NAMES]
    text = SUITE.replace("OTHER", json.dumps(str(folder / "other" / "clip")))
    (folder / "suite.yaml").write_text(text + json.dumps(concepts), encoding="utf-8")
    another_clip(folder / "other" / "clip")
    suite = load_suite(folder / "suite.yaml")
    base = TextToImage(load_backbone("miniature"))
    plan = make_plan(suite, base.backbone.digest, folder=base.backbone.folder)
    store = Store(folder / "store")
    outcome = run_plan(plan, store, base, Watcher())
    assert not outcome.failed
    done = publish(plan, store, Asked(str(folder / "suite.yaml")), folder=folder / "out")
    yield folder / "out", done.worst


def concepts_of(rows: list[list[str]]) -> set[str]:
    return {row[0] for row in rows} - {"all", ""}


def test_csv_gives_the_names_back_and_no_formula(report: tuple[Path, pd.DataFrame]) -> None:
    for name in ("table.csv", "worst.csv"):
        text = (report[0] / name).read_text(encoding="utf-8")
        rows = list(csv.DictReader(io.StringIO(text)))
        assert {from_cell(row["concept"]) for row in rows} - {"all"} == set(NAMES)
        frame = pd.read_csv(report[0] / name, keep_default_na=False)
        assert set(frame["concept"].map(from_cell)) - {"all"} == set(NAMES)
        for row in rows:
            assert not row["concept"].startswith(("=", "+", "-", "@"))


def test_every_text_comes_back_from_a_cell() -> None:
    for text in (*NAMES, "", "'", "''=", "+1", "\tx", "plain", "a=b"):
        assert from_cell(as_cell(text)) == text
    assert as_cell(-1.5) == -1.5, "numbers stay numbers"


@pytest.mark.parametrize("name", ["table.md", "worst.md"])
def test_markdown_gives_the_names_back(report: tuple[Path, pd.DataFrame], name: str) -> None:
    text = (report[0] / name).read_text(encoding="utf-8").replace("| all concepts", "| all")
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    plain = [[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in row] for row in cells]
    assert concepts_of(plain) == set(NAMES)
    assert not re.search(r"(?<!\\)[$`<]", text)


def test_latex_gives_the_names_back(report: tuple[Path, pd.DataFrame]) -> None:
    text = (report[0] / "table.tex").read_text(encoding="utf-8")
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    rows = [row.strip() for row in body.strip().split("\\\\\n")]
    assert not [row for row in rows if row.startswith(("[", "*"))], "they would belong to \\\\"
    first = [re.split(r"(?<!\\)&", row)[0].strip() for row in rows]
    first = [re.sub(r"^\\multirow\[[a-z]\]\{\d+\}\{\*\}\{(.*)\}$", r"\1", cell) for cell in first]
    known = re.compile("|".join(map(re.escape, LATEX)))
    plain = [known.sub(lambda found: LATEX[found[0]], cell) for cell in first if cell]
    assert {name for name in plain if not name.startswith(("\\", "all"))} == set(NAMES)


def test_the_terminal_shows_them_as_they_are(report: tuple[Path, pd.DataFrame]) -> None:
    out = Terminal()
    out.file = io.StringIO()
    out.width = 200
    pooled = report[1][(report[1]["concept"] == "all") & (report[1]["method"] == "none")]
    out.print(console_worst(pd.concat([pooled.assign(method=name) for name in NAMES])))
    shown = out.file.getvalue()
    for name in NAMES:
        assert name in shown


def test_nothing_that_is_printed_steers_the_terminal() -> None:
    out = Terminal()
    out.file = io.StringIO()
    out.print("a\x1b[2Jb\x9bc\u202ed :star: [bold]x[/bold]")
    assert out.file.getvalue() == "a\\x1b[2Jb\\x9bc\\u202ed :star: [bold]x[/bold]\n"
