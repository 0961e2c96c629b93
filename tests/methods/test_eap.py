"""EAP: its list of words, its choice among them and its weights on small numbers; its two players on the miniature."""

from __future__ import annotations

import pytest
import torch

from bench.core.errors import UsageError
from bench.core.rng import generator_for
from bench.interfaces import Concept, Context, Rng
from bench.model.conditioning import Conditioning
from bench.model.schedule import Schedule
from bench.model.text_to_image import TextToImage
from methods.eap import EAP, _Search, chosen, clean_weight, graded

RNG = Rng(("eap",))
STAR = Concept(text="star")
QUICK = EAP.preset("mini", **EAP.quick)


# -- the equations -------------------------------------------------------------------------------


def test_words_are_grouped_by_their_distance() -> None:
    apart = torch.tensor([0.0, 0, 0, 10, 10], dtype=torch.float64)
    assert sorted(graded(apart, 2, seed=1)) == [0, 3]
    assert sorted(graded(apart, 100, seed=1)) == [0, 3], "no more centres than different values"
    spread = torch.tensor([0.0, 1, 2, 40, 41, 42, 90], dtype=torch.float64)
    assert sorted(graded(spread, 3, seed=1)) == [1, 4, 6]
    assert graded(spread, 3, seed=1) == graded(spread, 3, seed=1)


def test_the_choice_is_of_one_word_with_the_gradient_of_all() -> None:
    logits = torch.tensor([0.0, 1, 0], requires_grad=True)
    y = chosen(logits, torch.zeros(3), 2.0, "hard")
    torch.testing.assert_close(y.detach(), torch.tensor([0.0, 1, 0]))
    (slope,) = torch.autograd.grad((y * torch.tensor([1.0, 2, 3])).sum(), logits)
    torch.testing.assert_close(slope, torch.tensor([-0.1371, 0, 0.1371]), atol=1e-4, rtol=0)
    soft = chosen(logits, torch.zeros(3), 2.0, "soft").detach()
    torch.testing.assert_close(soft, torch.tensor([0.2741, 0.4519, 0.2741]), atol=1e-4, rtol=0)
    assert int(chosen(logits, torch.tensor([0.0, 0, 5]), 2.0, "hard").argmax()) == 2


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_losses_are_those_of_clean_latents(prediction: str) -> None:
    alphas = torch.tensor([0.9, 0.25])
    schedule = Schedule({}, alphas, prediction)  # type: ignore[arg-type]  # of a list
    t = torch.tensor([0, 1])
    x, one, other = torch.randn(3, 2, 4, 2, 2, generator=generator_for("eap"))

    def clean(predicted: torch.Tensor) -> torch.Tensor:
        a = schedule.alphas(t)[:, None, None, None]
        return (x - (1 - a).sqrt() * schedule.to_noise(predicted, x, t)) / a.sqrt()

    wanted = (clean(one) - clean(other)).square().mean((1, 2, 3))
    found = clean_weight(schedule, t) * (one - other).square().mean((1, 2, 3))
    torch.testing.assert_close(found, wanted)
    if prediction == "epsilon":
        torch.testing.assert_close(clean_weight(schedule, t)[1], torch.tensor(3.0))


# -- the two players -----------------------------------------------------------------------------


def test_the_choice_goes_to_the_word_that_is_harmed() -> None:
    search = _Search([Conditioning(torch.eye(3)[:, None])], QUICK)  # a word per direction
    for k in range(40):
        said = search.words(torch.tensor([0, 0]), generator_for("eap", k))
        search.ascend(said.states_BLD[..., 1].mean())  # harm is done to the second word alone
    assert [v > 1 / 3 for v in search._logits[0].tolist()] == [False, True, False]


def test_a_word_that_is_chosen_is_that_word(model: TextToImage) -> None:
    kept = model.encode(["house", "tree", "moon"]).detach()
    search = _Search([kept, kept], QUICK)
    said = search.words(torch.tensor([0, 1, 0, 1]), generator_for("eap"))
    apart = torch.cdist(said.states_BLD.detach().flatten(1), kept.states_BLD.flatten(1))
    assert float(apart.min(1).values.max()) < 1e-3
    assert said.ids == (), "nobody can read a mixture"
    assert said.states_BLD.requires_grad


def test_logits_of_a_concept_without_a_row_stay(model: TextToImage) -> None:
    kept = model.encode(["house", "tree"]).detach()
    search = _Search([kept, kept], QUICK)
    search.ascend(search.words(torch.tensor([1]), generator_for("eap")).states_BLD.square().mean())
    assert torch.equal(search._logits[0], torch.tensor([0.5, 0.5]))
    assert not torch.equal(search._logits[1], torch.tensor([0.5, 0.5]))


def test_the_search_changes_the_edit(model: TextToImage) -> None:
    three = QUICK.model_copy(update={"iterations": 3, "search_lr": 10.0})
    still = three.model_copy(update={"search_lr": 1e-6})
    name = QUICK.parameters(model)[0]
    one, two = (method(model, [STAR], rng=RNG).parameter(name) for method in (three, still))
    assert not torch.equal(one, two)


# -- its words -----------------------------------------------------------------------------------


def test_words_that_name_a_concept_are_not_kept(model: TextToImage) -> None:
    method = QUICK.model_copy(update={"words": ("star", "house", "Stars", "house")})
    other = QUICK.model_copy(update={"words": ("house",)})
    assert method(model, [STAR], rng=RNG).digest == other(model, [STAR], rng=RNG).digest
    with pytest.raises(UsageError, match="a word that names no erased concept, got none"):
        QUICK.model_copy(update={"words": ("star",)})(model, [STAR], rng=RNG)


def test_without_a_list_it_has_the_words_of_the_tokenizer(model: TextToImage) -> None:
    method = QUICK.model_copy(update={"words": ()})
    with torch.no_grad():
        (found,) = method._kept(model, [STAR], Context(RNG))
    assert 1 < len(found) <= 4


def test_presets_are_as_published() -> None:
    fields = ("variant", "centres", "nearest", "search_lr", "temperature", "pick")
    for name, of in (("release", ("x", 100, 1000)), ("release-nudity", ("u", 50, 2000))):
        found = EAP.preset(name)
        assert tuple(getattr(found, f) for f in fields) == (*of, 1e-2, 2.0, "hard")
        assert (found.iterations, found.lr, found.batch_size, found.eta) == (1000, 1e-5, 1, 1.0)
        assert (found.start_guidance, found.sampling_steps, found.spacing) == (3.0, 50, "leading")
