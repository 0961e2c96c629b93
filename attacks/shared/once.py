"""Searches in the text encoder alone are done once per encoder and goal, whatever model it is part of.

A find is kept with what it cost. Whoever takes it spends its gradient steps as if the search were
done again, and is told its seconds apart from those that pass. So what an attack costs does not
depend on which cell a process computed first.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple, TypeVar

from bench.core.digest import digest_of
from bench.core.lazy import torch
from bench.interfaces import Context, Goal, Role
from bench.model.text_to_image import TextToImage

__all__ = ["Keep", "encoder_digest", "once_per_encoder"]

Keep = Literal["process", "nothing"]
"""``process`` keeps finds while the process lasts, for other models with the same text encoder; ``nothing`` never."""
Find = TypeVar("Find")
_KEPT: Final = 8192


class _Kept(NamedTuple):
    """A find, and what the search for it cost.

    Attributes:
        find: The same whenever it is computed, so keeping it changes time only.
        seconds: Its share of the search, which may have had several goals.
        steps: Gradient steps of the search: as many for one goal as for all of a batch.
    """

    find: Any
    seconds: float
    steps: int


_found: OrderedDict[str, _Kept] = OrderedDict()


def once_per_encoder(
    search: Callable[[list[Goal]], list[Find]],
    goals: Sequence[Goal],
    *,
    keep: Keep,
    model: TextToImage,
    told: Mapping[str, object],
    ctx: Context,
) -> list[Find]:
    """The find of each goal, from the last search with the same encoder, constants, goal and draws.

    Args:
        search: Gives finds for the goals that have none.
        goals: One or more.
        keep: ``nothing`` searches for all, and keeps none.
        model: The edited model; only its text encoder counts.
        told: Everything else that decides: the name of the search, its constants, what it draws from.
        ctx: Its streams are part of the question. Its meter is charged for finds that were kept.
    """
    if keep == "nothing":
        return search(list(goals))
    encoder = encoder_digest(model)
    keys = [
        digest_of(
            {
                **told,
                "encoder": encoder,
                "concept": [goal.concept.text, goal.concept.family],
                "prompt": goal.prompt,
                "seed": ctx.seed(goal.id, "once"),
            }
        )
        for goal in goals
    ]
    missing = [i for i, key in enumerate(keys) if key not in _found]
    there = [_found[key] for key in keys if key in _found]
    spent = 0
    if missing:
        steps, began = ctx.meter.gradient_steps, time.perf_counter()
        new = search([goals[i] for i in missing])
        seconds = (time.perf_counter() - began) / len(missing)
        spent = ctx.meter.gradient_steps - steps
        _found.update(
            (keys[i], _Kept(find, seconds, spent)) for i, find in zip(missing, new, strict=True)
        )
    if there:
        # In one batch with the others they would have taken no step more than the longest search.
        ctx.spend(gradient_steps=max(0, max(kept.steps for kept in there) - spent))
        ctx.meter.reuse(finds=len(there), seconds=sum(kept.seconds for kept in there))
    finds = [_found[key].find for key in keys]
    while len(_found) > _KEPT:
        _found.popitem(last=False)
    return finds


def encoder_digest(model: TextToImage) -> str:
    """Identifies the text encoder: the base, its precision, and the values and hooks an edit put into it."""
    values = {n: w for n, w in model.weights.items() if Role.TEXT_ENCODER in model.roles_of(n)}
    sums = {
        name: hashlib.sha256(
            value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        ).hexdigest()
        for name, value in sorted(values.items())
    }
    about = {"base": model.base_digest, "dtype": str(model.dtype), "text_encoder": sums}
    if model.hooks:
        about["hooks"] = replace(model.unedited, hooks=model.hooks).digest
    return digest_of(about)
