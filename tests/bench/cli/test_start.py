"""Libraries that a command loads before it works: help nothing heavy; lists, plans and reports no network's library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from bench.core import lazy
from bench.core.lazy import no_grad
from tests.tiny import SUITE

ROOT = Path(__file__).parents[3]
LISTS = ("methods", "attacks", "judges", "metrics", "suites", "concepts", "store")
LIBRARIES = frozenset(
    {
        *("accelerate", "diffusers", "huggingface_hub", "jinja2", "matplotlib", "nudenet"),
        *("onnxruntime", "open_clip", "pandas", "pyarrow", "scipy", "tokenizers", "torch"),
        *("torchvision", "transformers"),
    }
)
TO_PLAN = LIBRARIES - {"tokenizers"}
"""A plan makes the base's tokenizer, to know whether its files are whole; that takes a twentieth of a second."""
COMMANDS = """
import json, sys
from bench.cli.main import main
for command in json.loads(sys.argv[1]):
    try:
        main(command)
    except SystemExit as end:
        assert not end.code, command
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""
PLAN = """
import json, sys
from bench.core.shipped import model_folder
from bench.run.plan import make_plan
from bench.config.suite import load_suite, suite_names
for name in suite_names():
    if not name.startswith("mini-"):
        continue  # it reads the weights of judges, which takes torch
    made = make_plan(load_suite(name), "0" * 64, folder=model_folder())
    made.check_base(model_folder())
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""
NETWORKS = TO_PLAN - {"jinja2", "matplotlib", "pandas", "pyarrow", "scipy", "torch"}
"""Those that a report has no use for: it draws, and torch reads states that attacks found."""
WATCHED = """
import os, sys
import torch

def built(network, *args, **kwargs):
    os.write(2, f"a network is built: {type(network).__qualname__}".encode())
    os._exit(77)  # nobody can catch that

torch.nn.Module.__init__ = built
"""
STATES = "{seed_search: {tries: 1}}, {concept_inversion: {images: 2, steps: 1, draws: 1, restarts: 1, checks: 1}}]"
PART = ("--only", "none", "--only", "prompts", "--only", "concept_inversion")


def loaded(code: str, *commands: Sequence[str]) -> set[str]:
    """The top packages that a process of its own has loaded at its end."""
    words = [sys.executable, "-c", code, json.dumps(commands)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = set(json.loads(done.stderr.splitlines()[-1]))
    assert "bench" in names, "the probe sees modules"
    return names


def test_help_loads_no_library_of_networks_tables_or_specs() -> None:
    assert not loaded(COMMANDS, ["--help"]) & (LIBRARIES | {"numpy", "pydantic", "yaml"})


def test_lists_and_verify_load_no_library(tmp_path: Path) -> None:
    store = ("--store", str(tmp_path))
    lists = [("ls", what, *store) for what in LISTS]
    assert not loaded(COMMANDS, *lists, ("verify", *store)) & LIBRARIES


def test_the_plan_of_every_shipped_suite_is_made_without_a_library() -> None:
    assert not loaded(PLAN) & LIBRARIES


def test_plan_loads_no_library(tmp_path: Path) -> None:
    assert not loaded(COMMANDS, ("plan", "mini-quick", "--store", str(tmp_path))) & TO_PLAN


@pytest.mark.slow
def test_report_builds_no_network(tmp_path: Path) -> None:
    """Images, scores and states are in the store: even a report with tensors reads and draws, and no more."""
    (tmp_path / "tiny.yaml").write_text(SUITE.replace("{seed_search: {tries: 1}}]", STATES))
    words = ("tiny.yaml", *PART, "--out", "report")

    def done(code: str, command: str) -> subprocess.CompletedProcess[str]:
        called = [sys.executable, "-c", code, json.dumps([[command, *words]])]
        place = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(called, cwd=tmp_path, env=place, capture_output=True, text=True)

    seen = done(WATCHED + COMMANDS, "run")
    assert (seen.returncode, "a network is built" in seen.stderr) == (77, True), (
        "the probe sees them"
    )
    made = done(COMMANDS, "run")
    assert made.returncode == 0, made.stderr
    (tmp_path / "report" / "candidates.safetensors").unlink()
    told = done(WATCHED + COMMANDS, "report")
    assert told.returncode == 0, told.stderr
    assert (tmp_path / "report" / "candidates.safetensors").is_file()
    assert not set(json.loads(told.stderr.splitlines()[-1])) & NETWORKS


def test_torch_by_way_of_bench_lazy_is_torch() -> None:
    assert lazy.torch.Tensor is torch.Tensor
    assert lazy.F.relu is torch.nn.functional.relu
    with pytest.raises(AttributeError, match="nosuch"):
        getattr(lazy.torch, "nosuch")  # noqa: B009 (mypy knows that it is not there)


def test_no_grad_is_that_of_torch() -> None:
    @no_grad
    def twice(x: torch.Tensor) -> torch.Tensor:
        """Two."""
        assert not torch.is_grad_enabled()
        return x * 2

    assert not twice(torch.ones(1, requires_grad=True)).requires_grad
    assert torch.is_grad_enabled()
    assert (twice.__name__, twice.__doc__) == ("twice", "Two.")
