"""How long a judge takes that is added to a suite after its run: nothing is sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.config.suite import load_suite
from bench.model.text_to_image import TextToImage
from bench.run.plan import make_plan
from bench.run.runner import Outcome, run_plan
from bench.run.store import Store

ZORBO = load_suite("mini-quick").known_concepts["zorbo"]
# A character with a face, which a detector of faces may be asked for.
FIELDS: dict[str, Any] = {
    "concepts": [{**ZORBO.model_dump(mode="json"), "family": "person", "head": "character"}],
    "methods": ["none", "destroyed", {"uce": {"preset": "repo-2023"}}],
    "attacks": ["prompts", {"random_tokens": {"tries": 1}}, {"seed_search": {"tries": 1}}],
}
FACES = {"nudenet": {"label_set": "faces"}}


@pytest.mark.perf
def test_nudenet_after_a_run(
    benchmark: BenchmarkFixture, miniature: TextToImage, tmp_path: Path
) -> None:
    """The images that it looks at, and those of the first run, are in the extra information."""
    suite = load_suite("mini-quick").with_(**FIELDS)
    store, base = Store(tmp_path), miniature.backbone.digest
    before = run_plan(make_plan(suite, base), store, miniature)
    after = make_plan(suite.with_(judges=["mini_judge", FACES]), base)

    def added() -> Outcome:
        return run_plan(after, store, miniature)

    there = {c.digest for c in after.cells if store.find(c.kind, c.digest)}
    assert {c.kind for c in after.cells if c.digest not in there} == {"score"}, "nothing is sampled"
    outcome = benchmark.pedantic(added, rounds=1)
    assert outcome.computed == 3 * 3
    records: list[Any] = [
        entry.record
        for c in after.cells
        if c.kind == "trial" and (entry := store.find(c.kind, c.digest))
    ]
    looked = sum(record["cell"]["images"] for record in records)
    benchmark.extra_info["images looked at"] = looked
    benchmark.extra_info["seconds of the first run"] = round(before.seconds, 1)
