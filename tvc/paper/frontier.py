"""Robustness against what an edit costs, over strengths: per vector, and per shape of a vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bench.interfaces import Concept, Context, bare
from bench.report.style import INK, MUTED, style
from tvc.paper.claims import SETS, measured
from tvc.paper.lab import Lab
from tvc.shaping import averaged, largest, low_rank, orthogonal
from tvc.task_vector import TaskVector

__all__ = ["SHAPES", "frontier", "frontier_figure", "shapes", "shapes_figure"]

_SEEDS: Final = 3
_COLOURS: Final = (
    "#1b9e77",
    "#d95f02",
    "#7570b3",
    "#e7298a",
    "#66a61e",
    "#e6ab02",
    "#a6761d",
    "#666666",
)


def frontier(lab: Lab) -> pd.DataFrame:
    """Success by prompts and by adaptive embeddings, and accuracy, at each strength of the sweep.

    The embeddings are searched anew on the model edited at each strength. That is what an attacker
    does; embeddings of another model say less the stronger the edit is.
    """
    rows = [row for a in lab.sizes.frontier for row in _point(lab, f"tv-{a:g}", a, lab.vector)]
    return pd.DataFrame(rows)


def shapes(lab: Lab) -> pd.DataFrame:
    """The same for each shape of the vector (:mod:`tvc.shaping`)."""
    rows: list[dict[str, Any]] = []
    for name, make in SHAPES.items():
        vector = make(lab)
        for alpha in lab.sizes.frontier:
            label = f"tv-{alpha:g}" if name == "whole" else f"shape-{name}-{alpha:g}"
            rows += [{"shape": name, **row} for row in _point(lab, label, alpha, vector)]
    return pd.DataFrame(rows)


def _point(lab: Lab, label: str, alpha: float, vector: TaskVector) -> list[dict[str, Any]]:
    model = vector.subtracted(lab.model, alpha)
    accuracy = lab.accuracy(label, model)
    base = float(np.mean(lab.accuracy("none", lab.model)))
    shown = {s: np.array(lab.success(label, model, s))[:, None] for s in SETS}
    attack = lab.attack(label, model)
    shown["inverted"] = lab.induced(f"attack-{label}", model, attack).numpy()
    return [
        {
            **measured(lab, "task_vector", alpha, which, seen, accuracy),
            "retained": np.mean(accuracy) / base,
        }
        for which, seen in shown.items()
    ]


def _seeds(lab: Lab) -> TaskVector:
    """The mean over training seeds: the lab's and the two after it."""
    found = [lab.vector]
    for other in range(1, _SEEDS):
        ctx = Context(lab.rng.child("another seed", other))

        def make(ctx: Context = ctx) -> TaskVector:
            concept = bare(lab.concept)
            material = lab.method.material(lab.model, concept, ctx)
            return lab.method.vector(lab.model, concept, material, ctx)

        found.append(lab.kept_vector(f"vector-seed-{other}", make))
    return averaged(found)


def _longer(lab: Lab) -> TaskVector:
    """Twice the images, twice the steps, at half the learning rate."""
    method = lab.method
    how = method.model_copy(
        update={"images": 2 * method.images, "steps": 2 * method.steps, "lr": method.lr / 2}
    )
    ctx = Context(lab.rng.child("longer"))

    def make() -> TaskVector:
        concept = bare(lab.concept)
        return how.vector(lab.model, concept, how.material(lab.model, concept, ctx), ctx)

    return lab.kept_vector("vector-longer", make)


def _apart(lab: Lab) -> TaskVector:
    """The part beside the vectors of the concept's neighbours, each made as the concept's own."""
    found = []
    for name in lab.concept.neighbours:
        ctx = Context(lab.rng.child("neighbour", name))
        others = (*(n for n in lab.concept.neighbours if n != name), lab.concept.text)
        neighbour = Concept(text=name, family=lab.concept.family, neighbours=others)

        def make(neighbour: Concept = neighbour, ctx: Context = ctx) -> TaskVector:
            material = lab.method.material(lab.model, neighbour, ctx)
            return lab.method.vector(lab.model, neighbour, material, ctx)

        found.append(lab.kept_vector(f"vector-of-{name}", make))
    return orthogonal(lab.vector, found)


SHAPES: Final[dict[str, Callable[[Lab], TaskVector]]] = {
    "whole": lambda lab: lab.vector,
    "largest 20 %": lambda lab: largest(lab.vector, 0.2),
    "rank 8": lambda lab: low_rank(lab.vector, 8),
    "three seeds": _seeds,
    "longer": _longer,
    "beside neighbours": _apart,
}
"""Name -> the vector, from a lab."""


def frontier_figure(table: pd.DataFrame) -> Figure:
    """Accuracy retained against success of adaptive embeddings; a panel per concept, a line per vector.

    A point is a strength, the mean of the training seeds. It is filled where every kind of typed prompt
    succeeds at most 5 %.
    """
    return _lines(table, "vector")


def shapes_figure(table: pd.DataFrame) -> Figure:
    """The same, a line per shape."""
    return _lines(table, "shape")


def _lines(table: pd.DataFrame, by: str) -> Figure:
    concepts = list(dict.fromkeys(table.concept))
    wide = min(4, len(concepts))
    tall = -(-len(concepts) // wide)
    with style():
        figure = Figure(figsize=(3.2 * wide, 3.2 * tall), dpi=150, layout="constrained")
        axes = figure.subplots(tall, wide, squeeze=False).flatten()
        for ax, concept in zip(axes, concepts, strict=False):
            rows = table[table.concept == concept]
            for k, name in enumerate(dict.fromkeys(map(str, table[by]))):
                own = rows[rows[by] == name]
                colour = _COLOURS[k % len(_COLOURS)]
                each = own.pivot_table(
                    index="strength", columns="set", values="asr", aggfunc="mean"
                )
                kept = own.groupby("strength").retained.mean()
                typed = each[list(SETS)].max(axis=1)
                ax.plot(kept, each.inverted, "-", lw=1.2, color=colour, label=name)
                ax.scatter(
                    kept, each.inverted, s=22, zorder=3, edgecolors=colour, linewidths=1.2,
                    facecolors=[colour if t <= 0.05 else "white" for t in typed],
                )  # fmt: skip
                for alpha, x in kept.items():
                    ax.annotate(f"{alpha:g}", (x, each.inverted[alpha]), xytext=(3, 4),
                                textcoords="offset points", fontsize=5.5, color=MUTED)  # fmt: skip
            ax.axhline(0.2, color=MUTED, lw=0.6, ls=":")
            ax.axvline(0.85, color=MUTED, lw=0.6, ls=":")
            ax.set(title=concept, xlim=(1.03, 0.2), ylim=(-0.03, 1.03), xlabel="accuracy retained")
        for ax in axes[len(concepts) :]:
            ax.axis("off")
        axes[0].set_ylabel("success of adaptive embeddings", color=INK)
        axes[0].legend(fontsize=6, frameon=False)
        return figure
