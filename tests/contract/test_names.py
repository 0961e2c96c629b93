"""Plug-ins ask for parameters by role and for everything else by the model: they spell no family's names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = re.compile(
    r"attn[12]\b|\bto_[qkv]\b|\.ff\.|\bself_attn\b|\bmlp\b|_blocks?\.|\bconv_(in|out)\."
    r"|^(unet|text_encoder|transformer)\."
)
# Files of others are read by the names that stand in them; a task vector's norms are told by block.
SPELLED = {"tvc/subset.py", "tvc/task_vector.py"}
FILES = sorted(
    name
    for folder in ("methods", "attacks", "tvc")
    for path in (ROOT / folder).rglob("*.py")
    if (name := path.relative_to(ROOT).as_posix()) not in SPELLED
    and not name.startswith(("methods/released/", "tvc/paper/"))
)


def spelled(tree: ast.Module) -> Iterator[str]:
    """Names of networks' layers in texts that are no docstrings, and uses of the networks themselves."""
    prose = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "backbone":
            yield f"line {node.lineno}: .backbone"
        if (
            isinstance(node, ast.Constant)
            and id(node) not in prose
            and isinstance(node.value, str)
            and NAMES.search(node.value)
        ):
            yield f"line {node.lineno}: {node.value!r}"


@pytest.mark.parametrize("name", FILES)
def test_a_plug_in_spells_no_familys_names(name: str) -> None:
    assert not list(spelled(ast.parse((ROOT / name).read_text())))


@pytest.mark.parametrize(
    "code",
    [
        'n.endswith("attn2.to_k.weight")',
        'f"unet.{x}"',
        "model.backbone.unet",
        'layer = ".ff.net.2"',
    ],
)
def test_the_search_finds_what_was_there(code: str) -> None:
    assert list(spelled(ast.parse(f'"""About attn2."""\n{code}\n')))
