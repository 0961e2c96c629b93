"""One generation of a genetic search over tokens, for many goals at once: crossing, then mutation.

As in Ring-A-Bell's notebook (chiayi-hsu/Ring-A-Bell, commit of 2025-01-16). Every parent stays. At
the crossover's odds it is cut at one point with a mate from all parents, itself among them. Both
halves make a child, so a crossing has two children. A cut before the first token gives copies. Then
every prompt, parents too, has one token replaced at the mutation's odds.

A population's size therefore varies from one generation to the next. Tensors have room for two
children per parent, and a mask says which are there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


__all__ = ["Breeding", "Chances", "breed", "draw_chances", "errors_of_all", "errors_of_the_new"]

Breeding = Literal["published", "elitist"]
"""``published`` mutates every prompt, and may lose its best; ``elitist`` leaves the best as it is."""

Errors: TypeAlias = "Callable[[Tensor], Tensor]"
"""The errors [N] of rows [N, 1 + K]: the index of a goal, and K tokens."""

_ROOM = 3  # a parent and its two children


@dataclass(frozen=True, slots=True, eq=False)
class Chances:
    """The draws for one generation of G goals with E parents each; P = 3 E places.

    Attributes:
        crossed_GE: Whether a parent is crossed.
        mate_GE: Index of the parent that it is crossed with.
        cut_GE: Tokens that the first child has of the parent, from 0 to K - 1.
        mutated_GP: Whether a place has a token replaced. A parent's place is followed by those of its
            two children.
        at_GP: Which token, from 0 to K - 1.
        word_GP: By which token id.
    """

    crossed_GE: Tensor
    mate_GE: Tensor
    cut_GE: Tensor
    mutated_GP: Tensor
    at_GP: Tensor
    word_GP: Tensor


def draw_chances(
    generators: Sequence[torch.Generator],
    parents: int,
    genes: int,
    words_V: Tensor,
    crossover: float,
    mutation: float,
) -> Chances:
    """Draws one generation, each goal's from its own generator alone.

    Args:
        generators: One per goal.
        parents: E.
        genes: K.
        words_V: Token ids that a mutation may bring.
        crossover: Odds that a parent is crossed.
        mutation: Odds that a prompt has a token replaced.
    """
    places = _ROOM * parents
    # Doubles: a float has too few values to choose evenly among 49,405 tokens.
    drawn = torch.stack(
        [torch.rand(3 * (parents + places), generator=g, dtype=torch.float64) for g in generators]
    )
    ofparents_G3E = drawn[:, : 3 * parents].unflatten(1, (3, parents))
    ofplaces_G3P = drawn[:, 3 * parents :].unflatten(1, (3, places))
    return Chances(
        crossed_GE=ofparents_G3E[:, 0] < crossover,
        mate_GE=(ofparents_G3E[:, 1] * parents).long(),
        cut_GE=(ofparents_G3E[:, 2] * genes).long(),
        mutated_GP=ofplaces_G3P[:, 0] < mutation,
        at_GP=(ofplaces_G3P[:, 1] * genes).long(),
        word_GP=words_V[(ofplaces_G3P[:, 2] * len(words_V)).long()],
    )


def breed(parents_GEK: Tensor, chances: Chances, breeding: Breeding) -> tuple[Tensor, Tensor]:
    """The next population.

    Args:
        parents_GEK: Token ids, best first; not changed.
        chances: What was drawn.
        breeding: Whether the best parent is mutated too.

    Returns:
        Token ids [G, P, K], and bool [G, P]: which of them are there.
    """
    goals, _, genes = parents_GEK.shape
    spot_K = torch.arange(genes, device=parents_GEK.device)
    mates_GEK = parents_GEK.gather(1, chances.mate_GE[..., None].expand(-1, -1, genes))
    head_GEK = spot_K < chances.cut_GE[..., None]
    one_GEK = torch.where(head_GEK, parents_GEK, mates_GEK)
    other_GEK = torch.where(head_GEK, mates_GEK, parents_GEK)
    people_GPK = torch.stack([parents_GEK, one_GEK, other_GEK], 2).flatten(1, 2)
    hit_GPK = chances.mutated_GP[..., None] & (spot_K == chances.at_GP[..., None])
    if breeding == "elitist":
        hit_GPK[:, 0] = False  # the best one: parents come in the order of their errors
    people_GPK = torch.where(hit_GPK, chances.word_GP[..., None], people_GPK)
    there_GE3 = chances.crossed_GE[..., None].repeat(1, 1, _ROOM)
    there_GE3[..., 0] = True
    return people_GPK, there_GE3.view(goals, -1)


def errors_of_all(
    people_GPK: Tensor, there_GP: Tensor, known_GEK: Tensor, known_GE: Tensor, errors: Errors
) -> Tensor:
    """The errors [G, P] of whole populations, as published; infinite where there is nobody.

    Takes what :func:`errors_of_the_new` takes, and does not use what is known.
    """
    found_GP = torch.full(there_GP.shape, torch.inf)
    found_GP[there_GP] = errors(_with_goals(people_GPK)[there_GP])
    return found_GP


def errors_of_the_new(
    people_GPK: Tensor, there_GP: Tensor, known_GEK: Tensor, known_GE: Tensor, errors: Errors
) -> Tensor:
    """The errors [G, P] of populations; infinite where there is nobody.

    Only what is new is encoded, and what is there twice is encoded once. A prompt is new if none of
    the known ones has its tokens, so that a parent that was mutated is new as well.

    Args:
        people_GPK: Token ids.
        there_GP: Which of them are there.
        known_GEK: Prompts whose errors are known: the parents as they were before.
        known_GE: Their errors.
        errors: Encodes.
    """
    known_N1K, there_N1K = _with_goals(known_GEK).flatten(0, 1), _with_goals(people_GPK)[there_GP]
    different, which = torch.cat([known_N1K, there_N1K]).unique(dim=0, return_inverse=True)
    found = torch.full((len(different),), torch.nan)
    found[which[: len(known_N1K)]] = known_GE.flatten().float()
    new = found.isnan()
    if new.any():
        found[new] = errors(different[new])
    found_GP = torch.full(there_GP.shape, torch.inf)
    found_GP[there_GP] = found[which[len(known_N1K) :]]
    return found_GP


def _with_goals(people_GPK: Tensor) -> Tensor:
    """Rows [G, P, 1 + K]: the index of a goal before the tokens of its prompts."""
    goals = torch.arange(len(people_GPK))[:, None, None].expand(-1, people_GPK.shape[1], 1)
    return torch.cat([goals, people_GPK], 2)
