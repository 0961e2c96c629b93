from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

from bench.interfaces import Concept, Rng
from bench.model.conditioning import Conditioning
from bench.model.encoder import TextEncoder
from bench.model.guidance import Guidance
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.inversion import invert, name_embedding, states_with, with_places
from tvc.diverse_inversion import DiverseInversion, InversionSet, bins, diverse_inversion, projected
from tvc.method import TaskVectorErasure
from tvc.sight import Sight

SURROGATE = TaskVectorErasure().surrogate()

QUICK = DiverseInversion(rows=3, steps=3, draws=1, samples=2, templates=("{}", "a {}"))


def rows(n: int, width: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def test_bins_cover_the_interval_without_gaps() -> None:
    intervals = bins(DiverseInversion(rows=4, low=-1.0, high=0.6))
    torch.testing.assert_close(
        intervals, torch.tensor([[-1.0, -0.6], [-0.6, -0.2], [-0.2, 0.2], [0.2, 0.6]])
    )
    assert (
        bins(DiverseInversion(rows=2, stratified=False)).tolist()
        == [[-1.0, pytest.approx(0.98)]] * 2
    )


def test_projection_turns_a_vector_in_its_plane_to_the_nearest_bound() -> None:
    reference = torch.tensor([2.0, 0.0, 0.0])
    given = torch.tensor([[3.0, 4.0, 0.0]])  # cosine 0.6, norm 5
    out = projected(given, reference, torch.tensor([[-1.0, 0.0]]), pairwise=1.0)
    torch.testing.assert_close(out, torch.tensor([[0.0, 5.0, 0.0]]))
    inside = projected(given, reference, torch.tensor([[0.5, 0.7]]), pairwise=1.0)
    torch.testing.assert_close(inside, given)


def test_a_vector_along_the_reference_finds_a_way_out() -> None:
    reference = torch.tensor([1.0, 0.0, 0.0])
    out = projected(reference[None].clone(), reference, torch.tensor([[-0.5, 0.5]]), pairwise=1.0)
    assert float(out @ reference) == pytest.approx(0.5, abs=1e-5)
    assert float(out.norm()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("pairwise", [0.9, 0.5])
def test_both_constraints_hold_and_norms_are_kept(pairwise: float) -> None:
    reference, given = rows(1, seed=1)[0], rows(1).expand(8, -1) + 0.1 * rows(8, seed=2)
    intervals = bins(DiverseInversion(rows=8, low=-0.9, high=0.6))
    out = projected(given, reference, intervals, pairwise)
    cosine = F.cosine_similarity(out, reference[None])
    assert (cosine >= intervals[:, 0] - 1e-4).all()
    assert (cosine <= intervals[:, 1] + 1e-4).all()
    unit = F.normalize(out, dim=1)
    gram = (unit @ unit.T).fill_diagonal_(-1)
    assert float(gram.max()) <= pairwise + 0.01
    torch.testing.assert_close(out.norm(dim=1), given.norm(dim=1))


def test_projecting_twice_changes_nothing() -> None:
    reference, given = rows(1, seed=1)[0], rows(6)
    intervals = bins(DiverseInversion(rows=6))
    once = projected(given, reference, intervals, 0.9)
    torch.testing.assert_close(
        projected(once, reference, intervals, 0.9), once, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("template", "vectors"), [("{}", 1), ("a red {} at sunset", 2), ("{} in a meadow", 3)]
)
def test_the_names_own_embeddings_in_their_places_give_the_names_states(
    model: TextToImage, template: str, vectors: int
) -> None:
    words = ["star", "moon", "fish"][:vectors]
    text = with_places(model, template, vectors)
    prompt = template.format(" ".join(words))
    ids = model.tokenize([prompt])
    assert ids.shape[1] == len(text.ids_L)
    embeds = model.embed(ids)[:, text.places_V]
    states = states_with(model, text.ids_L[None], text.places_V[None], embeds)
    torch.testing.assert_close(states.states_BLD, model.encode([prompt]).states_BLD)


def test_a_text_that_does_not_fit_is_refused(model: TextToImage) -> None:
    with pytest.raises(ValueError, match="fewer vectors"):
        with_places(model, "{}", model.backbone.length)
    with pytest.raises(ValueError, match=r"one \{\}"):
        with_places(model, "no place")


def test_rows_are_found_as_if_alone(exact: TextToImage) -> None:
    latents = torch.randn(4, *exact.latent_shape, generator=torch.Generator().manual_seed(0))
    texts = [with_places(exact, "{}"), with_places(exact, "a {}")]
    start = name_embedding(exact, "star").expand(3, 1, -1) + 0.3 * rows(3, 128)[:, None]

    def found(which: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(k) for k in which]
        return invert(
            exact, latents, texts, start[which], generators, steps=4, lr=0.05, draws=2
        ).vectors_RVE

    together = found([0, 1, 2])
    torch.testing.assert_close(found([1])[0], together[1], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found([2, 0])[0], together[2], atol=1e-4, rtol=1e-3)


class Deaf(Guidance):
    """A defence that never listens to the prompt, whatever the scale."""

    name: ClassVar[str] = "deaf"

    def contexts(self, model: TextEncoder, conditioning: Conditioning) -> tuple[Conditioning, ...]:
        empty = model.encode([""]).detach()
        return empty.repeat(len(conditioning)), conditioning

    def combine(
        self, eps_KBChw: torch.Tensor, scale: float, step: int, memory: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        return eps_KBChw[0] + 0 * eps_KBChw[1], None


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_guidance_is_searched_through_at_every_scale(model: TextToImage, scale: float) -> None:
    def zeros(guided: TextToImage) -> list[int]:
        latents = torch.zeros(1, *model.latent_shape)
        start, generator = name_embedding(model, "star")[None, None], torch.Generator()
        found = invert(
            guided, latents, [with_places(model, "{}")], start, [generator], steps=2, lr=0.1, draws=1,
            guidance_scale=scale,
        )  # fmt: skip
        steps: list[int] = found.faults_R2[:, 0].tolist()
        return steps

    assert zeros(model) == [0]
    assert zeros(model.with_guidance(Deaf())) == [2]  # its gradient is zero throughout


def test_the_search_lowers_the_loss(model: TextToImage, concepts: Mapping[str, Concept]) -> None:
    images = model.sample(["heart"] * 8, list(range(8)), Sampler()).images_B3HW
    latents = model.to_latents(images)

    def loss(steps: int) -> float:
        start = rows(2, 128, seed=3)[:, None] * 0.02
        generators = [torch.Generator().manual_seed(k) for k in range(2)]
        out = invert(
            model,
            latents,
            [with_places(model, "{}")],
            start,
            generators,
            steps=steps,
            lr=0.02,
            draws=4,
        )
        return float(out.losses_R.mean())

    assert loss(30) < loss(2)


def test_rows_stay_in_their_bins_and_say_what_they_do(
    model: TextToImage, concepts: Mapping[str, Concept], tmp_path: Path
) -> None:
    images = model.sample(["heart"] * 4, list(range(4)), Sampler(steps=2)).images_B3HW
    found = diverse_inversion(
        model,
        Sight(concepts["heart"], Sampler(steps=2), SURROGATE),
        images,
        QUICK,
        rng=Rng(("t",)),
    )
    assert found.vectors_RVE.shape == (3, 1, 128)
    assert (found.cosines_R >= found.bins_R2[:, 0] - 1e-3).all()
    assert (found.cosines_R <= found.bins_R2[:, 1] + 1e-3).all()
    assert ((found.rates_R >= 0) & (found.rates_R <= 1)).all()
    assert set(found.inducing.tolist()) == {
        i for i, r in enumerate(found.rates_R.tolist()) if r >= 0.5
    }
    found.save(tmp_path / "set.safetensors")
    back = InversionSet.load(tmp_path / "set.safetensors")
    assert torch.equal(back.vectors_RVE, found.vectors_RVE)
    assert back.about == found.about


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="not a set of inversions"):
        InversionSet.load(tmp_path / "x.safetensors")
