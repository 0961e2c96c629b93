"""The four figures, drawn from the tables alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bench.report.style import INK, MUTED, style

__all__ = ["diversity_figure", "map_figure", "robustness_figure", "subsets_figure"]

_SETS = ["name", "synonyms", "indirect", "inverted"]
_COLOURS = {
    "none": "#7f7f7f",
    "uce": "#d95f02",
    "negative_prompt": "#7570b3",
    "task_vector": "#1b9e77",
}
_NAMES = {
    "none": "unedited",
    "uce": "UCE",
    "negative_prompt": "negative prompt",
    "task_vector": "task vector",
}


def _figure(
    columns: int, rows: int = 1, *, width: float = 3.4, height: float = 3.1
) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width * columns, height * rows), dpi=150, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def robustness_figure(table: pd.DataFrame) -> Figure:
    """Success by kind of input, a panel per concept; the task vector at its two strengths; a dot per training seed."""
    concepts = list(dict.fromkeys(table.concept))
    competitors = [m for m in dict.fromkeys(table.method) if m not in ("none", "task_vector")]
    vectors = table.method == "task_vector"
    groups = [("none", table.method == "none", "")]
    groups += [(name, table.method == name, "") for name in competitors]
    for name in competitors[:1]:
        matched = vectors & table.matched.str.split().apply(lambda names, n=name: n in names)
        groups.append((f"task vector at the utility of {_NAMES.get(name, name)}", matched, "//"))
    groups.append(("task vector by Diverse Inversion", vectors & table.chosen, ""))
    wide = 0.84 / len(groups)
    with style():
        figure, axes = _figure(len(concepts))
        for ax, concept in zip(axes[0], concepts, strict=True):
            for k, (name, keep, hatch) in enumerate(groups):
                rows = table[keep & (table.concept == concept)]
                kept = rows.drop_duplicates(["seed", "strength"]).accuracy.mean()
                x = np.arange(len(_SETS)) + (k - (len(groups) - 1) / 2) * wide
                colour = _COLOURS.get(name, _COLOURS["task_vector"] if "task" in name else f"C{k}")
                each = rows.pivot_table(index="set", columns="seed", values="asr").reindex(_SETS)
                label = f"{_NAMES.get(name, name)} ({kept:.0%} kept)"
                ax.bar(
                    x, each.mean(axis=1), wide, color=colour, hatch=hatch, edgecolor="white", label=label
                )  # fmt: skip
                for seed in each:
                    ax.plot(x, each[seed], ".", ms=2.5, color=INK)
            ax.set(title=concept, ylim=(0, 1.02), xticks=range(len(_SETS)), xticklabels=_SETS)
            ax.legend(fontsize=5.5, loc="upper left", bbox_to_anchor=(0, -0.1), frameon=False)
        axes[0][0].set_ylabel("success of the input", fontsize=9)
        return figure


def diversity_figure(table: pd.DataFrame) -> Figure:
    """Strength as estimated and as needed (dashes), a column per training seed; above, the worst held-out embedding."""
    concepts = list(dict.fromkeys(table.concept))
    kinds, seeds = list(dict.fromkeys(table.estimate)), list(dict.fromkeys(table.seed))
    apart = 0.7 / max(1, len(seeds))
    with style():
        figure, axes = _figure(len(concepts), width=3.2, height=2.8)
        for ax, concept in zip(axes[0], concepts, strict=True):
            rows = table[table.concept == concept]
            for row in rows.itertuples():
                at = (
                    kinds.index(row.estimate)
                    + (seeds.index(row.seed) - (len(seeds) - 1) / 2) * apart
                )
                colour = "#1b9e77" if row.covers else "#d95f02"
                ax.vlines(at, row.alpha_low, row.alpha_high, color=MUTED, lw=1)
                ax.plot(at, row.alpha, "o", ms=4, color=colour)
                needed = row.needed if np.isfinite(row.needed) else row.largest
                ax.hlines(needed, at - apart / 2, at + apart / 2, color=INK, lw=1,
                          ls="--" if np.isfinite(row.needed) else ":")  # fmt: skip
                ax.annotate(f"{row.worst_held_out:.0%}", (at, row.alpha_high), xytext=(0, 3),
                            textcoords="offset points", ha="center", fontsize=5, color=MUTED)  # fmt: skip
            needed = rows.needed.where(np.isfinite(rows.needed), rows.largest)
            top = max(float(rows.alpha_high.max()), float(needed.max()))
            ax.set(
                title=concept,
                xticks=range(len(kinds)),
                xticklabels=kinds,
                xlim=(-0.6, len(kinds) - 0.4),
                ylim=(0, 1.15 * top),
            )
        axes[0][0].set_ylabel("edit strength", fontsize=9)
        return figure


def subsets_figure(table: pd.DataFrame) -> Figure:
    """Robustness against utility, means of the training seeds; a line per subset, a point per strength."""
    concepts = list(dict.fromkeys(table.concept))
    subsets = list(dict.fromkeys(table.subset))
    with style():
        figure, axes = _figure(len(concepts))
        for ax, concept in zip(axes[0], concepts, strict=True):
            rows = table[table.concept == concept]
            each = rows.groupby(["subset", "seed", "strength"], sort=False).agg(
                asr=("asr", "max"), accuracy=("accuracy", "first")
            )
            worst = each.groupby(["subset", "strength"], sort=False).mean()
            for k, subset in enumerate(subsets):
                line = worst.loc[subset].sort_index()
                ax.plot(1 - line.asr, line.accuracy, "o-", ms=3, lw=1.6 if subset == "all" else 1, label=subset,
                        color=INK if subset == "all" else f"C{k}")  # fmt: skip
            ax.axvline(0.95, color=MUTED, lw=0.6, ls=":")
            ax.axhline(0.9, color=MUTED, lw=0.6, ls=":")
            ax.set(
                title=concept,
                xlim=(-0.02, 1.02),
                ylim=(0, 1.02),
                xlabel="robustness (1 - worst success)",
            )
        axes[0][0].set_ylabel("accuracy on other concepts", fontsize=9)
        axes[0][-1].legend(fontsize=6, frameon=False)
        return figure


def map_figure(table: pd.DataFrame) -> Figure:
    """The probability of the concept over the plane, the three models side by side; a row per concept."""
    concepts, methods = (list(dict.fromkeys(table[c])) for c in ("concept", "method"))
    with style():
        figure, axes = _figure(len(methods), len(concepts), width=2.5, height=2.5)
        for line, concept in zip(axes, concepts, strict=True):
            for ax, method in zip(line, methods, strict=True):
                rows = table[(table.concept == concept) & (table.method == method)]
                grid = rows.pivot_table(index="y", columns="x", values="probability")
                extent = (grid.columns[0], grid.columns[-1], grid.index[0], grid.index[-1])
                image = ax.imshow(
                    grid, origin="lower", extent=extent, vmin=0, vmax=1, cmap="magma", aspect="auto"
                )
                marks = [
                    (0, 0, concept),
                    (1, 0, rows.neighbour.iloc[0]),
                    (rows.inversion_x.iloc[0], 1, "inversion"),
                ]
                for x, y, text in marks:
                    ax.plot(x, y, "+", color="white", mew=2.5, ms=8)
                    ax.plot(x, y, "+", color="black", mew=1, ms=8)
                    ax.annotate(text, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=6,
                                bbox={"boxstyle": "round,pad=0.1", "fc": "white", "alpha": 0.7, "lw": 0})  # fmt: skip
                ax.set(title=f"{concept}: {_NAMES.get(method, method)}", xticks=[], yticks=[])
                ax.title.set_fontsize(8)
        figure.colorbar(image, ax=axes, shrink=0.7, label="images that show the concept")
        return figure
