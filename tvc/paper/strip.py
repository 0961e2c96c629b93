"""One picture of what a task vector, its pair and the strength do to the same prompts and noise."""

from __future__ import annotations

import base64
import io
from functools import partial
from typing import Any, Final

import pandas as pd
from matplotlib.figure import Figure

from bench.report.style import INK, style
from bench.toolkit.images import images_of
from tvc.paper.lab import Lab

__all__ = ["PIXELS", "strip", "strip_figure"]

PIXELS: Final = "png"
"""The column that holds the images; it is drawn, and not written to the table."""

_OF_THE_CONCEPT: Final = 3
_PROMPTS: Final = 8


def strip(lab: Lab) -> pd.DataFrame:
    """Images of eight prompts by the unedited model and at each strength of the frontier; a row per image.

    Three prompts ask for the concept, by its name, a synonym and a description. Five ask for other
    concepts. ``shown`` says whether the judge of record sees what was asked for.
    """
    asked = [(lab.concept.prompts[s][0], lab.concept) for s in ("name", "synonyms", "indirect")]
    asked += lab.utility()[: _PROMPTS - _OF_THE_CONCEPT]
    seeds = [lab.rng.seed("strip", k) for k in range(len(asked))]
    rows: list[dict[str, Any]] = []
    for alpha in (0.0, *lab.sizes.frontier):
        made: list[str] = lab.kept(
            f"strip-{alpha:g}", partial(_made, lab, alpha, [text for text, _ in asked], seeds)
        )
        rows += [
            {"concept": lab.concept.text, "seed": lab.seed, "strength": alpha, "column": k, "prompt": text,
             "asks_for": of.text, PIXELS: made[k]}
            for k, (text, of) in enumerate(asked)
        ]  # fmt: skip
    return pd.DataFrame(rows)


def _made(lab: Lab, alpha: float, texts: list[str], seeds: list[int]) -> list[str]:
    from PIL import Image

    images = images_of(lab.edited(alpha), texts, seeds, lab.sampler)
    found = []
    for pixels in (images.movedim(1, 3) * 255).round().byte().numpy():
        kept = io.BytesIO()
        Image.fromarray(pixels).save(kept, "png")
        found.append(base64.b64encode(kept.getvalue()).decode())
    return found


def strip_figure(table: pd.DataFrame) -> Figure:
    """Rows: the unedited model, then each vector at each strength. Columns: prompts, each with its own noise.

    Of the first concept of the table.
    """
    import numpy as np
    from PIL import Image

    rows = table[table.concept == table.concept.iloc[0]]
    vectors = list(dict.fromkeys(map(str, rows.vector)))
    lines = [("unedited", rows[(rows.vector == vectors[0]) & (rows.strength == 0)])]
    for vector in vectors:
        for alpha in sorted(a for a in rows.strength.unique() if a):
            of = rows[(rows.vector == vector) & (rows.strength == alpha)]
            lines.append((f"{vector}\n{alpha:g}", of))
    wide = len(lines[0][1])
    with style():
        figure = Figure(
            figsize=(1.05 * wide + 0.7, 1.0 * len(lines) + 0.7), dpi=150, layout="constrained"
        )
        axes = figure.subplots(len(lines), wide, squeeze=False)
        for line, (label, of) in zip(axes, lines, strict=True):
            for ax, row in zip(line, of.sort_values("column").to_dict("records"), strict=True):
                pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(row[PIXELS]))))
                ax.imshow(pixels, interpolation="nearest")
                ax.set(xticks=[], yticks=[])
                for side in ax.spines.values():
                    side.set_visible(row["asks_for"] == row["concept"])
            line[0].set_ylabel(label, fontsize=7, color=INK, rotation=0, ha="right", va="center")
        for ax, row in zip(
            axes[0], lines[0][1].sort_values("column").to_dict("records"), strict=True
        ):
            ax.set_title(_wrapped(row["prompt"]), fontsize=5.5, color=INK)
        return figure


def _wrapped(text: str, width: int = 18) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))
