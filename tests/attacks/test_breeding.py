from __future__ import annotations

import torch
from torch import Tensor

from attacks.shared.breeding import Chances, breed, draw_chances, errors_of_all, errors_of_the_new
from bench.interfaces import Rng

RNG = Rng(("breeding",))


def given(
    crossed: list[int], mates: list[int], cuts: list[int], mutated: dict[int, tuple[int, int]]
) -> Chances:
    """Draws of one goal, written out: a place's mutation is (which token, by which)."""
    places = 3 * len(crossed)
    return Chances(
        crossed_GE=torch.tensor([crossed], dtype=torch.bool),
        mate_GE=torch.tensor([mates]),
        cut_GE=torch.tensor([cuts]),
        mutated_GP=torch.tensor([[p in mutated for p in range(places)]]),
        at_GP=torch.tensor([[mutated.get(p, (0, 0))[0] for p in range(places)]]),
        word_GP=torch.tensor([[mutated.get(p, (0, 0))[1] for p in range(places)]]),
    )


PARENTS = torch.tensor([[[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]])


def test_one_generation_written_out() -> None:
    """As published: parent, both halves of its crossing, the next parent; then tokens replaced anywhere."""
    chances = given(
        crossed=[1, 0, 1], mates=[2, 0, 1], cuts=[1, 2, 3], mutated={0: (2, 90), 3: (0, 91), 8: (3, 92)}
    )  # fmt: skip
    before = PARENTS.clone()
    people, there = breed(PARENTS, chances, "published")
    assert torch.equal(PARENTS, before)
    assert people[there].tolist() == [
        [1, 2, 90, 4],  # a parent, mutated
        [1, 10, 11, 12],
        [9, 2, 3, 4],
        [91, 6, 7, 8],  # a parent that was not crossed, mutated
        [9, 10, 11, 12],
        [9, 10, 11, 8],
        [5, 6, 7, 92],  # a child, mutated
    ]
    elite, _ = breed(PARENTS, chances, "elitist")
    assert elite[there].tolist() == [[1, 2, 3, 4], *people[there].tolist()[1:]]


def test_the_two_children_of_a_crossing_are_complementary() -> None:
    parents = torch.arange(1, 241).view(2, 20, 6)
    chances = draw_chances(
        [RNG.generator(g) for g in range(2)], 20, 6, torch.tensor([999]), 1.0, 0.0
    )
    people, there = breed(parents, chances, "published")
    assert bool(there.all())
    parent, one, other = people.unflatten(1, (20, 3)).unbind(2)
    mates = parents.gather(1, chances.mate_GE[..., None].expand(-1, -1, 6))
    assert torch.equal(parent, parents)
    # Token by token, what one child has of the parent the other has of the mate.
    assert torch.equal(one + other, parents + mates)
    of_parent = (one == parents) & (parents != mates)
    # One point: of the parent first, then of the mate, never back.
    assert not bool((~of_parent[..., :-1] & of_parent[..., 1:]).any())


def test_the_odds_are_the_published_ones() -> None:
    """Cuts fall before any token, the first among them; each token and word is as likely as another."""
    words = torch.arange(100, 110)
    drawn = draw_chances([RNG.generator("odds")], 4000, 5, words, 0.5, 0.25)
    assert abs(float(drawn.crossed_GE.float().mean()) - 0.5) < 0.03
    assert abs(float(drawn.mutated_GP.float().mean()) - 0.25) < 0.02
    for chosen, values in (
        (drawn.cut_GE, range(5)),
        (drawn.at_GP, range(5)),
        (drawn.word_GP, range(100, 110)),
    ):
        shares = torch.stack([(chosen == v).float().mean() for v in values])
        assert float((shares - 1 / len(values)).abs().max()) < 0.03
    assert drawn.mate_GE.unique().numel() > 2000


def test_a_goals_draws_are_its_own() -> None:
    words = torch.arange(50)

    def drawn(*names: str) -> Chances:
        return draw_chances([RNG.generator(n) for n in names], 7, 5, words, 0.5, 0.25)

    together, alone = drawn("a", "b", "c"), drawn("b")
    for field in Chances.__slots__:
        assert torch.equal(getattr(together, field)[1], getattr(alone, field)[0])


def test_the_share_of_new_prompts_is_the_published_one() -> None:
    """96 to 137 of 200 prompts were new per generation with the authors' code, 53 to 63 with ours before.

    Of 100 different parents, a quarter are mutated. Of some 100 children all are new, except those
    that are not mutated and were cut before the first token or crossed with themselves.
    """
    words = torch.arange(1, 2000)
    parents = words[torch.randint(len(words), (8, 100, 16), generator=RNG.generator("parents"))]
    generators = [RNG.generator(g) for g in range(8)]
    people, there = breed(parents, draw_chances(generators, 100, 16, words, 0.5, 0.25), "published")
    known = torch.zeros(parents.shape[:2])
    new = [0] * 8

    def errors(rows_N1K: Tensor) -> Tensor:
        for goal in rows_N1K[:, 0].tolist():
            new[goal] += 1
        return torch.zeros(len(rows_N1K))

    errors_of_the_new(people, there, parents, known, errors)
    assert 96 <= sum(new) / len(new) <= 137


def test_only_new_prompts_are_encoded() -> None:
    """Not a parent again, not a child that is a parent, not twins; but a parent that changed, and each goal's own."""
    parents = torch.tensor([[[1, 2], [3, 4]], [[1, 2], [5, 6]]])
    known = torch.tensor([[0.5, 1.5], [2.5, 3.5]])
    people = torch.tensor([
        [[1, 2], [7, 8], [7, 8], [3, 9], [3, 4], [0, 0]],
        [[1, 2], [3, 4], [0, 0], [1, 2], [7, 8], [5, 6]],
    ])  # fmt: skip
    there = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 0, 1, 1, 1]], dtype=torch.bool)
    asked = list[list[int]]()

    def errors(rows_N1K: Tensor) -> Tensor:
        asked.extend(rows_N1K.tolist())
        return rows_N1K.float() @ torch.tensor([100.0, 1.0, 0.0])

    found = errors_of_the_new(people, there, parents, known, errors)
    assert asked == [[0, 3, 9], [0, 7, 8], [1, 3, 4], [1, 7, 8]]
    nobody = float("inf")
    assert found.tolist() == [[0.5, 7, 7, 3, 1.5, nobody], [2.5, 103, nobody, 2.5, 107, 3.5]]
    asked.clear()
    everybody = torch.ones(known.shape, dtype=torch.bool)
    assert torch.equal(errors_of_the_new(parents, everybody, parents, known, errors), known)
    assert asked == []
    again = errors_of_all(people, there, parents, known, errors)
    assert len(asked) == 10
    assert torch.equal(again.isinf(), ~there)
