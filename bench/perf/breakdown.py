"""Where a speed-up comes from: every switch alone, and one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import torch
from torch import Tensor

from bench.model.conditioning import Conditioning
from bench.model.text_to_image import TextToImage
from bench.perf.timing import measure
from bench.perf.workload import Dtype, Size, Workload, reference

__all__ = ["SWITCHES", "TwoCalls", "breakdown"]

_ATTACK: Final = "unlearn_diff_atk"


class TwoCalls(TextToImage):
    """A model that asks its UNet for one branch of the guidance after the other, as reference codes do."""

    def branches(
        self, latents_BChw: Tensor, t: Tensor | int, contexts: Sequence[Conditioning]
    ) -> Tensor:
        """See :meth:`bench.model.text_to_image.TextToImage.branches`."""
        return torch.stack([self.denoise(latents_BChw, t, context) for context in contexts])


@dataclass(frozen=True, slots=True)
class Setting:
    """How the attack is run; the defaults are what the switches start from."""

    batched: bool = False
    one_call: bool = False
    dtype: Dtype = "float32"
    few_looks: bool = False


@dataclass(frozen=True, slots=True)
class Switch:
    """A way to be faster.

    Attributes:
        name: In the table.
        turn: Turns it on.
        keeps: What stays the same: ``results``; ``attack``, its results but for rounding; or
            ``less``: fewer prompts are tried, so it is another attack.
    """

    name: str
    turn: Callable[[Setting], Setting]
    keeps: str


SWITCHES: Final = (
    Switch("batching", lambda s: replace(s, batched=True), "results"),
    Switch("one guidance call", lambda s: replace(s, one_call=True), "results"),
    Switch("bfloat16", lambda s: replace(s, dtype="bfloat16"), "attack"),
    Switch("fewer looks", lambda s: replace(s, few_looks=True), "less"),
)
"""In the order in which they add up: those that change the attack come last."""


def breakdown(models: Mapping[Dtype, TextToImage], size: Size) -> list[dict[str, Any]]:
    """Rows: the start, every switch alone and all up to it; seconds and the ratio to the start.

    Args:
        models: The edited model in both precisions.
        size: How much.
    """
    settings: dict[str, Setting] = {"start": Setting()}
    upto = Setting()
    for switch in SWITCHES:
        upto = switch.turn(upto)
        settings[f"alone: {switch.name}"] = switch.turn(Setting())
        settings[f"up to: {switch.name}"] = upto
    # The first switch alone is the first of the sum: what is the same setting is timed once.
    works = {setting: _work(models, size, setting) for setting in settings.values()}
    names = {setting: str(k) for k, setting in enumerate(works)}
    took = measure(
        {names[setting]: work.job() for setting, work in works.items()},
        size.repeats,
        models["float32"].backbone.device,
    )

    def rate(setting: Setting) -> float:
        return 3600 * works[setting].size.goals / took[names[setting]].median

    start = rate(Setting())
    keeps = {switch.name: switch.keeps for switch in SWITCHES}
    rows = []
    for name, setting in settings.items():
        found = took[names[setting]]
        rows.append(
            {
                "variant": name,
                "keeps": keeps.get(name.partition(": ")[2], "results"),
                "seconds": list(found.seconds),
                "prompts": works[setting].size.goals,
                "prompts_per_hour": rate(setting),
                "ratio": rate(setting) / start,
                "peak_mb": found.peak_mb,
                "added_mb": found.added_mb,
            }
        )
    return rows


def _work(models: Mapping[Dtype, TextToImage], size: Size, setting: Setting) -> Workload:
    model = models[setting.dtype]
    if not setting.one_call:
        values = {f.name: getattr(model, f.name) for f in fields(model) if f.name != "meter"}
        model = TwoCalls(**values)
    block = size.steps if setting.few_looks else size.often
    given = {"iterations": block, "steps": size.steps, "checks": 1}
    work = Workload(model, size, _ATTACK, given)
    return work if setting.batched else reference(work)
