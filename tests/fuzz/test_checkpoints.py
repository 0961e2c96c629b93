"""Whatever a checkpoint holds: it loads, or one clear line is raised when the plan is made."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.core.errors import UsageError
from bench.core.shipped import model_folder
from bench.interfaces import Concept, Rng, registry
from bench.model.text_to_image import TextToImage
from methods.checkpoint import Checkpoint
from methods.released.convert.convert import convert
from tests.fuzz.checkpoints import mutated

_LONGEST = 1000


def _outcome(seed: int, folder: Path, model: TextToImage) -> str:
    """``loads``, or the refusal of a plan; whatever a plan accepts is run."""
    draw = random.Random(seed)
    path = mutated(draw, folder)
    fields = {
        "path": str(path),
        "values": draw.choice(("absolute",) * 5 + ("difference",)),
        "names": draw.choice(("some", "auto")),
    }
    try:
        spec = registry.build("method", {"checkpoint": fields})
        assert isinstance(spec, Checkpoint)
        spec.check_base(model_folder())
        spec.remarks(model_folder())
    except UsageError as error:
        return str(error)
    spec(model, [Concept(text="heart")], rng=Rng(("fuzz",)))
    return "loads"


# Hypothesis draws and remembers the seeds; the mutations, one long script, are the seed's.
@settings(
    max_examples=150, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(seed=st.integers(0, 2**32))
@pytest.mark.timeout(300)
def test_a_mutated_checkpoint_loads_or_is_refused_in_one_line(
    seed: int, miniature: TextToImage, tmp_path_factory: pytest.TempPathFactory
) -> None:
    told = _outcome(seed, tmp_path_factory.mktemp("fuzz"), miniature)
    assert "\n" not in told
    assert len(told) < _LONGEST
    assert "checkpoint: checkpoint:" not in told
    assert told == "loads" or "expected" in told


def _converted(seed: int, folder: Path) -> str:
    """``converted``, or the refusal; nothing is left where there is one."""
    path = mutated(random.Random(seed), folder)
    (folder / "out").mkdir()
    try:
        told = convert(str(path), str(folder / "out" / "made.safetensors"))
    except UsageError as error:
        assert not list((folder / "out").iterdir())
        return str(error)
    assert told.tensors
    return "converted"


@settings(
    max_examples=100, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(seed=st.integers(0, 2**32))
@pytest.mark.timeout(300)
def test_a_mutated_checkpoint_is_converted_or_refused_in_one_line(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    told = _converted(seed, tmp_path_factory.mktemp("fuzz"))
    assert "\n" not in told
    assert len(told) < _LONGEST
    assert told == "converted" or "expected" in told


def test_the_mutator_makes_files_that_load_and_files_that_do_not(
    miniature: TextToImage, tmp_path: Path
) -> None:
    told = [_outcome(seed, tmp_path / str(seed), miniature) for seed in range(40)]
    assert 3 <= told.count("loads") <= 30
    assert len(set(told)) > 15  # many reasons, not one
