from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.errors import UsageError
from bench.interfaces import Concept
from bench.judges.mini import MiniJudge
from bench.model import TextToImage
from bench.report.plots import save
from tvc.method import TaskVectorErasure
from tvc.paper import figures
from tvc.paper.lab import QUICK, Lab
from tvc.paper.run import reproduce

SIZES = replace(QUICK, prompts=2, utility=6, alphas=(1.0,))
METHOD = TaskVectorErasure(steps=4, images=4, batch_size=4, rows=2, inversion_steps=3, samples=2)


def test_a_claim_is_measured_once_and_its_files_are_written(
    model: TextToImage, tmp_path: Path
) -> None:
    def run() -> list[Path]:
        return reproduce(
            model, ["heart"], which=["subsets"], method=METHOD, judge=MiniJudge(), work=tmp_path / "work",
            out=tmp_path / "out", sizes=SIZES,
        )  # fmt: skip

    written = run()
    assert [p.name for p in written] == ["subsets.csv", "subsets.png", "subsets.pdf"]
    table = pd.read_csv(tmp_path / "out" / "subsets.csv")
    assert set(table["set"]) == {"name", "indirect", "inverted"}
    assert ((table.asr >= table.asr_low) & (table.asr <= table.asr_high)).all()
    assert (table.n >= 2).all()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "work").rglob("*") if p.is_file()}
    run()
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "work").rglob("*") if p.is_file()}
    assert after == before


def test_attackers_see_other_images_and_find_other_embeddings_than_the_estimate(
    model: TextToImage, concepts: Mapping[str, Concept], tmp_path: Path
) -> None:
    lab = Lab(
        model, dict(concepts), "heart", method=METHOD, judge=MiniJudge(), folder=tmp_path, sizes=SIZES
    )  # fmt: skip
    mine, theirs = lab.images.flatten(1), lab.attackers_images.flatten(1)
    assert not any(bool((theirs == row).all(1).any()) for row in mine)
    selected, attack = lab.inversions("plain"), lab.attack("none", lab.model)
    assert not np.intersect1d(selected.vectors_RVE[:, 0, 0], attack.vectors_RVE[:, 0, 0]).size


@pytest.mark.parametrize(
    ("names", "which", "match"),
    [(["hart"], ["map"], "concept 'hart'"), (["heart"], ["mop"], "claim 'mop'")],
)
def test_unknown_names_are_told(
    model: TextToImage, tmp_path: Path, names: list[str], which: list[str], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        reproduce(
            model, names, which=which, method=METHOD, judge=MiniJudge(), work=tmp_path, out=tmp_path / "o", sizes=SIZES
        )  # fmt: skip


def robustness_table() -> pd.DataFrame:
    rows = [
        {
            "concept": "heart", "method": m, "strength": s, "set": k, "n": 24, "successes": 6, "asr": 0.25,
            "asr_low": 0.1, "asr_high": 0.4, "worst": 0.5, "accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95,
            "chosen": True, "matched": s == 1.0,
        }
        for m, s in [("none", 0.0), ("uce", 1.0), ("negative_prompt", 1.0), ("task_vector", 1.0), ("task_vector", 2.0)]
        for k in ("name", "synonyms", "indirect", "inverted")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_figures_draw(tmp_path: Path) -> None:
    diversity = pd.DataFrame(
        {
            "concept": "heart", "estimate": ["prompt", "plain", "diverse"], "embeddings": [1, 8, 12],
            "alpha": [1.0, 1.5, 2.0], "alpha_low": [0.5, 1.0, 1.5], "alpha_high": [1.5, 2.0, 2.5],
            "needed": 1.75, "covers": [False, False, True], "worst_held_out": [0.5, 0.2, 0.0], "accuracy": 0.9,
        }
    )  # fmt: skip
    side = np.linspace(0, 1, 3)
    plane = pd.DataFrame(
        [
            {
                "concept": "heart",
                "neighbour": "fish",
                "method": m,
                "x": x,
                "y": y,
                "probability": x * y,
                "inversion_x": 0.5,
            }
            for m in ("none", "uce", "task_vector")
            for x in side
            for y in side
        ]
    )
    subsets = robustness_table()[["concept", "strength", "set", "asr", "accuracy"]].assign(
        subset="all"
    )
    drawn = {
        "a": figures.robustness_figure(robustness_table()),
        "b": figures.diversity_figure(diversity),
        "c": figures.diversity_figure(diversity.assign(needed=np.inf)),
        "d": figures.subsets_figure(subsets),
        "e": figures.map_figure(plane),
    }
    for name, figure in drawn.items():
        save(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000
