"""A suite runs on a base of two text encoders as it does on one of one: plans, searches, stores and reads back."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from bench import evaluate
from bench.mini.train.build import untrained
from tests.tiny import SUITE


@pytest.mark.slow
def test_a_suite_runs_on_a_base_of_two_text_encoders(tmp_path: Path) -> None:
    base = untrained(tmp_path / "xl", "miniature-xl")
    suite = tmp_path / "tiny.yaml"
    attack = "{concept_inversion: {images: 2, steps: 2, restarts: 1, checks: 1, draws: 1}}"
    text = SUITE.replace("attacks: [prompts,", f"attacks: [prompts, {attack},")
    suite.write_text(f"{text}base: {base}\n")
    table = evaluate(suite, store=tmp_path / "store", methods=["uce"])
    assert {"none", "destroyed", "uce"} <= set(map(str, table["method"]))
    assert not table.filter(like="error").to_numpy(dtype=float, na_value=0).any()
    stored = list((tmp_path / "store").rglob("candidates.safetensors"))
    assert stored
    for path in stored:
        with safe_open(path, "pt") as file:
            names = {name.partition("/")[0] for name in file.keys()}
            if "states" in names:
                assert file.get_tensor("states/0").shape == (32, 128 + 96)
                assert file.get_tensor("pooled/0").shape == (64,)
