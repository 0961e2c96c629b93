"""The choice of kernels: by name, by measurement, and what it leaves as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.core.errors import UsageError
from bench.core.rng import normal_rows
from bench.model import choosing
from bench.model.backbone import load_backbone
from bench.model.choosing import attended, attention_times, choose, gradient_step, timer_on
from bench.model.families.family import Family
from bench.model.kernels.attention import ChosenAttention
from bench.model.kernels.blocks import FusedBlock, fuse
from bench.model.kernels.choice import AUTO, Kernels, asked_for
from bench.model.regions import regions_of
from bench.model.text_to_image import TextToImage
from bench.perf.flops import operations
from bench.run.provenance import provenance

CPU = torch.device("cpu")


@pytest.fixture
def base(model: TextToImage) -> Iterator[Family]:
    """The miniature with a UNet and a VAE of the test's own."""
    parts = {name: deepcopy(getattr(model.backbone, name)) for name in ("unet", "vae")}
    yield replace(model.backbone, **parts)


def told(seconds: list[float]) -> Callable[[Callable[[], object]], float]:
    """A timer that does the work and says these seconds, one after the other; then one second each."""
    left = iter(seconds)

    def timed(work: Callable[[], object]) -> float:
        work()
        return next(left, 1.0)

    return timed


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("auto", {}),
        ("flash", {"attention": "flash"}),
        ("fused, channels_last", {"norms": "fused", "layout": "channels_last"}),
    ],
)
def test_kernels_are_named_in_any_order(text: str, asked: dict[str, str]) -> None:
    assert asked_for(text) == asked


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flahs", "unknown word 'flahs'; did you mean 'flash'"),
        ("flash math", "expected one word of attention, got flash and math"),
        ("", "expected auto or words"),
        ("auto flash", "unknown word 'auto'"),
    ],
)
def test_wrong_words_are_usage_errors(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        asked_for(text)


def test_on_a_cpu_nothing_is_chosen_and_none_can_be_named(model: TextToImage) -> None:
    assert model.backbone.kernels == Kernels(layout="channels_last")
    assert provenance(model)["kernels"] == model.backbone.kernels.as_json()
    with pytest.raises(UsageError, match="--kernels: expected a GPU to use flash on"):
        load_backbone("miniature", kernels="flash")
    with pytest.raises(UsageError, match="--kernels: unknown word"):
        load_backbone("miniature", kernels="fast")


def test_attention_is_timed_by_the_shapes_that_the_denoiser_asks_for(base: Family) -> None:
    model = TextToImage(base)
    calls = attended(model)
    layers = [m for m in base.unet.modules() if type(m).__name__ == "Attention"]
    assert sum(calls.values()) == len(layers)
    length = model.encode(["a"]).states_BLD.shape[1]
    assert {keys[2] for queries, keys, _ in calls if keys[2] != queries[2]} == {length}
    asked: list[int] = []

    def timed(work: Callable[[], object]) -> float:
        work()
        asked.append(1)
        return 1.0

    times = attention_times(calls, 2, CPU, timed)
    # These two a CPU has, and the others only a GPU.
    assert times["torch"] == times["math"] == sum(calls.values())
    assert times["cudnn"] == times["efficient"] == math.inf
    assert len(asked) >= 2 * len(calls)


def test_the_quickest_is_chosen_and_used(base: Family) -> None:
    def quick(work: Any) -> float:
        work()
        return 0.1 if work.args[0] == [SDPBackend.MATH] else 1.0

    found = choose(base, {"layout": "channels_last"}, quick, rows=1)
    assert found == base.kernels == Kernels("math", "channels_last")
    by_layout = choose(base, {"attention": "torch", "norms": "eager"}, told([1.0, 0.9]), rows=1)
    assert by_layout == base.kernels == Kernels(layout="channels_last")


def test_what_is_faster_by_noise_only_is_not_chosen(base: Family) -> None:
    found = choose(base, {"attention": "math", "norms": "eager"}, told([1.0, 0.96]), rows=1)
    assert found == Kernels("math", "contiguous")


def test_a_way_that_fails_is_not_chosen_unless_it_is_the_usual_one(
    base: Family, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[int] = []

    def fails_after(good: int) -> Callable[[Callable[[], object]], float]:
        def timed(work: Callable[[], object]) -> float:
            done.append(1)
            if len(done) > good:
                raise RuntimeError("no C compiler\nwas found")
            return 1.0

        return timed

    asked = {"attention": "torch", "norms": "eager"}
    assert choose(base, asked, fails_after(1), rows=1) == Kernels()
    assert "channels_last" in caplog.text and "no C compiler" in caplog.text
    with pytest.raises(RuntimeError, match="no C compiler"):
        choose(base, asked, fails_after(0), rows=1)


def test_what_a_kernel_cannot_do_is_done_by_another(
    base: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As plain products were asked for, and the fused kernel can do only the rest."""
    calls = attended(TextToImage(base))
    narrow = min(queries[3] for queries, _, _ in calls)
    attend = choosing._attend

    def picky(order: list[SDPBackend] | None, drawn: tuple[torch.Tensor, ...]) -> None:
        if order == [SDPBackend.FLASH_ATTENTION] and drawn[0].shape[3] > narrow:
            raise RuntimeError("no available kernel")
        attend(order, drawn)  # type: ignore[arg-type]  # three of them

    monkeypatch.setattr(choosing, "_attend", picky)
    times = attention_times(calls, 1, CPU, told([]))
    assert times["flash"] == sum(calls.values())
    assert any(queries[3] > narrow for queries, _, _ in calls)


def test_all_that_is_named_is_used_and_nothing_measured(base: Family) -> None:
    def never(work: Callable[[], object]) -> float:
        raise AssertionError("it was measured")

    asked = asked_for("channels_last eager math")
    assert choose(base, asked, never).as_json() == asked
    with pytest.raises(UsageError, match="fused needs a GPU"):
        base.use(Kernels(norms="fused"))


def test_rows_are_halved_where_memory_is_short(base: Family) -> None:
    tried: list[int] = []

    def short(work: Callable[[], torch.Tensor]) -> float:
        tried.append(len(work()))
        if tried[-1] > 1:
            raise torch.OutOfMemoryError("no memory")
        return 1.0

    choose(base, {"attention": "torch", "norms": "eager"}, short, rows=4)  # type: ignore[arg-type]  # its work gives a tensor
    assert tried == [4, 2, 1, 1]


def test_kernels_change_a_gradient_by_rounding_and_no_value(
    base: Family, model: TextToImage
) -> None:
    mine = TextToImage(base)
    wanted = gradient_step(model, 2)
    for kernels in (Kernels("math"), Kernels("math", "channels_last"), Kernels()):
        base.use(kernels)
        assert base.kernels == kernels
        torch.testing.assert_close(gradient_step(mine, 2), wanted, rtol=1e-3, atol=1e-6)
    before = model.backbone.parameters
    assert before.keys() == base.parameters.keys()
    assert all(torch.equal(value, before[name]) for name, value in base.parameters.items())


def test_a_kernel_that_was_switched_off_is_not_used(base: Family) -> None:
    """The counter of FLOPs has attention as plain products, whatever was chosen."""
    mine, x = TextToImage(base), normal_rows(base.latent_shape, [0])
    states = mine.encode(["a star"])
    base.use(Kernels())
    with torch.no_grad():
        plain = operations(lambda: mine.denoise(x, 500, states))
        base.use(Kernels("flash"))
        assert operations(lambda: mine.denoise(x, 500, states)) == plain > 0
        with sdpa_kernel(SDPBackend.MATH):
            mine.denoise(x, 500, states)
            assert not torch.backends.cuda.flash_sdp_enabled()


def test_an_exported_pipeline_is_the_librarys_own(base: Family) -> None:
    base.use(Kernels("math", "channels_last"))
    copied = TextToImage(base).to_diffusers()
    ours, theirs = (net.attn_processors.values() for net in (base.unet, copied.unet))
    assert all(isinstance(one, ChosenAttention) for one in ours)
    assert not any(isinstance(one, ChosenAttention) for one in theirs)


def test_chosen_kernels_are_compiled_whole(base: Family, model: TextToImage) -> None:
    """In one graph: what the compiler cannot look through would fall apart into pieces."""
    base.use(Kernels("math"))
    regions = {kind: next(r for r in regions_of(base.unet) if isinstance(r, kind))
               for kind in (ResnetBlock2D, BasicTransformerBlock)}  # fmt: skip
    fuse(regions.values())
    assert isinstance(regions[ResnetBlock2D], FusedBlock)
    assert regions[ResnetBlock2D] in list(regions_of(base.unet))
    torch._dynamo.reset()
    for region in regions.values():
        region.compile(backend="eager", fullgraph=True)
    found = gradient_step(TextToImage(base), 1)
    torch.testing.assert_close(found, gradient_step(model, 1), rtol=1e-3, atol=1e-6)
    torch._dynamo.reset()


def test_the_clock_warms_up_and_takes_the_best() -> None:
    runs: list[int] = []
    assert 0 <= timer_on(CPU)(lambda: runs.append(1)) < 1
    assert len(runs) > 1
    assert asked_for(AUTO) == {}
