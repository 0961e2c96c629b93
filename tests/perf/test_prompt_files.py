"""How long a list of the size of COCO's takes to read, counted and looked through for minors."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.interfaces.minors import about_minors
from bench.interfaces.prompt_source import PromptSource
from bench.toolkit.prompt_files.content import PromptFile
from bench.toolkit.prompt_files.read import read_source

pytestmark = pytest.mark.perf

ROWS = 30_000
THINGS = (
    "an old dog",
    "a young man",
    "two boats",
    "a red bus",
    "a person",
    "a table",
    "a green hill",
)


def test_thirty_thousand_captions(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    lines = [
        f"{i},coco-30k,{THINGS[i % 7]} stands beside {THINGS[i // 7 % 7]} on a street with number {i},{i}"
        for i in range(ROWS)
    ]
    path = tmp_path / "coco.csv"
    path.write_text("\n".join(["case_number,source,prompt,evaluation_seed", *lines]))
    source = PromptSource(file=str(path), draws="file")

    def read() -> PromptFile:
        about_minors.cache_clear()  # as a process reads it
        return read_source(source)

    file = benchmark.pedantic(read, rounds=3, warmup_rounds=1)
    assert len(file.of("church")) == ROWS
