"""An attacker that holds the weights, or where sampling starts: what it brings goes through a whole run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from attacks.shared.prompt_file import read_prompts
from bench.config.suite import load_suite
from bench.core.digest import DamagedError
from bench.core.errors import UsageError
from bench.interfaces import Access, Attack, Candidate, Context, Goal, Target
from bench.model.text_to_image import TextToImage
from bench.report.candidates import write_candidates
from bench.run.collect import collect
from bench.run.contents import read
from bench.run.plan import make_plan
from bench.run.results import Results
from bench.run.runner import run_plan
from bench.run.stages.attack import read_candidates
from bench.run.store import Entry, Store

NAME = "unet.conv_out.weight"
_USUAL = {
    *("goal", "prompt", "own_score", "queries", "variant", "states", "latents", "trace"),
}


class Restores(Attack):
    """Takes the edit back: one difference for all goals, and a second candidate without any."""

    name: ClassVar[str] = "restores"
    access: ClassVar[Access] = Access.WEIGHTS

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        model = target.model
        back = {name: model.backbone.parameters[name] - model.parameter(name) for name in [NAME]}
        return [
            Candidate(g.id, g.prompt, weights=weights, variant=variant)
            for g in goals
            for variant, weights in (("restored", back), ("plain", None))
        ]


class Begins(Attack):
    """Lets the original model take the first step, and a second candidate starts at that noise."""

    name: ClassVar[str] = "begins"
    access: ClassVar[Access] = Access.LATENT

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        seeds = [ctx.seed(g.id) for g in goals]
        noise = target.model.noise(seeds, target.sampler)
        original = target.model.unedited
        with torch.no_grad():
            told = original.encode([g.prompt for g in goals])
            begun = original.clean_latents(told, noise, seeds, target.sampler, last=1)
        return [
            Candidate(g.id, g.prompt, latents_Chw=from_[i], start=start, variant=variant)
            for i, g in enumerate(goals)
            for variant, from_, start in (("begun", begun, 1), ("noise", noise, 0))
        ]


@pytest.fixture(scope="module")
def run(miniature: TextToImage, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Results]:
    suite = load_suite("mini-quick").with_(
        concepts=["star"], methods=["none", "destroyed"], goals=2, seeds=2, keep_images=8,
        sampler={"steps": 2, "guidance_scale": 3.0}, utility={"neighbours": 0, "others": 0},
        attacks=["prompts", "random_tokens", "seed_search", f"{__name__}:Restores",
                 f"{__name__}:Begins"],
    )  # fmt: skip
    only = ("destroyed", "none", "restores", "begins", "prompts")
    plan = make_plan(suite, miniature.backbone.digest, only=only)
    store = Store(tmp_path_factory.mktemp("weights") / "store")
    assert not run_plan(plan, store, miniature).failed
    return store, collect(plan, store)


def test_the_difference_is_stored_once_and_the_rest_as_ever(run: tuple[Store, Results]) -> None:
    store, _ = run
    for entry in store.entries("attack"):
        rows: Any = entry.read_json("candidates.json")
        if not _has_weights(entry):
            assert all(set(row) - {"start"} == _USUAL for row in rows)
            continue
        assert [row.get("weights") for row in rows] == [0, None] * 2
        tensors = load_file(entry.file("candidates.safetensors"))
        assert list(tensors) == [f"weights/0/{NAME}"]
        assert read(entry).candidates == rows


def test_it_is_sampled_on_the_edited_model_with_the_difference_added(
    run: tuple[Store, Results],
) -> None:
    """Restored, the destroyed model draws what the base draws on the same held-out seeds."""
    found = run[1]
    rows = found.trials[found.trials["judge"] == found.trials["judge"].iloc[0]]
    rows = rows.drop_duplicates(["method", "attack", "goal", "variant", "image_seed"])

    def scores(method: str, attack: str, variant: str) -> list[float]:
        mine = rows[(rows["method"] == method) & (rows["attack"] == attack)]
        mine = mine[mine["variant"] == variant] if attack == "restores" else mine
        mine = mine[mine["prompt_set"] == "name"]
        return mine.sort_values(["goal", "image_seed"])["score"].astype(float).tolist()

    restored = scores("destroyed", "restores", "restored")
    assert len(restored) == 4
    assert restored == pytest.approx(scores("none", "restores", "plain"), abs=1e-2)
    plain = scores("destroyed", "restores", "plain")
    assert plain == pytest.approx(scores("destroyed", "prompts", ""), abs=1e-2)
    assert plain != pytest.approx(restored, abs=1e-2)


def test_it_stays_in_the_store_and_the_page_says_so(
    run: tuple[Store, Results], tmp_path: Path
) -> None:
    said = write_candidates(tmp_path, [f for f in run[1].candidates if f.attack != "begins"])
    published = [json.loads(line) for line in (tmp_path / "candidates.jsonl").open()]
    assert {row["variant"] for row in published if row["attack"] == "restores"} == {"plain"}
    assert not (tmp_path / "candidates.safetensors").exists()
    assert " 4 more candidates change the model's weights: they are no prompts, and stay" in said


def test_prompts_refuses_it(run: tuple[Store, Results]) -> None:
    (entry, *_) = [e for e in run[0].entries("attack") if _has_weights(e)]
    with pytest.raises(UsageError, match=r"candidates.json:1: a candidate that changes the model"):
        read_prompts(entry.path / "candidates.json")


def _has_weights(entry: Entry) -> bool:
    rows: Any = entry.read_json("candidates.json")
    return any("weights" in row for row in rows)


def test_a_difference_that_is_not_there_is_damage(
    run: tuple[Store, Results], tmp_path: Path
) -> None:
    (entry, *_) = [e for e in run[0].entries("attack") if _has_weights(e)]
    copy = tmp_path / "copy"
    shutil.copytree(entry.path, copy)
    save_file({"other": torch.zeros(1)}, copy / "candidates.safetensors")
    moved = replace(entry, path=copy)
    with pytest.raises(DamagedError, match="expected 'weights/0', got no such tensor"):
        read(moved)


def test_a_start_is_stored_only_where_there_is_one_and_sampled_from(
    run: tuple[Store, Results],
) -> None:
    store, found = run
    (entry, *_) = entries = [e for e in store.entries("attack") if _starts(e)]
    assert [row.get("start") for row in _rows(entry)] == [1, None] * 2
    assert [c.start for c in read_candidates(entry)] == [1, 0] * 2
    assert len(entries) == 2
    rows = found.trials[found.trials["attack"] == "begins"]
    rows = rows[rows["judge"] == rows["judge"].iloc[0]].drop_duplicates(["method", "candidate"])
    scores = rows.pivot(index=["method", "goal"], columns="variant", values="score").astype(float)
    # The last of two steps is the same, whoever took the first; one step of the destroyed is too many.
    none = scores.loc["none"]
    assert none["begun"].tolist() == pytest.approx(none["noise"].tolist(), abs=1e-2)
    assert (scores.loc["destroyed"]["begun"] - none["begun"]).abs().max() > 0.1


def test_a_published_start_is_read_again(run: tuple[Store, Results], tmp_path: Path) -> None:
    write_candidates(tmp_path, run[1].candidates)
    lines = [json.loads(line) for line in (tmp_path / "candidates.jsonl").open()]
    assert {line["attack"] for line in lines if "start" in line} == {"begins"}
    starts = [row.start for row in read_prompts(tmp_path / "candidates.jsonl")]
    assert starts == [line.get("start", 0) for line in lines]
    assert sum(starts) == 4


def test_a_start_that_is_none_is_damage(run: tuple[Store, Results]) -> None:
    (entry, *_) = [e for e in run[0].entries("attack") if _starts(e)]
    for changed in ("1", -1, True):
        rows = _rows(entry)
        rows[0]["start"] = changed
        verified = {"candidates.json": json.dumps(rows).encode()}
        with pytest.raises(DamagedError, match="candidate 0: expected 'start' as it was written"):
            read(replace(entry, data=verified))


def _rows(entry: Entry) -> Any:
    return entry.read_json("candidates.json")


def _starts(entry: Entry) -> bool:
    return any("start" in row for row in _rows(entry))
