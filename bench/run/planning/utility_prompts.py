"""Which prompts measure what an edit cost: those of other concepts, in turn from each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from bench.interfaces import Concept, UtilityPrompt
from bench.run.cells import Prompts
from bench.run.planning.scope import Scope

__all__ = ["in_turn", "utility_prompts"]


def utility_prompts(scope: Scope, concept: Concept, erased: Sequence[Concept]) -> Prompts:
    """Prompts that ask for other concepts, taken in turn from each, so that each weighs the same.

    Args:
        scope: Says how many, and which concepts are known.
        concept: What is measured; its neighbours are a group of their own.
        erased: What no prompt may ask for or mention.
    """
    gone, known = {c.text for c in erased}, scope.known

    def pick(names: Iterable[str], count: int) -> list[UtilityPrompt]:
        count = count if scope.limit is None else min(scope.limit, count)
        pools = (
            (p for p in known[n].utility if gone.isdisjoint((p.concept, *p.mentions)))
            for n in names
            if n in known and n not in gone
        )
        return list(islice(in_turn(pools), count))

    near = [n for n in concept.neighbours if n in known]
    nearby = set(near)
    far = (n for n in known if n not in nearby)
    picked = [("neighbour", p) for p in pick(near, scope.suite.utility.neighbours)]
    return tuple(picked + [("other", p) for p in pick(far, scope.suite.utility.others)])


def in_turn(pools: Iterable[Iterator[UtilityPrompt]]) -> Iterator[UtilityPrompt]:
    """The first of each pool, the second of each, and so on; pools and prompts are made as they are asked for."""
    left: list[Iterator[UtilityPrompt]] = []
    for pool in pools:
        if (prompt := next(pool, None)) is not None:
            left.append(pool)
            yield prompt
    while left:
        pools, left = left, []
        for pool in pools:
            if (prompt := next(pool, None)) is not None:
                left.append(pool)
                yield prompt
