"""The house: how large its parts may be, and that every room has its floor."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
SOURCES: Final = ("bench", "methods", "attacks", "tvc")

LINES: Final = 400
"""Of a file at most. The store is one thing, and longer."""

_LONGER: Final = {"bench/run/store.py"}
_WRITERS: Final = {"to_csv", "writer", "DictWriter"}

PLUG_INS: Final = ("methods/", "attacks/", "tvc/", "bench/judges/", "bench/metrics/")

_LOADS_BASES: Final = {"tvc/paper/run.py"}
"""It measures the paper's claims, and loads bases as commands do."""


def sources() -> Iterator[tuple[str, str]]:
    """Every source file, by its path from the root."""
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def test_files_are_small() -> None:
    longer = {name for name, text in sources() if text.count("\n") > LINES}
    assert longer <= _LONGER, "give a part of it a file of its own"


def test_few_files_lie_in_the_hall() -> None:
    assert len(list((ROOT / "bench").glob("*.py"))) <= 6


def test_tables_are_written_by_what_defuses_formulas() -> None:
    """A cell that begins with ``=`` is a formula to a spreadsheet: only ``as_csv`` may write CSV."""
    writers = {
        name
        for name, text in sources()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and node.attr in _WRITERS
    }
    assert writers == {"bench/tables/spreadsheet.py"}


def test_a_plan_is_made_by_small_planners() -> None:
    folder = ROOT / "bench" / "run"
    found = {}
    for path in (folder / "plan.py", *(folder / "planning").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                first = node.body[0]
                told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                body = node.body[1:] if told else node.body
                found[f"{path.name}:{node.name}"] = (node.end_lineno or 0) - body[0].lineno + 1
    assert found
    assert {name: lines for name, lines in found.items() if lines >= 40} == {}


@pytest.mark.parametrize("folder", SOURCES)
def test_nothing_is_asserted_to_be_there(folder: str) -> None:
    """A thing that may be missing has a type that says so, and code that does not ask twice."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.Assert), (
                f"{path}:{node.lineno}: raise an error, or do without"
            )


def backbones(text: str) -> list[int]:
    """The lines of code that reach for a backbone: by an attribute, a name, an argument, an import or a string."""
    found = []
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Attribute(attr="backbone") | ast.Name(id="backbone"):
                found.append(node.lineno)
            case ast.keyword(arg="backbone") | ast.arg(arg="backbone"):
                found.append(node.lineno)
            case ast.Constant(value="backbone"):
                found.append(node.lineno)
            case ast.ImportFrom(module=str(module)) if "backbone" in module.split("."):
                found.append(node.lineno)
            case ast.ImportFrom(names=names) | ast.Import(names=names):
                found += [node.lineno for name in names if "backbone" in name.name.split(".")]
    return sorted(set(found))


@pytest.mark.parametrize(
    "line",
    [
        "unet = model.backbone.unet",
        "backbone = one",
        "other = replace(model, backbone=one)",
        "def erase(backbone): ...",
        "folder = getattr(model, 'backbone').folder",
        "from bench.model.backbone import load_backbone",
        "from bench.model import backbone as loading",
        "import bench.model.backbone",
    ],
)
def test_who_reaches_for_a_backbone_is_found(line: str) -> None:
    assert backbones(f'"""Of the backbone."""\nroles = model.having(role)\n{line}\n') == [3]


def test_plug_ins_ask_the_model_and_not_its_backbone() -> None:
    """Families of bases differ behind the model, so a plug-in suits a new one as it is."""
    asked = [n for n, _ in sources() if n.startswith(PLUG_INS) and n not in _LOADS_BASES]
    assert {name.rpartition("/")[0] + "/" for name in asked} >= set(PLUG_INS)
    found = {name: backbones((ROOT / name).read_text(encoding="utf-8")) for name in asked}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_every_room_has_a_floor() -> None:
    """The layers are not exhaustive by themselves: a room that none names could import any other."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (layers,) = (
        c["layers"] for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers"
    )
    named = {room.strip() for floor in layers for room in floor.split("|")}
    rooms = {f"bench.{path.stem}" for path in (ROOT / "bench").iterdir() if _is_room(path)}
    assert named == {*rooms, "methods", "attacks", "tvc"}


def test_the_page_draws_the_floors_that_are_held() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (layers,) = (
        c["layers"] for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers"
    )
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = page.partition("cli > ")[2].partition("```")[0]
    floors = ["cli", *(floor.strip(" {}\n") for floor in drawn.split(">"))]
    held = [sorted(room.strip().removeprefix("bench.") for room in f.split("|")) for f in layers]
    assert [sorted(f.replace("/", "").split()) for f in floors] == held[
        1:
    ]  # under `python -m bench`


def _is_room(path: Path) -> bool:
    return path.name != "__init__.py" and (path.suffix == ".py" or (path / "__init__.py").is_file())
