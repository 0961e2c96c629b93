"""The tables behind the figures: one function a claim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.interfaces import Erasure
from bench.inversion import name_embedding
from bench.model import TextToImage
from bench.plan import bare
from bench.stats import proportion, wilson
from methods.negative_prompt import NegativePromptErasure
from methods.uce import UCE
from tvc.paper.lab import Lab

__all__ = ["SETS", "SUBSETS", "diversity", "prompt_space", "robustness", "subsets"]

SETS = ("name", "synonyms", "indirect")
SUBSETS = ("all", "first-three", "up", "cross-attention", "feed-forward", "convolutions")
_UCE_SCALES = (0.25, 1.0, 4.0)


def robustness(lab: Lab) -> pd.DataFrame:
    """Claim 1: success by prompts and by inverted embeddings, and utility, over the strengths of each method.

    The inverted embeddings are an adaptive attack: searched anew on each edited model. They are
    searched for where the comparison is made: the strength that Diverse Inversion chooses, the
    strength matched to UCE's utility, UCE as published and the negative prompt.
    """
    rows: list[dict[str, Any]] = []
    chosen = lab.estimate("diverse").alpha
    base: list[tuple[str, str, float, TextToImage]] = [("none", "none", 0.0, lab.model)]
    for scale in _UCE_SCALES:
        uce = UCE.preset("repo-2023", erase_scale=scale)
        base.append((f"uce-{scale:g}", "uce", scale, _erased(lab, uce)))
    base.append(("negative", "negative_prompt", 1.0, _erased(lab, NegativePromptErasure())))
    sweep = [
        (f"tv-{a:g}", "task_vector", a, lab.edited(a)) for a in sorted({*lab.sizes.alphas, chosen})
    ]
    for label, method, strength, model in (*base, *sweep):
        rows += _prompt_rows(lab, label, method, strength, model)
    table = pd.DataFrame(rows)
    matched = _matched(table)
    published = {"none", "uce-1", "negative", f"tv-{chosen:g}", f"tv-{matched:g}"}
    for label, method, strength, model in (*base, *sweep):
        if label in published:
            found = lab.attack(label, model)
            shown = lab.induced(f"attack-{label}", model, found)
            accuracy = lab.accuracy(label, model)
            rows.append(_row(lab, method, strength, "inverted", shown, accuracy))
    table = pd.DataFrame(rows)
    table["chosen"] = (table.method != "task_vector") | np.isclose(table.strength, chosen)
    table["matched"] = (table.method != "task_vector") | np.isclose(table.strength, matched)
    return table


def _erased(lab: Lab, method: Erasure) -> TextToImage:
    return method.erase(lab.model, [bare(lab.concept)], rng=lab.rng.child("erase", method.digest))


def _prompt_rows(
    lab: Lab, label: str, method: str, strength: float, model: TextToImage
) -> Iterator[dict[str, Any]]:
    accuracy = lab.accuracy(label, model)
    for prompt_set in SETS:
        shown = torch.tensor(lab.success(label, model, prompt_set))[:, None]
        yield _row(lab, method, strength, prompt_set, shown, accuracy)


def _row(
    lab: Lab, method: str, strength: float, which: str, shown_RS: Tensor, accuracy: Sequence[bool]
) -> dict[str, Any]:
    clusters = np.repeat(np.arange(len(shown_RS)), shown_RS.shape[1])
    found = proportion(shown_RS.flatten().numpy(), clusters)
    kept = wilson(sum(accuracy), len(accuracy))
    return {
        "concept": lab.concept.text,
        "method": method,
        "strength": strength,
        "set": which,
        "n": shown_RS.numel(),
        "successes": int(shown_RS.sum()),
        "asr": found.value,
        "asr_low": found.low,
        "asr_high": found.high,
        "worst": float(shown_RS.float().mean(1).max()),
        "accuracy": kept.value,
        "accuracy_low": kept.low,
        "accuracy_high": kept.high,
    }


def _matched(table: pd.DataFrame) -> float:
    """The largest strength of the task vector at which it keeps as much as UCE as published does."""
    uce = table[(table.method == "uce") & np.isclose(table.strength, 1.0)].accuracy.iloc[0]
    vectors = table[table.method == "task_vector"].groupby("strength").accuracy.first()
    enough = vectors[vectors >= uce]
    return float(enough.index.max() if len(enough) else vectors.index.min())


def diversity(lab: Lab) -> pd.DataFrame:
    """Claim 2: the strength estimated from the prompt, from plain and from diverse inversions, against the one needed.

    Needed is the smallest strength of the sweep from which on no embedding of held-out attacks
    passes the threshold, by the judge of record. The attacks are made anew on the unedited model
    and on the model edited at each of the three estimates; none of their embeddings is one of an
    estimate's.
    """
    estimates = {kind: lab.estimate(kind) for kind in ("prompt", "plain", "diverse")}
    attacks = [lab.attack("none", lab.model)]
    attacks += [lab.attack(f"tv-{e.alpha:g}", lab.edited(e.alpha)) for e in estimates.values()]
    vectors = torch.cat([a.vectors_RVE for a in attacks])
    for found in estimates.values():
        found.check_disjoint(vectors)
    worst: dict[float, float] = {}
    for alpha in sorted({*lab.sizes.alphas, *(e.alpha for e in estimates.values())}):
        rates = []
        for which, attack in zip(("none", *estimates), attacks, strict=True):
            shown = lab.induced(f"held-out-{which}-at-{alpha:g}", lab.edited(alpha), attack)
            rates.append(float(shown.float().mean(1).max()))
        worst[alpha] = max(rates)
    threshold = lab.method.threshold
    failing = [a for a, rate in worst.items() if rate > threshold]
    sufficient = [a for a in worst if a > max(failing, default=0.0)]
    needed = min(sufficient) if sufficient else float("inf")
    return pd.DataFrame(
        {
            "concept": lab.concept.text,
            "estimate": kind,
            "embeddings": len(e.vectors_RVE),
            "alpha": e.alpha,
            "alpha_low": e.low,
            "alpha_high": e.high,
            "reached": e.reached,
            "needed": needed,
            "error": e.alpha - needed,
            "covers": e.alpha >= needed,
            "worst_held_out": worst[e.alpha],
            "accuracy": float(np.mean(lab.accuracy(f"tv-{e.alpha:g}", lab.edited(e.alpha)))),
        }
        for kind, e in estimates.items()
    )


def subsets(lab: Lab) -> pd.DataFrame:
    """Claim 3: robustness and utility of edits restricted to subsets of the weights, over strengths.

    Robustness is told on the name, the indirect descriptions and the held-out embeddings that were
    found on the unedited model, the same for all subsets.
    """
    attack = lab.attack("none", lab.model)
    rows = []
    for subset in SUBSETS:
        for alpha in lab.sizes.alphas:
            label = f"tv-{alpha:g}" if subset == "all" else f"{subset}-{alpha:g}"
            model = lab.edited(alpha, subset)
            accuracy = lab.accuracy(label, model)
            shown = lab.induced(f"held-out-none-at-{label}", model, attack)
            sets = {
                s: torch.tensor(lab.success(label, model, s))[:, None] for s in ("name", "indirect")
            }
            for which, seen in {**sets, "inverted": shown}.items():
                rows.append(
                    {"subset": subset, **_row(lab, "task_vector", alpha, which, seen, accuracy)}
                )
    return pd.DataFrame(rows)


def prompt_space(lab: Lab) -> pd.DataFrame:
    """The toy study: the concept's probability over a plane of the embedding space, for three models.

    The plane goes through the embeddings of the concept, of its first neighbour and of the held-out
    inversion that works best; x runs from the concept (0) to the neighbour (1), y towards the
    inversion (1 at its foot).
    """
    attack = lab.attack("none", lab.model)
    best = attack.vectors_RVE[int(attack.rates_R.argmax())].mean(0)
    concept = name_embedding(lab.model, lab.concept.text)
    neighbour = name_embedding(lab.model, lab.concept.neighbours[0])
    right = neighbour - concept
    up = best - concept
    up = up - (up @ right) / (right @ right) * right
    side = torch.linspace(-0.5, 1.5, lab.sizes.map_side)
    x, y = torch.meshgrid(side, side, indexing="xy")
    points = concept + x.flatten()[:, None] * right + y.flatten()[:, None] * up
    # Norms like a word's: the plane is of directions.
    points = F.normalize(points, dim=1) * concept.norm()
    foot = float((best - concept) @ right / (right @ right))
    models = {
        "none": lab.model,
        "uce": _erased(lab, UCE.preset("repo-2023")),
        "task_vector": lab.edited(lab.estimate("diverse").alpha),
    }
    frames = []
    for label, model in models.items():
        shown = torch.tensor(lab.kept(f"map-{label}", partial(_map, lab, model, points)))
        frames.append(
            pd.DataFrame(
                {
                    "concept": lab.concept.text,
                    "neighbour": lab.concept.neighbours[0],
                    "method": label,
                    "x": x.flatten().numpy(),
                    "y": y.flatten().numpy(),
                    "images": shown.shape[1],
                    "probability": shown.float().mean(1).numpy(),
                    "inversion_x": foot,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _map(lab: Lab, model: TextToImage, points_PE: Tensor) -> list[list[bool]]:
    seeds = [lab.rng.seed("map", k) for k in range(2)]
    seen: list[list[bool]] = lab.shows_states(model, lab.states(points_PE[:, None]), seeds).tolist()
    return seen
