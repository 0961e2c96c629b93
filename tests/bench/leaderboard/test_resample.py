"""Sampling candidates again with the model: the rows' own scores come back, and others do not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from attacks.prune_or_quantise import PruneOrQuantise
from bench.core.errors import UsageError
from bench.leaderboard.protocol import plan_with
from bench.leaderboard.published_run import PublishedRun, read_run
from bench.leaderboard.resample import resample
from bench.leaderboard.resampled import Resampled
from bench.leaderboard.tensors import Tensors
from bench.model.text_to_image import TextToImage
from bench.run.cells import TrialCell
from bench.run.plan import Plan
from bench.run.store import Store
from tests.bench.leaderboard.boards import RESULTS

METHOD = "negative_prompt"  # its edit takes no time


@pytest.fixture(scope="module")
def run() -> PublishedRun:
    return read_run(RESULTS / "mini-quick")


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_with("mini-quick", METHOD)


@pytest.mark.slow
def test_scores_that_the_model_gives_come_back_and_others_are_found(
    run: PublishedRun, plan: Plan, miniature: TextToImage
) -> None:
    found = resample(run, plan, METHOD, miniature, share=0.03, seed=3)
    assert found.candidates == 9
    assert found.of == 276
    assert (found.utility, found.utility_of) == (7, 216)
    assert found.images >= 16
    assert list(found.left_out) == ["seed_search"]
    # Another processor rounds otherwise: an image or two may move, never most.
    assert len(found.apart) <= 2
    assert found.flipped <= 2
    upside_down = run.trials.assign(score=1 - run.trials["score"])
    useful = run.utility.assign(value=1 - run.utility["value"])
    lied = resample(replace(run, trials=upside_down), plan, METHOD, miniature, share=0.03, seed=3)
    assert len(lied.apart) > lied.images / 2
    kind = resample(replace(run, utility=useful), plan, METHOD, miniature, share=0.03, seed=3)
    assert len(kind.apart) >= kind.utility - 1
    with pytest.raises(UsageError, match=r"differ, e\.g\. trial negative_prompt"):
        lied.refuse(Path("entry.json"))


def test_tensors_that_are_not_published_come_from_the_store_of_the_run(
    run: PublishedRun, plan: Plan, tmp_path: Path
) -> None:
    """The store has what the run has published, so both say the same; without either an attack is left out."""
    trial = next(
        c
        for c in plan.cells
        if isinstance(c, TrialCell)
        and c.method_label == METHOD
        and c.attack.name == "concept_inversion"
    )
    rows = run.trials[run.trials["trial_digest"] == trial.digest]
    digest, store = trial.parents["attack"], Store(tmp_path / "store")
    lines = [line for line in run.candidates if line["attack_digest"] == digest]
    published = load_file(run.folder / "candidates.safetensors")

    def write(folder: Path) -> None:
        found = [{**line, "states": bool(line["states"]), "latents": False} for line in lines]
        (folder / "candidates.json").write_text(json.dumps(found))
        states = {f"states/{i}": published[line["states"]] for i, line in enumerate(lines)}
        save_file(states, folder / "candidates.safetensors")

    bare = replace(run, folder=tmp_path)  # its lines name tensors that are not there
    assert Tensors(bare).lacks(trial) == "its tensors are not published"
    assert Tensors(bare, store).lacks(trial) == "its tensors are not published"
    store.publish("attack", digest, {}, write)
    both = Tensors(run), Tensors(bare, store)
    assert [tensors.lacks(trial) for tensors in both] == ["", ""]
    numbers = [tensors.numbered(trial, rows) for tensors in both]
    assert numbers[0] == numbers[1] == list(range(len(lines)))
    for number in numbers[0]:
        (states, noise), (kept, none) = (tensors.of(trial, number) for tensors in both)
        assert states is not None
        assert kept is not None
        assert states.equal(kept.float())
        assert noise is none is None
        assert both[1].start(trial, number) == both[0].start(trial, number) == 0


def test_a_control_s_noise_comes_from_the_store_and_a_change_of_weights_from_nowhere(
    run: PublishedRun, plan: Plan, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    trial = next(
        c for c in plan.cells if isinstance(c, TrialCell) and c.attack.name == "seed_search"
    )
    said = "a control's noise, or a change of weights, is not published"
    assert Tensors(run, store).lacks(trial) == said
    noise = torch.arange(4.0).reshape(4, 1, 1)
    line = {
        "goal": "g", "prompt": "a star", "own_score": None, "queries": 1, "variant": "",
        "states": False, "latents": True, "start": 3,
    }  # fmt: skip

    def write(folder: Path) -> None:
        (folder / "candidates.json").write_text(json.dumps([line]))
        save_file({"latents/0": noise}, folder / "candidates.safetensors")

    store.publish("attack", trial.parents["attack"], {}, write)
    tensors = Tensors(run, store)
    assert tensors.lacks(trial) == ""
    states, found = tensors.of(trial, 0)
    assert states is None
    assert found is not None
    assert found.equal(noise)
    assert tensors.start(trial, 0) == 3
    weights = replace(trial, attack=PruneOrQuantise())
    assert tensors.lacks(weights) == said


def test_a_few_images_may_move_on_another_machine_and_no_more() -> None:
    one = ["trial a / star / prompts / name-000: 0.600 in the rows, 0.400 again"]
    Resampled(images=20, apart=one).refuse(Path("entry.json"))
    with pytest.raises(UsageError, match="from 19 images sampled again, and 1 differ"):
        Resampled(images=19, apart=one).refuse(Path("entry.json"))


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(
    run: PublishedRun, plan: Plan, miniature: TextToImage, share: float
) -> None:
    with pytest.raises(UsageError, match="expected a share above 0"):
        resample(run, plan, METHOD, miniature, share=share, seed=0)
