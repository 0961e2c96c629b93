"""The four figures, drawn from the tables alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bench.report.plots import INK, MUTED, style

__all__ = ["diversity_figure", "map_figure", "robustness_figure", "subsets_figure"]

_SETS = ("name", "synonyms", "indirect", "inverted")
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
    """Success by kind of input, each concept a panel; the task vector at both of its strengths."""
    concepts = list(dict.fromkeys(table.concept))
    with style():
        figure, axes = _figure(len(concepts))
        for ax, concept in zip(axes[0], concepts, strict=True):
            rows = table[table.concept == concept]
            bars = [
                (_NAMES["none"], rows[rows.method == "none"], _COLOURS["none"], ""),
                (
                    _NAMES["uce"],
                    rows[(rows.method == "uce") & np.isclose(rows.strength, 1)],
                    _COLOURS["uce"],
                    "",
                ),
                (
                    _NAMES["negative_prompt"],
                    rows[rows.method == "negative_prompt"],
                    _COLOURS["negative_prompt"],
                    "",
                ),
            ]
            vectors = rows[rows.method == "task_vector"]
            for flag, hatch, name in (
                ("matched", "//", "at UCE's utility"),
                ("chosen", "", "by Diverse Inversion"),
            ):
                at = vectors[vectors[flag]]
                bars.append((f"task vector {name}", at, _COLOURS["task_vector"], hatch))
            wide = 0.8 / len(bars)
            for k, (name, group, colour, hatch) in enumerate(bars):
                group = group.drop_duplicates("set").set_index("set").reindex(_SETS)
                x = np.arange(len(_SETS)) + (k - (len(bars) - 1) / 2) * wide
                kept = group.accuracy.dropna()
                label = f"{name} ({kept.iloc[0]:.0%} kept)" if len(kept) else name
                ax.bar(
                    x, group.asr, wide, color=colour, hatch=hatch, edgecolor="white", label=label
                )
                errors = np.clip([group.asr - group.asr_low, group.asr_high - group.asr], 0, None)
                ax.errorbar(x, group.asr, errors, fmt="none", ecolor=INK, elinewidth=0.8)
            ax.set(title=concept, ylim=(0, 1.02), xticks=range(len(_SETS)), xticklabels=_SETS)
            ax.legend(fontsize=5.5, loc="upper left", bbox_to_anchor=(0, -0.1), frameon=False)
        axes[0][0].set_ylabel("success of the input", fontsize=9)
        return figure


def diversity_figure(table: pd.DataFrame) -> Figure:
    """Estimated against needed strength; above each estimate, the worst held-out embedding's rate at it."""
    concepts = list(dict.fromkeys(table.concept))
    kinds = list(dict.fromkeys(table.estimate))
    with style():
        figure, axes = _figure(len(concepts), width=2.8, height=2.8)
        for ax, concept in zip(axes[0], concepts, strict=True):
            rows = table[table.concept == concept].set_index("estimate").reindex(kinds)
            x = np.arange(len(kinds))
            errors = np.clip([rows.alpha - rows.alpha_low, rows.alpha_high - rows.alpha], 0, None)
            colours = ["#1b9e77" if covers else "#d95f02" for covers in rows.covers]
            ax.errorbar(x, rows.alpha, errors, fmt="none", ecolor=MUTED)
            ax.scatter(x, rows.alpha, c=colours, zorder=3)
            needed = rows.needed.iloc[0]
            if np.isfinite(needed):
                ax.axhline(needed, color=INK, lw=1, ls="--")
                ax.annotate(
                    "needed", (len(kinds) - 0.6, needed), va="bottom", ha="right", fontsize=7
                )
            for i, worst in enumerate(rows.worst_held_out):
                ax.annotate(f"worst\n{worst:.0%}", (i, rows.alpha.iloc[i]), xytext=(0, 7),
                            textcoords="offset points", ha="center", fontsize=6, color=MUTED)  # fmt: skip
            top = max(float(rows.alpha_high.max()), needed if np.isfinite(needed) else 0)
            ax.set(
                title=concept,
                xticks=x,
                xticklabels=kinds,
                xlim=(-0.6, len(kinds) - 0.4),
                ylim=(0, 1.2 * top),
            )
        axes[0][0].set_ylabel("estimated edit strength", fontsize=9)
        return figure


def subsets_figure(table: pd.DataFrame) -> Figure:
    """Robustness against utility; a line a subset, a point a strength."""
    concepts = list(dict.fromkeys(table.concept))
    subsets = list(dict.fromkeys(table.subset))
    with style():
        figure, axes = _figure(len(concepts))
        for ax, concept in zip(axes[0], concepts, strict=True):
            rows = table[table.concept == concept]
            worst = rows.groupby(["subset", "strength"], sort=False)[["asr", "accuracy"]].agg(
                {"asr": "max", "accuracy": "first"}
            )
            for k, subset in enumerate(subsets):
                line = worst.loc[subset].sort_index()
                ax.plot(1 - line.asr, line.accuracy, "o-", ms=3, lw=1.6 if subset == "all" else 1, label=subset,
                        color=INK if subset == "all" else f"C{k}")  # fmt: skip
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
    """The probability of the concept over the plane, the three models side by side; a row a concept."""
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
                ax.set(title=f"{concept}: {_NAMES[method]}", xticks=[], yticks=[])
                ax.title.set_fontsize(8)
        figure.colorbar(image, ax=axes, shrink=0.7, label="images that show the concept")
        return figure
