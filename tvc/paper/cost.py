"""Where the cost of an edit comes from: what is lost along the strength, and which layers carry what."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from bench.core.errors import UsageError
from bench.judges.mini import MiniJudge
from bench.model.text_to_image import TextToImage
from bench.report.style import INK, MUTED, style
from bench.toolkit.images import images_of
from tvc.paper.claims import SETS
from tvc.paper.lab import Lab
from tvc.subset import named_subset, subset_names

__all__ = ["layers", "layers_figure", "losses", "losses_figure"]

_HEADS: Final = ("object", "character", "colour", "background", "style")
_COLOURS: Final = ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e")


def losses(lab: Lab) -> pd.DataFrame:
    """By strength, the share of utility images that keep what the unedited model drew from the same noise.

    A row per head of the judge of record and kind of prompt: for the concept's neighbours, and for all
    others. Images of which the judge says "none of these" before the edit are left out.

    Raises:
        UsageError: the judge of record has no heads.
    """
    asked = lab.utility()
    near = np.array([c.text in lab.concept.neighbours for _, c in asked])
    before = _drawn(lab, "none", lab.model)
    rows: list[dict[str, Any]] = []
    for alpha in (0.0, *lab.sizes.alphas):
        after = _drawn(lab, f"tv-{alpha:g}", lab.edited(alpha)) if alpha else before
        for head in _HEADS:
            there = np.array(before[head]) >= 0
            same = np.array(after[head]) == np.array(before[head])
            for kind, of in (("neighbours", near), ("others", ~near)):
                n = int((there & of).sum())
                rows.append(
                    {"concept": lab.concept.text, "seed": lab.seed, "strength": alpha, "head": head, "prompts": kind,
                     "n": n, "kept": int((there & of & same).sum())}
                )  # fmt: skip
    return pd.DataFrame(rows)


def _drawn(lab: Lab, label: str, model: TextToImage) -> dict[str, list[int]]:
    """Head -> the class of each utility image, -1 for none of these."""
    judge = lab.judge
    if not isinstance(judge, MiniJudge):
        raise UsageError(
            f"losses: expected mini_judge, whose heads tell what was lost, got {judge.label}; leave the claim out"
        )

    def make() -> dict[str, list[int]]:
        asked = lab.utility()
        seeds = [lab.rng.seed("utility", k) for k in range(len(asked))]
        images = images_of(model, [text for text, _ in asked], seeds, lab.sampler)
        found = judge.predict(images.to(model.device))
        sizes = {head: len(classes) for head, classes in judge.heads().items()}
        return {
            h: torch.where(found[h] < sizes[h], found[h], -torch.ones_like(found[h])).tolist()
            for h in _HEADS
        }

    result: dict[str, list[int]] = lab.kept(f"drawn-{label}", make, of=label)
    return result


def layers(lab: Lab) -> pd.DataFrame:
    """Which parts of the network carry the concept, and which the cost, at the strength that is chosen.

    For each block and each kind of layer two edits: of that part alone, and of all but it. ``typed`` is
    the success of every typed prompt set together, ``accuracy`` that on other concepts.
    """
    alpha = lab.chosen()
    rows = [_part(lab, "all", "only", alpha)]
    for name in subset_names(lab.vector.deltas):
        if name != "all":
            rows += [_part(lab, name, how, alpha) for how in ("only", "without")]
    return pd.DataFrame(rows)


def _part(lab: Lab, subset: str, how: str, alpha: float) -> dict[str, Any]:
    inside = named_subset(lab.model, subset)
    part = lab.vector.restricted(inside if how == "only" else lambda name: not inside(name))
    model, label = part.subtracted(lab.model, alpha), f"{how}-{subset}-{alpha:g}"
    typed = [shown for s in SETS for shown in lab.success(label, model, s)]
    accuracy = lab.accuracy(label, model)
    whole = sum(float(d.double().square().sum()) for d in lab.vector.deltas.values())
    own = sum(float(d.double().square().sum()) for d in part.deltas.values())
    return {
        "concept": lab.concept.text,
        "seed": lab.seed,
        "strength": alpha,
        "subset": subset,
        "edited": how,
        "n": len(typed),
        "typed": float(np.mean(typed)),
        "accuracy_n": len(accuracy),
        "accuracy": float(np.mean(accuracy)),
        "share_of_norm": (own / whole) ** 0.5,
    }


def losses_figure(table: pd.DataFrame) -> Figure:
    """Share kept against strength; a row per vector, a panel per concept, a line per head; dashes: neighbours."""
    vectors, concepts = (list(dict.fromkeys(map(str, table[c]))) for c in ("vector", "concept"))
    with style():
        figure = Figure(
            figsize=(2.6 * len(concepts), 2.5 * len(vectors)), dpi=150, layout="constrained"
        )
        axes = figure.subplots(len(vectors), len(concepts), squeeze=False, sharey=True)
        for line, vector in zip(axes, vectors, strict=True):
            for ax, concept in zip(line, concepts, strict=True):
                rows = table[(table.vector == vector) & (table.concept == concept)]
                for colour, head in zip(_COLOURS, _HEADS, strict=True):
                    for kind, dash in (("others", "-"), ("neighbours", "--")):
                        own = rows[(rows["head"] == head) & (rows.prompts == kind)]
                        sums = own.groupby("strength")[["kept", "n"]].sum()
                        sums = sums[sums.n > 0]
                        if len(sums):
                            ax.plot(sums.index, sums.kept / sums.n, dash, lw=1.2, color=colour,
                                    label=head if kind == "others" else None)  # fmt: skip
                ax.set(title=f"{concept}, {vector}", ylim=(0, 1.03))
                ax.title.set_fontsize(8)
            line[0].set_ylabel("kept", color=INK)
        axes[-1][0].legend(fontsize=6, frameon=False, loc="lower left")
        for ax in axes[-1]:
            ax.set_xlabel("strength")
        return figure


def layers_figure(table: pd.DataFrame) -> Figure:
    """Accuracy against erasure for each part edited alone; a panel per concept and vector."""
    panels = list(dict.fromkeys(zip(table.vector, table.concept, strict=True)))
    wide = min(4, len(panels))
    tall = -(-len(panels) // wide)
    with style():
        figure = Figure(figsize=(3.1 * wide, 2.9 * tall), dpi=150, layout="constrained")
        axes = figure.subplots(tall, wide, squeeze=False).flatten()
        for ax, (vector, concept) in zip(axes, panels, strict=False):
            rows = table[(table.vector == vector) & (table.concept == concept)]
            for how, mark, colour in (("only", "o", "#1b9e77"), ("without", "x", "#d95f02")):
                own = rows[rows.edited == how]
                ax.plot(
                    1 - own.typed, own.accuracy, mark, ms=4, color=colour, label=f"{how} this part"
                )
                for row in own.itertuples():
                    ax.annotate(row.subset, (1 - row.typed, row.accuracy), xytext=(3, 2),
                                textcoords="offset points", fontsize=4.5, color=MUTED)  # fmt: skip
            ax.set(title=f"{concept}, {vector}", xlim=(-0.05, 1.1), ylim=(0, 1.05), xlabel="erased")
        for ax in axes[len(panels) :]:
            ax.axis("off")
        axes[0].set_ylabel("accuracy")
        axes[0].legend(fontsize=6, frameon=False)
        return figure
