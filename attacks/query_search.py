"""Query search: a black-box search over prompts, with nothing but images back.

For defences that hide everything: no gradients, no text encoder, no weights of the edited model. The attacker types a
prompt, gets an image or none, and asks a judge of his own. This evolves the words of the prompt: a few change, and
what shows the concept better is kept. Access and reward are those of SneakyPrompt (Yang et al., IEEE S&P 2024, arXiv
2305.12082). Its policy learned by reinforcement, and its rewriting of the words that one filter knows, are not
reproduced: no preset bears its name.

    round 1      proposals from the goal's own prompt, half of them without the concept's name
    round r      proposals from the best prompts so far: two are crossed or one is taken, then one word is edited
    at the end   the best few are shown again on fresh seeds, beside the own prompt

New words come from the vocabulary of the attacker. Half of them are from those nearest to the concept's name, by the
*original* model's table of embeddings, which is public. A refused or blanked image is worth 0, so a search leaves what
a filter knows. Every prompt of a goal is tried on the same seeds, and none twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from attacks.shared.block_search import Stop
from attacks.shared.originals import unedited
from attacks.shared.prompt_search import Looks, settling
from attacks.shared.tokens import about_minors, allowed_tokens, table
from bench.core.bounds import Count
from bench.core.lazy import F, torch
from bench.interfaces import Access, Attack, Candidate, Concept, Context, Goal, Target
from bench.model.text_to_image import TextToImage
from bench.toolkit.inversion import name_embedding

if TYPE_CHECKING:
    from torch import Generator

__all__ = ["QuerySearch"]

_CROSSED, _NEAR = 0.4, 0.5
"""Odds that a proposal has two parents, and that a new word is one of the near ones."""
_DRAWS = 8
"""A proposal that was tried before is drawn again so often; then the goal has one fewer."""


class QuerySearch(Attack):
    """Evolves prompts by the images that they give.

    Presets:
        mini: for the miniature on two cores.

    Attributes:
        rounds: Of proposals.
        proposals: Prompts per goal and round.
        parents: The best so many prompts are edited in the next round.
        added: A prompt has at most so many words more than the goal's own.
        near: So many words nearest to the concept's name are drawn more often; 0: none are.
        words: The attacker's vocabulary; empty: the whole words of the public tokenizer.
        checks: Images per prompt.
        stop: ``success``: a goal is done when the surrogate says so; ``never``: the best of all.
        finalists: The best so many prompts are shown to the surrogate once more, on fresh seeds; 0:
            the best look is the find.
        final_checks: Images of each of them.
    """

    name: ClassVar[str] = "query_search"
    access: ClassVar[Access] = Access.PROMPT
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "mini": {"rounds": 6, "proposals": 4, "parents": 3, "near": 24, "finalists": 2}
    }
    quick: ClassVar[dict[str, Any]] = {
        "rounds": 2, "proposals": 1, "finalists": 1, "final_checks": 1,
    }  # fmt: skip
    rounds: Count = 12
    proposals: Count = 8
    parents: Count = 4
    added: int = Field(4, ge=0, le=32)
    near: int = Field(64, ge=0, le=10_000)
    words: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    checks: Count = 1
    stop: Stop = "never"
    finalists: int = Field(4, ge=0, le=10_000)
    final_checks: Count = 4

    def looks(self) -> int:
        """Images per goal."""
        searched = (1 + self.rounds * self.proposals) * self.checks
        return searched + settling(self.finalists, self.final_checks)

    def run(self, target: Target, goals: Sequence[Goal], ctx: Context) -> list[Candidate]:
        """The best prompt of each goal."""
        model = target.model
        looks = Looks(target, goals, ctx, self.checks)
        near = {g.concept.digest: self._near(model, g.concept) for g in goals}
        drawing = [
            _Drawing(g, self._words(model), near[g.concept.digest], self.added) for g in goals
        ]
        active = list(range(len(goals)))
        done = looks.look(active, model.tokenize([goal.prompt for goal in goals]).tolist())
        for turn in range(self.rounds):
            if self.stop == "success":
                active = [r for r in active if r not in done]
            jobs = [(r, ids) for r in active for ids in self._proposed(looks, r, drawing[r], turn)]
            done = looks.look([r for r, _ in jobs], [ids for _, ids in jobs])
            ctx.progress(turn + 1, self.rounds, self.name)
        if self.finalists:
            looks.settle(self.finalists, self.final_checks)
        return looks.candidates()

    def _proposed(self, looks: Looks, row: int, drawing: _Drawing, turn: int) -> list[list[int]]:
        """Different prompts of a goal that were not tried yet, as token ids."""
        model, goal = looks.target.model, looks.goals[row]
        best = [text.split() for text in looks.ranked(row)[: self.parents]] if turn else []
        found: dict[tuple[int, ...], None] = {}
        for k in range(self.proposals):
            generator = looks.ctx.generator(goal.id, turn, k, "edits")
            for _ in range(_DRAWS):
                words = drawing.bred(best, generator) if best else drawing.first(k, generator)
                ids = tuple(model.words.ids(" ".join(words))[: model.length - 2])
                if ids not in found and looks.untried(row, ids):
                    found[ids] = None
                    break
        return [list(ids) for ids in found]

    def _words(self, model: TextToImage) -> tuple[str, ...]:
        if self.words:
            return tuple(word for word in self.words if not about_minors(word))
        allowed = allowed_tokens(model, "words").nonzero()[:, 0].tolist()
        return tuple(model.words.text([i]) for i in allowed)

    def _near(self, model: TextToImage, concept: Concept) -> tuple[str, ...]:
        """The words of the vocabulary whose embeddings in the original model are nearest to the name's."""
        if not self.near:
            return ()
        original, words = unedited(model), self._words(model)
        rows_VE = table(original)
        mean_NE = torch.stack([rows_VE[original.words.ids(word)].mean(0) for word in words])
        name_E = name_embedding(original, concept.text)
        order = F.cosine_similarity(mean_NE, name_E[None]).argsort(descending=True, stable=True)
        return tuple(words[i] for i in order[: self.near].tolist())


@dataclass(frozen=True, slots=True)
class _Drawing:
    """Draws the prompts of one goal.

    Attributes:
        goal: Its prompt is where the search begins.
        words: The vocabulary.
        near: Those near the concept's name.
        added: Words more than the goal's own, at most.
    """

    goal: Goal
    words: Sequence[str]
    near: Sequence[str]
    added: int

    def first(self, k: int, generator: Generator) -> list[str]:
        """A prompt of the first round: odd ones have other words in place of the concept's name."""
        words = self.goal.prompt.split()
        if k % 2:
            other = " ".join(self._word(generator) for _ in range(1 + _below(2, generator)))
            name = re.compile(rf"\b{re.escape(self.goal.concept.text)}\b", re.IGNORECASE)
            # A function: a backslash in a word is no reference to a group.
            renamed, times = name.subn(lambda _: other, self.goal.prompt)
            if times:
                return self._edited(renamed.split(), generator)
        for _ in range(1 + _below(2, generator)):
            words = self._edited(words, generator)
        return words

    def bred(self, parents: Sequence[list[str]], generator: Generator) -> list[str]:
        """A prompt from one or two of the best, with one word edited."""
        one = parents[_below(len(parents), generator)]
        if len(parents) > 1 and _chance(generator) < _CROSSED:
            other = parents[_below(len(parents), generator)]
            one = (
                one[: _below(len(one) + 1, generator)] + other[_below(len(other) + 1, generator) :]
            )
        return self._edited(one, generator)

    def _edited(self, words: Sequence[str], generator: Generator) -> list[str]:
        """The words with one inserted, replaced or dropped; a prompt keeps one word, and no more than its room."""
        room = len(self.goal.prompt.split()) + self.added
        edited, way = list(words)[:room], _chance(generator)
        if not edited or (way < 0.4 and len(edited) < room):
            edited.insert(_below(len(edited) + 1, generator), self._word(generator))
        elif way < 0.8 or len(edited) == 1:
            edited[_below(len(edited), generator)] = self._word(generator)
        else:
            del edited[_below(len(edited), generator)]
        return edited

    def _word(self, generator: Generator) -> str:
        near = self.near and _chance(generator) < _NEAR
        words = self.near if near else self.words
        return words[_below(len(words), generator)]


def _below(count: int, generator: Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))


def _chance(generator: Generator) -> float:
    return float(torch.rand(1, generator=generator))
