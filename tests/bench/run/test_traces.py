"""How a search went reaches the rows of its own find, whatever their texts are."""

from __future__ import annotations

import pandas as pd

from bench.run.traces import SEARCH, TRACE, traces_of, with_traces


def test_two_finds_of_one_text_keep_their_own_searches() -> None:
    def find(steps: int) -> dict[str, object]:
        account = {"changed": 1, "steps": steps, "zero": 0, "bad": 0}
        return {"prompt": "withheld", "trace": account}

    found = pd.DataFrame(traces_of([find(3), find(7)], "a"), columns=[*SEARCH, *TRACE])
    rows = pd.DataFrame(
        {"attack_digest": ["a", "a", "b"], "candidate": [1, 0, 0], "prompt": ["withheld"] * 3}
    )
    steps = with_traces(rows, found)["gradient_steps"]
    assert steps.tolist()[:2] == [7, 3]
    assert pd.isna(steps[2])
