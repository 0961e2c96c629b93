"""Which of a prompt's text states carry a concept, and how many layers look at its words.

In CLIP whatever stands after a word carries it too, the end and the padding above all. A method or an
attack that counts on this finds nothing where the concept's own word says everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from bench.core.lazy import no_grad, torch
from bench.interfaces import Concept, Judge, Rng
from bench.model.families.roles import Role
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.toolkit.attention import attention_maps
from bench.toolkit.images import latents_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PLACES", "Carried", "carried", "table"]

PLACES: Final = (
    "none",
    "own words",
    "words after",
    "end and padding",
    "all after",
    "own and after",
)
"""Whose states are taken from the prompt with the other concept."""
_SAMPLER: Final = Sampler(steps=6, guidance_scale=3.0)
_NOISY: Final = 0.7
"""How far up the noise schedule layers are watched, of 1: the picture's parts are laid out there."""
_LOOKS: Final = 0.5


@dataclass(frozen=True, slots=True)
class Carried:
    """One concept's shares of images that show it.

    Attributes:
        concept: Its text.
        family: Its family.
        other: The concept whose prompts gave the other states.
        images: Images per place.
        shown: Share of images that show the concept, by :data:`PLACES`.
        looking: Cross-attentions in which some head gives the concept's own words half of some pixel's
            attention or more, in the mean over images.
        layers: Cross-attentions in all.
    """

    concept: str
    family: str
    other: str
    images: int
    shown: Mapping[str, float]
    looking: int
    layers: int


@no_grad
def carried(
    model: TextToImage, concepts: Sequence[Concept], judge: Judge, *, images: int = 24
) -> Iterator[Carried]:
    """Samples each concept's prompts by name, with the states of some tokens taken from its first neighbour's.

    Args:
        model: The miniature, or a base with its tokenizer.
        concepts: With prompts by name and a neighbour whose name has as many tokens.
        judge: Says whether an image shows the concept.
        images: Per concept and place; fewer where there are fewer prompts.

    Raises:
        ValueError: a concept has no such neighbour.
    """
    for concept in concepts:
        prompts = list(concept.prompts["name"][:images])
        other = concept.neighbours[0] if concept.neighbours else ""
        width = len(model.words.ids(concept.text))
        if len(model.words.ids(other)) != width:
            raise ValueError(
                f"{concept.text}: expected a first neighbour of {width} tokens, got {other!r}"
            )
        rows = [p.replace(concept.text, other) for p in prompts]
        said, instead = model.encode(prompts), model.encode(rows)
        places = _places(model, model.tokenize(prompts), model.words.ids(concept.text))
        seeds, shown = list(range(len(prompts))), {}
        for place in PLACES:
            states = torch.where(places[place][..., None], instead.states_BLD, said.states_BLD)
            mixed = replace(said, states_BLD=states)
            found = model.sample(prompts, seeds, _SAMPLER, conditioning=mixed).all_finite()
            passed = judge.scores(found.images_B3HW, concept).amax(1) >= judge.threshold
            shown[place] = float(passed.float().mean())
            if place == PLACES[0]:
                looks = _looks(model, found.images_B3HW, prompts, places["own words"])
        yield Carried(
            concept.text, concept.family, other, len(prompts), shown, int((looks >= _LOOKS).sum()),
            len(looks),
        )  # fmt: skip


def _places(model: TextToImage, ids_BL: Tensor, own: Sequence[int]) -> dict[str, Tensor]:
    """By place, which tokens [B, L] are replaced."""
    width, at = len(own), torch.arange(ids_BL.shape[1])
    windows = ids_BL.unfold(1, width, 1)
    first = (windows == torch.tensor(list(own))).all(-1).int().argmax(1)[:, None]
    end = (ids_BL == model.end_of_text).int().argmax(1)[:, None]
    words = (at >= first) & (at < first + width)
    after = (at >= first + width) & (at < end)
    closing = (at >= end).expand_as(words)
    masks = (words & False, words, after, closing, after | closing, words | after | closing)
    return dict(zip(PLACES, masks, strict=True))


def _looks(
    model: TextToImage, images_B3HW: Tensor, prompts: Sequence[str], own_BL: Tensor
) -> Tensor:
    """By layer, the most that a head gives the concept's own words at a pixel, in the mean over images, [layers]."""
    clean = latents_of(model, images_B3HW)
    noise = torch.randn(clean.shape, generator=Rng(("carriers",)).generator()).to(clean)
    t = int(_NOISY * model.schedule.steps)
    noisy = model.schedule.add_noise(clean, noise, torch.full((len(clean),), t))
    layers = model.layers(Role.CROSS_ATTENTION)
    _, maps = attention_maps(model, noisy, t, model.encode(prompts))
    given = [(maps[name] * own_BL[:, None, None]).sum(-1).amax((1, 2)).mean() for name in layers]
    return torch.stack(given)


def table(rows: Sequence[Carried]) -> str:
    """The rows as a table of Markdown, shares in per cent."""
    head = ["concept", "family", "other", "images", *PLACES, "layers that look"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        shares = [f"{100 * row.shown[place]:.0f}" for place in PLACES]
        cells = [row.concept, row.family, row.other, str(row.images), *shares]
        lines.append(f"| {' | '.join(cells)} | {row.looking} of {row.layers} |")
    return "\n".join(lines)
