from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bench.config.suite import load_suite
from bench.core.errors import UsageError
from bench.interfaces import Concept
from bench.judges.mini import MiniJudge
from bench.model.text_to_image import TextToImage
from bench.report.plots import save
from methods.uce import UCE
from tvc.method import TaskVectorErasure
from tvc.paper import figures
from tvc.paper.claims import matched_strength
from tvc.paper.frontier import frontier_figure, shapes_figure
from tvc.paper.lab import QUICK, Lab
from tvc.paper.page import page
from tvc.paper.pieces import OutOfTime
from tvc.paper.run import Study, on_a_suite, reproduce, study_of
from tvc.paper.verdicts import _front, verdicts
from tvc.subset import named_subset, subset_names

SIZES = replace(
    QUICK, prompts=1, utility=2, attack_images=2, attack_rows=1, attack_steps=2, alphas=(1.0,), subset_alphas=(2.0,),
    frontier=(1.0,), map_side=2,
)  # fmt: skip
METHOD = TaskVectorErasure(
    steps=4,
    images=4,
    batch_size=4,
    rows=2,
    inversion_steps=3,
    samples=2,
    largest=1.0,
    threshold=0.9,
    sampling_steps=1,
)


def study(model: TextToImage, concepts: Mapping[str, Concept], **changes: Any) -> Study:
    whole = Study(
        model, dict(concepts), ("heart",), {"published": METHOD}, (UCE.preset("repo-2023"),), MiniJudge(),
        SIZES, seeds=1,
    )  # fmt: skip
    return replace(whole, **changes)


def some_subsets(model: TextToImage, parameters: Iterable[str]) -> list[str]:
    """Four of the subsets; each of the others has parameters of the model, too."""
    names = subset_names(parameters)
    for name in names:
        named_subset(model, name)
    return [name for name in names if name in ("all", "mid", "cross-attention", "up_blocks.0")]


def test_a_claim_is_measured_once_and_its_files_are_written(
    model: TextToImage, concepts: Mapping[str, Concept], tmp_path: Path
) -> None:
    def run() -> list[Path]:
        return reproduce(
            study(model, concepts), ["subsets"], work=tmp_path / "work", out=tmp_path / "out", command="a `b`"
        )  # fmt: skip

    written = run()
    assert [p.name for p in written] == [
        "subsets.csv", "subsets.png", "subsets.pdf", "claims.csv", "README.md"
    ]  # fmt: skip
    assert all(p.is_file() for p in written)
    table = pd.read_csv(tmp_path / "out" / "subsets.csv")
    assert set(table["set"]) == {"name", "synonyms", "indirect", "inverted"}
    assert ((table.asr >= table.asr_low) & (table.asr <= table.asr_high)).all()
    assert (table.n >= 1).all()
    assert "Cost of an edit" in (tmp_path / "out" / "README.md").read_text()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "work").rglob("*") if p.is_file()}
    run()
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "work").rglob("*") if p.is_file()}
    assert after == before


def test_every_training_seed_draws_and_trains_anew(
    model: TextToImage, concepts: Mapping[str, Concept], tmp_path: Path
) -> None:
    one, two = (
        Lab(model, dict(concepts), "heart", method=METHOD, judge=MiniJudge(), folder=tmp_path, sizes=SIZES, seed=k)
        for k in (0, 1)
    )  # fmt: skip
    assert not torch.equal(one.images, two.images)
    name = next(iter(one.vector.deltas))
    assert not torch.equal(one.vector.deltas[name], two.vector.deltas[name])
    said = [lab.success("none", model, "name") for lab in (one, two)]
    assert len({p.parent for p in tmp_path.rglob("success-none-name.json")}) == len(said)


def test_a_suite_says_what_is_studied() -> None:
    suite = load_suite("mini-claims")
    found = study_of(suite, concepts=["zorbo"])
    assert found.concepts == ("zorbo",)
    assert [m.name for m in found.competitors] == ["uce", "negative_prompt"]
    assert list(found.vectors) == ["published", "paired"]
    assert found.vectors["published"] == TaskVectorErasure.preset("mini")
    assert found.vectors["paired"] == TaskVectorErasure.preset("mini-paired")
    assert (found.sizes.prompts, found.sizes.utility, found.seeds) == (12, 36, 3)
    families = {found.known[c].family for c in study_of(suite).concepts}
    assert families == {"object", "character", "style"}


def test_a_suite_without_a_task_vector_is_told() -> None:
    methods = ["none", "destroyed", "uce"]
    with pytest.raises(UsageError, match="expected a task_vector among the methods"):
        study_of(load_suite("mini-claims").with_(methods=methods))


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
    ("concepts", "which", "match"),
    [(["zorb"], ["map"], "concept 'zorb'; did you mean 'zorbo'"), ([], ["mop"], "claim 'mop'; did you mean 'map'")],
)  # fmt: skip
def test_unknown_names_are_told(
    tmp_path: Path, concepts: list[str], which: list[str], match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        on_a_suite("mini-claims", which, work=tmp_path, out=tmp_path / "o", concepts=concepts)


KEPT = {"none": 1.0, "uce": 0.95, "negative_prompt": 0.9}


def robustness_table(vector: float = 0.25, other: float = 0.5) -> pd.DataFrame:
    rows = [
        {
            "vector": "published", "concept": "heart", "seed": seed, "method": m, "strength": s, "set": k, "n": 24,
            "successes": round(24 * asr), "asr": asr, "asr_low": 0.0, "asr_high": 1.0, "worst": asr,
            "accuracy": KEPT.get(m, 1 - 0.1 * s / 2),
            "accuracy_low": 0.8, "accuracy_high": 1.0, "accuracy_n": 48, "accuracy_even": 0.9, "accuracy_odd": 0.8,
            "chosen": m != "task_vector" or s == 2.0,
            "matched": {1.0: "uce", 2.0: "negative_prompt"}.get(s, "") if m == "task_vector" else "",
        }
        for seed in range(3)
        for m, s, asr in [
            ("none", 0.0, 1.0), ("uce", 1.0, other), ("negative_prompt", 1.0, other), ("task_vector", 1.0, vector),
            ("task_vector", 2.0, vector),
        ]
        for k in ("name", "synonyms", "indirect", "inverted")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def diversity_table() -> pd.DataFrame:
    one = pd.DataFrame(
        {
            "vector": "published", "concept": "heart",
            "estimate": ["prompt", "plain", "diverse"], "embeddings": [1, 8, 12],
            "alpha": [1.0, 1.5, 2.0], "alpha_low": [0.5, 1.0, 1.5], "alpha_high": [1.5, 2.0, 2.5],
            "needed": 1.75, "largest": 4.0, "covers": [False, False, True], "worst_held_out": [0.5, 0.2, 0.0],
            "accuracy": 0.9,
        }
    )  # fmt: skip
    return pd.concat([one.assign(seed=k) for k in range(3)], ignore_index=True)


def said(table: pd.DataFrame, measure: str) -> tuple[float, str]:
    row = table[table.measure == measure].iloc[0]
    return round(float(row.value), 6), str(row.held)


def test_a_claim_holds_only_if_its_interval_lies_above_zero() -> None:
    better = verdicts({"robustness": robustness_table(0.25, 0.5)})
    assert list(better.columns) == [
        "claim",
        "vector",
        "measure",
        "value",
        "low",
        "high",
        "n",
        "held",
    ]
    measure = "indirect: uce - task vector at matched utility"
    assert said(better, measure) == (0.25, "yes")
    assert said(verdicts({"robustness": robustness_table(0.5, 0.25)}), measure) == (-0.25, "no")
    assert said(verdicts({"robustness": robustness_table(0.5, 0.5)}), measure) == (0.0, "open")
    assert said(better, "name: uce - task vector at matched utility") == (0.25, "")
    mixed = robustness_table(0.25, 0.5)
    worse = (mixed.seed == 1) & (mixed.method == "uce")
    mixed.loc[worse, "asr"] = 0.0
    assert said(verdicts({"robustness": mixed}), measure)[1] == "open"


def test_the_target_is_judged_at_the_chosen_strength_against_the_unedited_model() -> None:
    table = verdicts({"robustness": robustness_table(0.0)})
    at = "at the strength by Diverse Inversion"
    assert said(table, f"heart: name {at}") == (0.0, "yes")
    assert said(table, f"heart: accuracy {at}") == (0.902778, "yes")  # 130 of 144, of 1.0
    missed = verdicts({"robustness": robustness_table(0.125)})
    assert said(missed, f"heart: synonyms {at}") == (0.125, "no")


def test_coverage_and_distance_of_the_estimates() -> None:
    table = verdicts({"diversity": diversity_table()})
    assert said(table, "diverse: estimate covers what is needed") == (1.0, "")
    assert said(table, "plain: distance to what is needed") == (0.25, "")
    assert said(table, "coverage: diverse - prompt") == (1.0, "yes")
    assert said(table, "distance: plain - diverse") == (0.0, "open")
    never = diversity_table().assign(needed=np.inf)
    assert said(verdicts({"diversity": never}), "prompt: distance to what is needed")[0] == 3.0


def subsets_table() -> pd.DataFrame:
    """The whole network is robust at 2 only, where little is left; ``up`` at both, and keeps more."""
    rows = [
        {"vector": "published", "concept": "heart", "seed": seed, "subset": subset, "strength": strength, "set": k,
         "asr": asr, "accuracy": kept, "accuracy_even": kept, "accuracy_odd": kept - 0.1}
        for seed in range(3)
        for subset, strength, asr, kept in [("all", 1.0, 0.5, 1.0), ("all", 2.0, 0.0, 0.5), ("up", 1.0, 0.04, 0.9),
                                            ("up", 2.0, 0.0, 0.4), ("mid", 1.0, 0.06, 1.0)]
        for k in ("name", "inverted")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_subset_is_chosen_on_one_half_of_the_prompts_and_reported_on_the_other() -> None:
    table = verdicts({"subsets": subsets_table()})
    assert said(table, "all: accuracy where it is robust, 0 if never") == (0.4, "")
    assert said(table, "up: accuracy where it is robust, 0 if never") == (0.8, "")
    assert said(table, "mid: becomes robust at some strength") == (0.0, "")
    assert said(table, "accuracy where robust: best subset - whole network") == (0.4, "yes")


def test_the_front_is_of_all_edits_and_holds_to_the_unedited_models_accuracy() -> None:
    table = subsets_table().assign(n=10, accuracy_n=20)
    table["successes"] = (
        (table.asr * table.n).round().astype(int)
    )  # of ``up`` at 1: 0 of 10, of ``mid``: 1
    only_embeddings = (table.subset == "mid") & (table["set"] == "name")
    table.loc[only_embeddings, "successes"] = 0
    unedited = pd.DataFrame({"concept": ["heart"], "method": "none", "accuracy_odd": 0.95})
    rows = list(_front(table, unedited))
    assert {row["claim"] for row in rows} == {"front"}
    found = {row["measure"]: (round(row["value"], 3), row["n"], row["held"]) for row in rows}
    at = "heart: best accuracy where"
    assert found == {
        f"{at} prompts succeed at most 5%: mid at 1": (
            0.9,
            30,
            "yes",
        ),  # of 0.95 it is more than 90 %
        f"{at} prompts and embeddings succeed at most 5%: up at 1": (0.8, 30, "no"),
    }
    table["successes"] = 10
    nowhere = pd.DataFrame(_front(table, unedited))
    assert nowhere.measure.str.endswith(": nowhere").all()
    assert nowhere.held.tolist() == ["no", "no"]


def test_costs_are_medians_held_to_their_bars() -> None:
    costs = pd.DataFrame(
        {
            "vector": "published",
            "piece": ["vector"] * 3 + ["select-diverse", "map-none"],
            "seconds": [60.0, 80.0, 300.0, 200.0, 5.0],
            "threads": 2,
        }
    )
    table = verdicts({}, costs)
    assert [(r.value, r.low, r.high, r.n, r.held) for r in table.itertuples()] == [
        (80.0, 60.0, 300.0, 3, "yes"), (200.0, 200.0, 200.0, 1, "no")
    ]  # fmt: skip


def test_the_largest_strength_that_keeps_as_much_is_the_matched_one() -> None:
    table = robustness_table()
    assert matched_strength(table, "uce") == 1.0  # keeps 0.95 of the 0.95
    assert matched_strength(table, "negative_prompt") == 2.0  # keeps 0.90 of the 0.90
    assert (
        matched_strength(
            table.assign(accuracy=table.accuracy.where(table.method != "uce", 1.0)), "uce"
        )
        == 1.0
    )


def test_the_page_says_what_held_and_escapes_names() -> None:
    hostile = robustness_table(0.5, 0.25).replace({"concept": {"heart": "<b>|heart"}})
    text = page(verdicts({"robustness": hostile}), {"robustness": ["robustness"]}, "a|b", "run `x`")
    assert "<b>" not in text
    assert "**did not hold**" in text
    assert "`run 'x'`" in text


def frontier_table() -> pd.DataFrame:
    """Of two vectors, at 2 and 3: the first keeps 0.9 and 0.6, the second 0.1 more; embeddings end at 3."""
    rows = [
        {
            "vector": vector, "concept": "heart", "seed": seed, "method": "task_vector", "strength": alpha, "set": k,
            "n": 10, "successes": round(10 * asr), "asr": asr, "accuracy": kept + more, "retained": kept + more,
            "accuracy_n": 40, "accuracy_even": kept + more, "accuracy_odd": kept + more,
        }
        for vector, more in (("published", 0.0), ("paired", 0.1))
        for seed in range(3)
        for alpha, kept, embeddings in ((2.0, 0.9, 0.5), (3.0, 0.6, 0.0))
        for k, asr in (("name", 0.0), ("synonyms", 0.0), ("indirect", 0.0), ("inverted", embeddings))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_frontier_is_held_to_its_bars_and_vectors_are_set_against_the_first() -> None:
    table = verdicts({"frontier": frontier_table()})
    own = table[table.vector == "paired"]
    typed = "heart: retained where typed prompts succeed at most 5 %, at 2; the bar is 95%"
    embeddings = (
        "heart: retained where adaptive embeddings succeed at most 20 %, at 3; the bar is 85%"
    )
    assert said(own, typed) == (1.0, "yes")
    assert said(own, embeddings) == (0.7, "no")
    assert said(table[table.vector == "published"], typed) == (0.9, "no")
    both = table[table.vector == "paired - published"]
    for what in ("typed prompts succeed at most 5 %", "adaptive embeddings succeed at most 20 %"):
        assert said(both, f"retained where {what}, 0 if nowhere") == (0.1, "yes")


def test_each_further_vector_is_compared_within_concept_and_seed() -> None:
    better = robustness_table(0.0).assign(vector="paired")
    tables = {
        "robustness": pd.concat([robustness_table(0.25), better]),
        "diversity": pd.concat([diversity_table(), diversity_table().assign(vector="paired")]),
    }
    both = verdicts(tables).query("vector == 'paired - published'")
    saved = "inverted at the strength by Diverse Inversion: success saved"
    assert said(both, saved) == (0.25, "yes")
    assert said(both, "the last estimate covers what is needed") == (0.0, "open")


def test_what_is_of_no_vector_is_measured_once_for_all(
    model: TextToImage, concepts: Mapping[str, Concept], tmp_path: Path
) -> None:
    other = METHOD.model_copy(update={"steps": 2})
    labs = [
        Lab(model, dict(concepts), "heart", method=m, judge=MiniJudge(), folder=tmp_path, sizes=SIZES,
            common={"uce": "a"})
        for m in (METHOD, other)
    ]  # fmt: skip
    for lab in labs:
        lab.success("none", model, "name")
        lab.success("tv-1", model, "name")
    assert len(list(tmp_path.rglob("success-none-name.json"))) == 1
    assert len(list(tmp_path.rglob("success-tv-1-name.json"))) == 2
    changed = Lab(
        model, dict(concepts), "heart", method=METHOD, judge=MiniJudge(), folder=tmp_path, sizes=SIZES,
        common={"uce": "b"},
    )  # fmt: skip
    assert changed.pieces.shared != labs[0].pieces.shared  # another competitor under the same name


def test_a_study_stops_when_its_minutes_are_over_and_goes_on(
    model: TextToImage, concepts: Mapping[str, Concept], tmp_path: Path
) -> None:
    def run(minutes: float | None) -> list[Path]:
        return reproduce(
            study(model, concepts), ["losses"], work=tmp_path / "work", out=tmp_path / "out", minutes=minutes
        )  # fmt: skip

    with pytest.raises(OutOfTime, match=r"heart, seed 0: drawn-none is next"):
        run(0.0)
    assert not (tmp_path / "out").exists()
    assert run(None)[0].name == "losses.csv"
    assert run(0.0)  # all of it is there


@pytest.mark.parametrize("claim", ["frontier", "losses", "layers", "diversity", "strip"])
def test_a_claim_is_measured_for_each_vector(
    model: TextToImage,
    concepts: Mapping[str, Concept],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    claim: str,
) -> None:
    few: dict[str, Any] = {"alpha": 1.0}
    if claim == "diversity":
        few = {"inversion_steps": 2, "draws": 1, "tolerance": 1.0}
        # An embedding that shows the concept takes eighty steps; any is enough to estimate from.
        search = TaskVectorErasure.inversion
        monkeypatch.setattr(
            TaskVectorErasure, "inversion", lambda self: replace(search(self), induces=0.0)
        )
    if claim == "layers":
        monkeypatch.setattr("tvc.paper.cost.subset_names", partial(some_subsets, model))
    two = {
        "published": METHOD.model_copy(update=few),
        "other": METHOD.model_copy(update={**few, "steps": 2, "rounds": 1}),
    }
    if claim in ("layers", "diversity"):
        del two["published"]
    written = reproduce(
        study(model, concepts, vectors=two), [claim], work=tmp_path / "work", out=tmp_path / "out"
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "out" / f"{claim}.csv")
    assert set(table.vector) == set(two)
    assert all(p.stat().st_size for p in written)
    if claim == "losses":
        assert set(table["head"]) == {"object", "character", "colour", "background", "style"}
        unedited = table[table.strength == 0]
        assert (unedited.kept == unedited.n).all()
        assert unedited.n.sum() > 0
    if claim == "layers":
        assert {"only", "without"} == set(table.edited)
        assert {"all", "mid", "cross-attention", "up_blocks.0"} == set(table.subset)
        pairs = table[table.subset != "all"].groupby(["vector", "subset"]).share_of_norm
        assert np.allclose(pairs.apply(lambda x: float((x**2).sum())), 1, atol=1e-3)
    if claim == "strip":
        assert "png" not in table
        assert table.groupby(["vector", "strength"]).size().unique().tolist() == [3 + SIZES.utility]
        assert (table.asks_for == "heart").sum() == 3 * table.groupby(
            ["vector", "strength"]
        ).ngroups
    if claim == "diversity":
        assert [*dict.fromkeys(table.estimate)][:4] == ["prompt", "plain", "diverse", "round 1"]


def test_the_figures_draw(tmp_path: Path) -> None:
    diversity = diversity_table()
    side = np.linspace(0, 1, 3)
    plane = pd.DataFrame(
        [
            {
                "vector": "published",
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
    drawn = {
        "a": figures.robustness_figure(robustness_table()),
        "b": figures.diversity_figure(diversity),
        "c": figures.diversity_figure(diversity.assign(needed=np.inf)),
        "d": figures.subsets_figure(subsets_table()),
        "e": figures.map_figure(plane),
        "f": frontier_figure(frontier_table()),
        "g": shapes_figure(frontier_table().rename(columns={"vector": "shape"})),
    }
    for name, figure in drawn.items():
        save(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5_000
