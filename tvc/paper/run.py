"""Runs the claims for each concept and writes tables, figures and a page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pandas as pd
from matplotlib.figure import Figure

from bench.api import concepts as known_concepts
from bench.errors import UsageError
from bench.interfaces import Judge
from bench.judges.mini import MiniJudge
from bench.model import TextToImage, load_model
from bench.report.plots import save
from tvc.method import TaskVectorErasure
from tvc.paper import claims, figures
from tvc.paper.lab import QUICK, Lab, Sizes

__all__ = ["CLAIMS", "on_the_miniature", "reproduce"]

log = logging.getLogger(__name__)

Claim = tuple[Callable[[Lab], pd.DataFrame], Callable[[pd.DataFrame], Figure]]

CLAIMS: Final[dict[str, Claim]] = {
    "robustness": (claims.robustness, figures.robustness_figure),
    "diversity": (claims.diversity, figures.diversity_figure),
    "subsets": (claims.subsets, figures.subsets_figure),
    "map": (claims.prompt_space, figures.map_figure),
}
"""File name -> what measures the claim, and what draws it."""


_CONCEPTS = ("star", "zorbo", "watercolour")
_TINY = {"steps": 8, "images": 8, "rows": 3, "inversion_steps": 8, "samples": 2}


def on_the_miniature(
    names: Sequence[str],
    which: Sequence[str],
    *,
    work: Path,
    out: Path,
    quick: bool = False,
    device: str = "cpu",
) -> list[Path]:
    """:func:`reproduce` with the miniature's preset and judge, on the suites' three concepts where none are named."""
    return reproduce(
        load_model(device=device),
        names or _CONCEPTS,
        which=which or tuple(CLAIMS),
        method=TaskVectorErasure.preset("mini", **(_TINY if quick else {})),
        judge=MiniJudge(),
        work=work,
        out=out,
        sizes=QUICK if quick else Sizes(),
    )


def reproduce(
    model: TextToImage,
    names: Sequence[str],
    *,
    which: Sequence[str] = tuple(CLAIMS),
    method: TaskVectorErasure,
    judge: Judge,
    work: Path,
    out: Path,
    sizes: Sizes,
) -> list[Path]:
    """Measures the claims and writes ``<claim>.csv`` and ``<claim>.png/.pdf``.

    Args:
        model: The unedited model, with its concepts beside it.
        names: Concepts.
        which: Names of :data:`CLAIMS`.
        method: Constants of the task vector.
        judge: The judge of record.
        work: Where pieces are kept: a run that was stopped goes on from here.
        out: Where tables and figures go.
        sizes: How much is measured.

    Returns:
        The files written.

    Raises:
        UsageError: an unknown concept or claim.
    """
    known = known_concepts(model)
    for kind, asked, there in (("concept", names, known), ("claim", which, CLAIMS)):
        missing = [n for n in asked if n not in there]
        if missing:
            raise UsageError(f"unknown {kind} {missing[0]!r}; there are: {', '.join(there)}")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    labs = [
        Lab(model, known, n, method=method, judge=judge, folder=work, sizes=sizes) for n in names
    ]
    for claim in which:
        measure, draw = CLAIMS[claim]
        table = pd.concat([measure(lab) for lab in labs], ignore_index=True)
        table.to_csv(out / f"{claim}.csv", index=False, float_format="%.4f")
        figure = draw(table)
        for suffix in ("png", "pdf"):
            save(figure, out / f"{claim}.{suffix}")
        written += [out / f"{claim}.{suffix}" for suffix in ("csv", "png", "pdf")]
        log.info("wrote %s", out / f"{claim}.csv")
    return written
