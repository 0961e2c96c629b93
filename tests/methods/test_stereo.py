from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.core.meter import Meter
from bench.core.rng import generator_for
from bench.interfaces import Concept, Rng
from bench.model.conditioning import Conditioning
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.inversion import TextWithPlaces, invert, name_embedding, with_places
from bench.toolkit.tuning import Optimiser
from bench.toolkit.wording import in_context, mentions
from methods import stereo
from methods.shared.distillation import distil, negative_guidance
from methods.shared.partial_sampling import PartialSampler
from methods.shared.unet_parts import trained
from methods.stereo import Stereo, robust_target

RNG = Rng(("stereo",))
HEART, SKETCH = Concept(text="heart"), Concept(text="sketch", family="style")
BRAKK = Concept(text="brakk", family="character")
TINY: Mapping[str, Any] = {
    "rounds": 2, "iterations": 2, "search_lr": 1e-3, "robust_lr": 1e-3, "batch_size": 2,
    "sampling_steps": 3, "steps": 2, "inversion_lr": 2e-2, "images": 5, "image_steps": 2,
    "image_guidance": 3.0, "templates": ("{}", "a {}"),
}  # fmt: skip


def tiny(**fields: object) -> Stereo:
    return Stereo.model_validate({**TINY, **fields})


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_for("stereo", *shape))


@dataclass(slots=True)
class Erasing:
    """The arguments of one training, and its targets."""

    names: list[str]
    phrases: Conditioning
    start: TextToImage | None
    lr: float
    asked: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)


def watch_erasing(patch: pytest.MonkeyPatch) -> list[Erasing]:
    """Every training from now on: the rounds' in turn, then the last one."""
    seen: list[Erasing] = []

    def watched(
        model: TextToImage, names: Any, phrases: Conditioning, target_of: Any, **how: Any
    ) -> dict[str, Tensor]:
        seen.append(Erasing(list(names), phrases, how.get("start"), how["optimiser"].lr))

        def target(step: int, which: Tensor, x: Tensor, t: Tensor) -> Tensor:
            towards: Tensor = target_of(step, which, x, t)
            seen[-1].asked.append((which, x, t, towards))
            return towards

        return distil(model, names, phrases, target, **how)

    patch.setattr(stereo, "distil", watched)
    return seen


@dataclass(frozen=True, slots=True)
class Inversion:
    """The arguments of one inversion, and the word it found."""

    model: TextToImage
    latents: Tensor
    texts: list[TextWithPlaces]
    start: Tensor
    found: Tensor


def watch_inversion(patch: pytest.MonkeyPatch) -> list[Inversion]:
    """Every inversion from now on: round by round, concept by concept."""
    seen: list[Inversion] = []

    def watched(
        model: TextToImage, latents: Tensor, texts: Any, start: Tensor, *a: Any, **how: Any
    ) -> Any:
        found = invert(model, latents, texts, start, *a, **how)
        seen.append(Inversion(model, latents, list(texts), start, found.vectors_RVE))
        return found

    patch.setattr(stereo, "invert", watched)
    return seen


@pytest.fixture
def erasings(monkeypatch: pytest.MonkeyPatch) -> list[Erasing]:
    return watch_erasing(monkeypatch)


@pytest.fixture
def inversions(monkeypatch: pytest.MonkeyPatch) -> list[Inversion]:
    return watch_inversion(monkeypatch)


@dataclass(frozen=True, slots=True)
class Search:
    """A search for two concepts in two rounds."""

    phrases: Conditioning
    erasings: list[Erasing]
    inversions: list[Inversion]
    cost: Meter


@pytest.fixture(scope="module")
def search(miniature: TextToImage) -> Search:
    cost = Meter()
    with pytest.MonkeyPatch.context() as patch:
        erasings, inversions = watch_erasing(patch), watch_inversion(patch)
        phrases = tiny().search(miniature.with_meter(cost), [HEART, SKETCH], rng=RNG)
    return Search(phrases, erasings, inversions, cost)


def predicted(model: TextToImage, x: Tensor, t: Tensor, told: Conditioning) -> Tensor:
    """Of rows of latents, for one row of text."""
    with torch.no_grad():
        return model.denoise(x, t, told.repeat(len(x)))


def by_concept(phrases: Conditioning, concepts: int) -> Tensor:
    """The text states of each concept's name and words, [C, N, L, D]."""
    return phrases.states_BLD.unflatten(0, (concepts, -1))


# -- the target ----------------------------------------------------------------------------------


def test_a_target_by_hand() -> None:
    e0, ea = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])
    negatives = torch.tensor([[0.0, 1.0], [2.0, 5.0]])  # their mean less e0 is (0, 1)
    for w_a, w_n, expected in (
        (1.0, 3.0, [3.0, -4.0]),
        (2.0, 1.0, [5.0, -5.0]),
        (0.0, 0.0, [1.0, 2.0]),
    ):
        got = robust_target(e0, ea, negatives, anchor_weight=w_a, negative_weight=w_n)
        torch.testing.assert_close(got, torch.tensor(expected))


def test_without_weight_on_the_negatives_it_goes_to_the_anchor_alone() -> None:
    e0, ea, negatives = drawn(2, 4, 3, 3), drawn(2, 4, 3, 3, 1)[..., 0], drawn(5, 2, 4, 3, 3)
    got = robust_target(e0, ea, negatives, anchor_weight=1.0, negative_weight=0.0)
    torch.testing.assert_close(got, ea)
    half = robust_target(e0, ea, negatives, anchor_weight=0.5, negative_weight=0.0)
    torch.testing.assert_close(half, (e0 + ea) / 2)


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_with_the_name_alone_and_no_anchor_it_is_that_of_esd(weight: float) -> None:
    e0, ea, ec = drawn(2, 4, 3, 3), drawn(2, 4, 3, 3, 1)[..., 0], drawn(1, 2, 4, 3, 3)
    got = robust_target(e0, ea, ec, anchor_weight=0.0, negative_weight=weight)
    torch.testing.assert_close(got, negative_guidance(e0, ec[0], weight))
    torch.testing.assert_close(got, e0 - weight * (ec[0] - e0))


def test_it_stays_away_from_the_mean_of_the_negatives() -> None:
    e0, ea, negatives = drawn(2, 4, 3, 3), drawn(2, 4, 3, 3, 1)[..., 0], drawn(3, 2, 4, 3, 3)
    one, twice = (
        robust_target(e0, ea, n, anchor_weight=1.0, negative_weight=3.0)
        for n in (negatives, torch.cat([negatives, negatives]))
    )
    torch.testing.assert_close(one, twice)


# -- the search ----------------------------------------------------------------------------------


def test_the_search_returns_names_and_words_for_every_concept(
    model: TextToImage, search: Search
) -> None:
    phrases = by_concept(search.phrases, 2)
    states = model.encode(["heart", "sketch"]).states_BLD
    assert phrases.shape == (2, 3, *states.shape[1:])
    assert not phrases.requires_grad
    torch.testing.assert_close(phrases[:, 0], states)
    bare = with_places(model, "{}")
    for k, inversion in enumerate(search.inversions):
        embeds = model.embed(bare.ids_L[None])
        embeds[0, int(bare.places_V)] = inversion.found[0, 0]
        with torch.no_grad():
            word = model.encode_ids(bare.ids_L[None], embeds).states_BLD[0]
        torch.testing.assert_close(phrases[k % 2, 1 + k // 2], word)
    flat = phrases.flatten(0, 1).flatten(1)
    assert torch.cdist(flat, flat).fill_diagonal_(1.0).min() > 1e-3  # no two are the same


def test_what_a_search_costs(search: Search) -> None:
    # Five images per concept; in each of two rounds two steps of erasing and two per word.
    assert (search.cost.images, search.cost.gradient_steps) == (2 * 5, 2 * (2 + 2 * 2))


def test_no_round_leaves_the_name_alone_and_samples_nothing(model: TextToImage) -> None:
    cost = Meter()
    phrases = tiny(rounds=0).search(model.with_meter(cost), [HEART, SKETCH], rng=RNG)
    torch.testing.assert_close(phrases.states_BLD, model.encode(["heart", "sketch"]).states_BLD)
    assert (cost.images, cost.gradient_steps) == (0, 0)


def test_each_round_erases_the_words_before_towards_the_empty_prompt(
    model: TextToImage, search: Search
) -> None:
    assert len(search.erasings) == 2
    empty = model.encode([""])
    for k, erasing in enumerate(search.erasings):
        torch.testing.assert_close(erasing.phrases.states_BLD, by_concept(search.phrases, 2)[:, k])
        assert erasing.lr == TINY["search_lr"]
        for _, x, t, target in erasing.asked:  # by the unedited network in every round
            torch.testing.assert_close(target, predicted(model, x, t, empty))


def test_the_rounds_add_up_and_words_are_found_on_the_erased_network(
    model: TextToImage, search: Search
) -> None:
    starts = [e.start for e in search.erasings]
    students = [i.model for i in search.inversions]
    assert starts[0] is not None
    assert not starts[0].weights
    assert starts[1] is students[0] is students[1]
    assert students[2] is students[3] is not students[0]
    name = "unet.mid_block.resnets.0.conv1.weight"
    values = [m.parameter(name) for m in (model, students[0], students[2])]
    assert not torch.equal(values[0], values[1])
    assert not torch.equal(values[1], values[2])


def test_rounds_have_disjoint_shares_of_the_concepts_images(
    model: TextToImage, search: Search
) -> None:
    rng = RNG.child("images", "heart")
    prompts = ["heart", "a heart", "heart", "a heart", "heart"]
    sampler = Sampler(steps=2, guidance_scale=3.0)
    images = model.sample(prompts, [rng.seed(k) for k in range(5)], sampler).images_B3HW
    shares = [i.latents for i in search.inversions[::2]]
    assert [len(share) for share in shares] == [3, 2]
    got = torch.cat(shares)
    torch.testing.assert_close(got, model.to_latents(images), atol=1e-4, rtol=1e-4)
    apart = torch.cdist(got.flatten(1), got.flatten(1)).fill_diagonal_(9.0)
    assert apart.min() > 1e-2


@pytest.mark.parametrize(
    ("concept", "fields", "word", "templates"),
    [
        (HEART, {"templates": ()}, "object", mentions("object")),
        (SKETCH, {"templates": ()}, "art", mentions("style")),
        (BRAKK, {"templates": ()}, "person", mentions("character")),
        (
            HEART,
            {"initial": "red star", "templates": ("one {} here",)},
            "red star",
            ("one {} here",),
        ),
    ],
)
def test_an_inversion_starts_from_the_familys_word_in_its_templates(
    model: TextToImage, inversions: list[Inversion], concept: Concept, fields: Mapping[str, Any],
    word: str, templates: tuple[str, ...],
) -> None:  # fmt: skip
    tiny(rounds=1, **fields).search(model, [concept], rng=RNG)
    (inversion,) = inversions
    torch.testing.assert_close(inversion.start[0, 0], name_embedding(model, word))
    expected = [with_places(model, t) for t in templates]
    assert len(inversion.texts) == len(expected)
    for got, wanted in zip(inversion.texts, expected, strict=True):
        assert torch.equal(got.ids_L, wanted.ids_L)
        assert torch.equal(got.places_V, wanted.places_V)


# -- erasing once --------------------------------------------------------------------------------


def anchors_met(
    model: TextToImage, erasing: Erasing, phrases: Conditioning, anchors: list[list[str]]
) -> set[str]:
    """The anchors whose published target each row had; fails where a row had that of none.

    Args:
        model: Unedited.
        erasing: The last training.
        phrases: N per concept.
        anchors: Of each concept.
    """
    met: set[str] = set()
    per_concept = len(phrases) // len(anchors)
    for which, x, t, target in erasing.asked:
        for row, phrase in enumerate(which.tolist()):
            concept = phrase // per_concept
            said = anchors[concept]
            own = phrases[concept * per_concept : (concept + 1) * per_concept]
            told = Conditioning.cat([model.encode(["", *said]), own])
            with torch.no_grad():
                eps = model.denoise(x[row].expand(len(told), -1, -1, -1), t[row], told)
            e0, ea, negatives = eps[0], eps[1:-per_concept], eps[-per_concept:]
            towards = torch.stack(
                [
                    robust_target(e0, e, negatives, anchor_weight=1.0, negative_weight=3.0)
                    for e in ea
                ]
            )
            away = (towards - target[row]).abs().amax((1, 2, 3))
            assert away.min() < 1e-4
            met.add(said[int(away.argmin())])
    return met


def test_every_row_has_its_own_concepts_negatives_and_anchors_in_turn(
    model: TextToImage, search: Search, erasings: list[Erasing]
) -> None:
    spec = tiny(iterations=6, anchors=("a {} in a meadow", "a plain meadow"))
    phrases = search.phrases
    spec.erase_once(model, [HEART, SKETCH], phrases, rng=RNG)
    said = [[f"a {text} in a meadow", "a plain meadow"] for text in ("heart", "sketch")]
    met = anchors_met(model, erasings[-1], phrases, said)
    assert met == {anchor for texts in said for anchor in texts}
    rows = torch.cat([which for which, *_ in erasings[-1].asked])
    assert rows.bincount().tolist() == [2] * 6  # all names and words of both, in turn
    assert erasings[-1].lr == TINY["robust_lr"]


def test_without_anchors_of_its_own_it_makes_them_for_the_concept(
    model: TextToImage, erasings: list[Erasing]
) -> None:
    spec = tiny(rounds=0, iterations=4)
    phrases = spec.search(model, [HEART, SKETCH], rng=RNG)
    spec.erase_once(model, [HEART, SKETCH], phrases, rng=RNG)
    said = [
        [a.format(c.text) for a in in_context(c.family)] for c in (HEART, SKETCH)
    ]  # fmt: skip
    met = anchors_met(model, erasings[-1], phrases, said)
    assert len(met) > 4
    assert met & set(said[0])
    assert met & set(said[1])


def test_braces_in_a_concepts_name_are_letters(model: TextToImage, erasings: list[Erasing]) -> None:
    odd = Concept(text="{0} {x}")
    spec = tiny(rounds=0, anchors=("a {} by a tree",))
    spec(model, [odd], rng=RNG)
    phrases = model.encode([odd.text])
    assert anchors_met(model, erasings[-1], phrases, [["a {0} {x} by a tree"]])


def test_it_starts_from_the_original_weights_not_from_the_searched_ones(
    model: TextToImage, erasings: list[Erasing], inversions: list[Inversion]
) -> None:
    edited = tiny(search_lr=1e-2, robust_lr=1e-9)(model, [HEART], rng=RNG)
    assert erasings[-1].start is None
    name = "unet.mid_block.resnets.0.conv1.weight"
    searched = inversions[-1].model.parameter(name)
    assert (searched - model.parameter(name)).abs().max() > 1e-3
    for other, value in edited.weights.items():
        torch.testing.assert_close(value, model.parameter(other), atol=1e-6, rtol=1e-6)


def test_the_first_robust_step_is_the_formulas(model: TextToImage) -> None:
    anchor = "a heart in a meadow"
    spec = tiny(rounds=0, iterations=1, batch_size=1, variant="x", anchors=("a {} in a meadow",))
    edited = spec(model, [HEART], rng=RNG)
    draws = RNG.child("erase").generator("step", 0)
    noise = torch.randn(1, *model.latent_shape, generator=draws)
    stop = torch.randint(3, (1,), generator=draws)
    empty, heart, there = (model.encode([text]) for text in ("", "heart", anchor))
    with torch.no_grad():
        contexts = model.guidance.contexts(model, heart)
        x, t = PartialSampler(3, 3.0).run(model, contexts, noise, stop)
        e0, ec, ea = (predicted(model, x, t, states) for states in (empty, heart, there))
    leaves = {n: model.parameter(n).detach().clone().requires_grad_() for n in edited.weights}
    live = replace(model, weights=leaves)
    loss = (live.denoise(x, t, heart) - (e0 + (ea - e0) - 3 * (ec - e0))).square().mean()
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    for (name, was), g in zip(leaves.items(), gradients, strict=True):
        # AdamW's first step, with weight decay 0.01; where g is next to nothing, rounding decides.
        sure = g.abs() > max(1e-2 * float(g.abs().max()), 1e-6)
        expected = was.detach() * (1 - 1e-3 * 1e-2) - 1e-3 * g / (g.abs() + 1e-8)
        torch.testing.assert_close(edited.weights[name][sure], expected[sure], atol=2e-5, rtol=0)


def test_with_the_name_alone_and_no_anchor_it_is_esd(model: TextToImage) -> None:
    spec = tiny(rounds=0, anchor_weight=0.0, negative_weight=2.0, spacing="trailing")
    edited = spec(model, [HEART], rng=RNG)
    empty, heart = model.encode([""]), model.encode(["heart"])

    def target_of(step: int, which: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return negative_guidance(predicted(model, x, t, empty), predicted(model, x, t, heart), 2.0)

    values = distil(
        model, trained(model, "u", "2025"), heart, target_of,
        sampler=PartialSampler(3, 3.0, "trailing"), sampled_from="student", batch_size=2,
        optimiser=Optimiser(2, 1e-3, "adamw", weight_decay=1e-2), rng=RNG.child("erase"),
    )  # fmt: skip
    assert set(edited.weights) == set(values)
    # Adam takes a gradient of nearly nothing by its sign, so single entries may differ.
    for name, value in values.items():
        moved = (value - model.parameter(name)).norm()
        assert (edited.weights[name] - value).norm() < 0.05 * moved, name


def test_predictions_move_to_the_targets(model: TextToImage, erasings: list[Erasing]) -> None:
    edited = tiny(rounds=0, iterations=4, robust_lr=3e-5)(model, [HEART], rng=RNG)
    _, x, t, target = (torch.cat(parts) for parts in zip(*erasings[-1].asked, strict=True))
    before, after = (
        (predicted(m, x, t, model.encode(["heart"])) - target).norm() for m in (model, edited)
    )
    assert after < 0.8 * before


# -- the parameters ------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["x", "x-strict", "u", "all"])
def test_the_variant_is_what_is_trained_in_both_stages(
    model: TextToImage, erasings: list[Erasing], variant: Any
) -> None:
    spec = tiny(rounds=1, variant=variant)
    edited = spec(model, [HEART], rng=RNG)
    chosen = set(trained(model, variant, "2025"))
    assert set(edited.weights) == chosen
    assert [set(e.names) for e in erasings] == [chosen, chosen]
    assert set(spec.parameters(model)) == chosen


def test_the_published_one_leaves_the_cross_attention_alone(model: TextToImage) -> None:
    for preset in ("repo-2025", "repo-2025-nudity"):
        spec = Stereo.preset(preset)
        assert spec.variant == "u"
        chosen = set(spec.parameters(model))
        assert not [n for n in chosen if ".attn2." in n]
        assert {"unet.time_embedding.linear_1.weight", "unet.conv_out.weight"} <= chosen
        others = {"unet.conv_norm_out.weight", "text_encoder.encoder.layers.0.mlp.fc1.weight"}
        assert others <= set(model.base_values) - chosen


# -- presets and edges ---------------------------------------------------------------------------


def test_presets_are_as_published() -> None:
    repo = {
        "variant": "u", "rounds": 4, "iterations": 200, "search_lr": 5e-6, "robust_lr": 2e-5,
        "batch_size": 1, "start_guidance": 3.0, "sampling_steps": 50, "spacing": "leading", "steps": 3000,
        "inversion_lr": 5e-3, "draws": 1, "initial": "", "templates": (), "images": 500,
        "image_steps": 50, "image_guidance": 7.5, "anchors": (), "anchor_weight": 1.0,
        "negative_weight": 3.0,
    }  # fmt: skip
    assert Stereo.preset("repo-2025").model_dump() == repo
    nudity = Stereo.preset("repo-2025-nudity")
    assert (nudity.rounds, nudity.initial, len(nudity.anchors)) == (2, "person", 1)
    assert {Stereo.preset(p).label for p in Stereo.presets} == {
        f"stereo[{p}]" for p in Stereo.presets
    }


def test_no_concepts_are_an_error(model: TextToImage) -> None:
    with pytest.raises(ValueError, match="stereo: expected at least one concept"):
        Stereo()(model, [], rng=RNG)


def test_fewer_images_than_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one image per round, got 2 images for 3 rounds"):
        tiny(rounds=3, images=2)


@pytest.mark.parametrize("fields", [{"rounds": -1}, {"variant": "v"}, {"negative_weight": -1.0}])
def test_fields_are_checked(fields: Mapping[str, object]) -> None:
    with pytest.raises(ValueError):
        tiny(**fields)
