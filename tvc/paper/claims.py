"""The tables behind the figures: one function per claim."""

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
from bench.model.text_to_image import TextToImage
from bench.tables.stats import proportion, wilson
from bench.toolkit.inversion import name_embedding
from tvc.paper.lab import Lab
from tvc.strength import chance_level

__all__ = [
    "SETS",
    "SUBSETS",
    "diversity",
    "erased",
    "matched_strength",
    "measured",
    "prompt_space",
    "robustness",
    "subsets",
    "unique_labels",
]

SETS = ("name", "synonyms", "indirect")
SUBSETS = ("all", "first-three", "mid", "up", "cross-attention")


def robustness(lab: Lab, competitors: Sequence[Erasure]) -> pd.DataFrame:
    """Claim 1: success by prompts and by inverted embeddings, and utility, over the strengths of the task vector.

    The inverted embeddings are an adaptive attack: searched anew on each edited model. They are
    searched for where the comparison is made: the unedited model, each competitor, and two strengths.
    One is chosen by Diverse Inversion. One is matched to each competitor's utility; the column
    ``matched`` names it.

    Args:
        lab: The concept and training seed.
        competitors: Methods to compare with.
    """
    chosen = lab.chosen()
    labels = unique_labels(competitors)
    models: dict[str, tuple[str, float, TextToImage]] = {"none": ("none", 0.0, lab.model)}
    models |= {n: (n, 1.0, erased(lab, c)) for n, c in zip(labels, competitors, strict=True)}
    models |= {
        f"tv-{a:g}": ("task_vector", a, lab.edited(a)) for a in sorted({*lab.sizes.alphas, chosen})
    }
    rows = [row for label, what in models.items() for row in _prompt_rows(lab, label, *what)]
    matched = {label: matched_strength(pd.DataFrame(rows), label) for label in labels}
    searched = {"none", *labels, f"tv-{chosen:g}", *(f"tv-{a:g}" for a in matched.values())}
    for label, (method, strength, model) in models.items():
        if label in searched:
            found = lab.attack(label, model)
            shown = lab.induced(f"attack-{label}", model, found)
            rows.append(
                measured(lab, method, strength, "inverted", shown, lab.accuracy(label, model))
            )
    table = pd.DataFrame(rows)
    table["chosen"] = (table.method != "task_vector") | np.isclose(table.strength, chosen)
    to = {a: " ".join(n for n, alpha in matched.items() if alpha == a) for a in matched.values()}
    vector = table.method == "task_vector"
    table["matched"] = [
        to.get(a, "") if v else "" for a, v in zip(table.strength, vector, strict=True)
    ]
    return table


def unique_labels(methods: Sequence[Erasure]) -> list[str]:
    """Names of methods; their labels where two share a name."""
    names = [m.name for m in methods]
    return [m.name if names.count(m.name) == 1 else m.label for m in methods]


def erased(lab: Lab, method: Erasure) -> TextToImage:
    """The lab's concept erased by another method."""
    return method(lab.model, [lab.concept], rng=lab.rng.child("erase", method.digest))


def _prompt_rows(
    lab: Lab, label: str, method: str, strength: float, model: TextToImage
) -> Iterator[dict[str, Any]]:
    accuracy = lab.accuracy(label, model)
    for prompt_set in SETS:
        shown = torch.tensor(lab.success(label, model, prompt_set))[:, None]
        yield measured(lab, method, strength, prompt_set, shown, accuracy)


def measured(
    lab: Lab,
    method: str,
    strength: float,
    which: str,
    shown_RS: Tensor | np.ndarray[Any, Any],
    accuracy: Sequence[bool],
) -> dict[str, Any]:
    """A row of a table: success of one kind of input on one model, and the accuracy of that model.

    Args:
        lab: The concept and training seed.
        method: What made the model.
        strength: At which it was edited.
        which: The kind of input.
        shown_RS: Bool [inputs, seeds]: the image shows the concept.
        accuracy: Whether the model drew what utility prompts ask for.
    """
    shown_RS = torch.as_tensor(shown_RS)
    clusters = np.repeat(np.arange(len(shown_RS)), shown_RS.shape[1])
    found = proportion(shown_RS.flatten().numpy(), clusters)
    kept = wilson(sum(accuracy), len(accuracy))
    return {
        "concept": lab.concept.text,
        "seed": lab.seed,
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
        "accuracy_n": len(accuracy),
        # Halves of the prompts: what is chosen on one is reported on the other.
        "accuracy_even": float(np.mean(accuracy[::2])),
        "accuracy_odd": float(np.mean(accuracy[1::2])),
    }


def matched_strength(table: pd.DataFrame, competitor: str) -> float:
    """The largest strength at which the task vector keeps as much as the competitor; the smallest if it never does."""
    theirs = table[table.method == competitor].accuracy.iloc[0]
    vectors = table[table.method == "task_vector"].groupby("strength").accuracy.first()
    enough = vectors[vectors >= theirs]
    return float(enough.index.max() if len(enough) else vectors.index.min())


def diversity(lab: Lab) -> pd.DataFrame:
    """Claim 2: the strength estimated from the prompt, from plain and from diverse inversions, against the one needed.

    Held-out attacks say which is needed: the smallest strength of the sweep from which on none of
    their embeddings shows the concept too often. Each is looked at from the strength on that it was
    searched at. The judge of record decides, and too often is more
    often than the worst of them typically would at the rate allowed. The attacks are made anew on the unedited
    model and on the model edited at each of the estimates. None of their embeddings is one of
    an estimate's. After a round that found nothing the later ones stand where it does.
    """
    estimates = {kind: lab.estimate(kind) for kind in ("prompt", "plain", "diverse")}
    estimates |= {f"round {k}": e for k, e in enumerate(lab.rounds(), start=1)}
    attacks = {0.0: lab.attack("none", lab.model)}
    for alpha in dict.fromkeys(e.alpha for e in estimates.values()):
        attacks[alpha] = lab.attack(f"tv-{alpha:g}", lab.edited(alpha))
    vectors = torch.cat([a.vectors_RVE for a in attacks.values()])
    for found in estimates.values():
        found.check_disjoint(vectors)
    worst: dict[float, float] = {}
    for alpha in sorted({*lab.sizes.alphas, *(e.alpha for e in estimates.values())}):
        rates = []
        for searched_at, attack in attacks.items():
            if searched_at <= alpha:
                label = f"held-out-{searched_at:g}-at-{alpha:g}"
                shown = lab.induced(label, lab.edited(alpha), attack)
                rates.append(float(shown.float().mean(1).max()))
        worst[alpha] = max(rates)
    # As an estimate is: by what the worst of as many embeddings at the rate allowed typically shows.
    rows, how = sum(len(a.vectors_RVE) for a in attacks.values()), lab.method.strength()
    chance = chance_level(how.threshold, rows, lab.sizes.seeds, how.confidence)
    failing = [a for a, rate in worst.items() if rate > max(how.threshold, chance)]
    sufficient = [a for a in worst if a > max(failing, default=0.0)]
    needed = min(sufficient) if sufficient else float("inf")
    return pd.DataFrame(
        {
            "concept": lab.concept.text,
            "seed": lab.seed,
            "estimate": kind,
            "embeddings": len(e.vectors_RVE),
            "alpha": e.alpha,
            "alpha_low": e.low,
            "alpha_high": e.high,
            "reached": e.reached,
            "needed": needed,
            "largest": max(worst),
            "error": e.alpha - needed,
            "covers": e.alpha >= needed,
            "worst_held_out": worst[e.alpha],
            "accuracy": float(np.mean(lab.accuracy(f"tv-{e.alpha:g}", lab.edited(e.alpha)))),
        }
        for kind, e in estimates.items()
    )


def subsets(lab: Lab) -> pd.DataFrame:
    """Claim 3: robustness and utility of edits restricted to subsets of the weights, over strengths.

    Robustness is told on all prompt sets and on the held-out embeddings that were found on the
    unedited model, the same for all subsets.
    """
    attack = lab.attack("none", lab.model)
    rows = []
    for subset in SUBSETS:
        for alpha in lab.sizes.alphas if subset == "all" else lab.sizes.subset_alphas:
            label = f"tv-{alpha:g}" if subset == "all" else f"{subset}-{alpha:g}"
            model = lab.edited(alpha, subset)
            accuracy = lab.accuracy(label, model)
            if subset == "all":  # claim 2 has them already
                shown = lab.induced(f"held-out-0-at-{alpha:g}", model, attack)
            else:
                shown = lab.induced(f"held-out-0-at-{label}", model, attack)
            sets = {s: torch.tensor(lab.success(label, model, s))[:, None] for s in SETS}
            for which, seen in {**sets, "inverted": shown}.items():
                row = measured(lab, "task_vector", alpha, which, seen, accuracy)
                rows.append({"subset": subset, **row})
    return pd.DataFrame(rows)


def prompt_space(lab: Lab, competitors: Sequence[Erasure]) -> pd.DataFrame:
    """The toy study: the concept's probability over a plane of the embedding space, for several models.

    The plane goes through the embeddings of the concept, of its first neighbour and of the held-out
    inversion that works best. Its x runs from the concept (0) to the neighbour (1), y towards the
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
    models = {"none": lab.model}
    models |= {
        n: erased(lab, c) for n, c in zip(unique_labels(competitors), competitors, strict=True)
    }
    models["task_vector"] = lab.edited(lab.chosen())
    frames = []
    for label, model in models.items():
        shown = torch.tensor(lab.kept(f"map-{label}", partial(_map, lab, model, points), of=label))
        frames.append(
            pd.DataFrame(
                {
                    "concept": lab.concept.text,
                    "seed": lab.seed,
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
