"""Runs the claims for each concept and training seed of a suite, and writes tables, figures, verdicts and a page."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
from matplotlib.figure import Figure

from bench.config.suite import Suite, load_suite
from bench.core.digest import write_atomic
from bench.core.errors import UsageError, unknown
from bench.interfaces import Concept, Erasure, Judge
from bench.model.backbone import load_inspected
from bench.model.pipeline.inspect import inspect_base
from bench.model.text_to_image import TextToImage
from bench.report.plots import save
from bench.run.self_check import self_check
from bench.tables.spreadsheet import as_csv
from tvc.method import TaskVectorErasure
from tvc.paper import claims, figures
from tvc.paper.claims import unique_labels
from tvc.paper.cost import layers, layers_figure, losses, losses_figure
from tvc.paper.frontier import frontier, frontier_figure, shapes, shapes_figure
from tvc.paper.lab import QUICK, Lab, Sizes
from tvc.paper.page import page
from tvc.paper.pieces import slug
from tvc.paper.strip import PIXELS, strip, strip_figure
from tvc.paper.verdicts import verdicts

__all__ = ["CLAIMS", "DEFAULT", "Study", "on_a_suite", "reproduce", "study_of"]

log = logging.getLogger(__name__)

_TINY = {
    "steps": 8,
    "images": 8,
    "rows": 3,
    "inversion_steps": 8,
    "samples": 2,
    "screen": 2,
    "induction_samples": 2,
}


@dataclass(frozen=True)
class Study:
    """The subject of a study.

    Attributes:
        model: The unedited model.
        known: Every concept by name; those that are not studied tell what an edit costs.
        concepts: Names of those that are studied.
        vectors: Label -> constants of a task vector. The first is the one that the others are set against.
        competitors: Methods they are compared with.
        judge: The judge of record.
        sizes: How much is measured.
        seeds: Training seeds, from 0.
    """

    model: TextToImage
    known: dict[str, Concept]
    concepts: tuple[str, ...]
    vectors: dict[str, TaskVectorErasure]
    competitors: tuple[Erasure, ...]
    judge: Judge
    sizes: Sizes
    seeds: int = 3


@dataclass(frozen=True, slots=True)
class Claim:
    """How a claim is measured and drawn.

    Attributes:
        measure: Its table for one concept and training seed.
        draw: Its figure.
        all_seeds: It is measured for every training seed, not for the first alone.
        together: One picture shows all vectors.
    """

    measure: Callable[[Lab, Study], pd.DataFrame]
    draw: Callable[[pd.DataFrame], Figure]
    all_seeds: bool = True
    together: bool = False


DEFAULT: Final = ("robustness", "diversity", "subsets", "frontier", "losses", "strip", "map")
"""The claims that are measured where none is named."""

CLAIMS: Final[dict[str, Claim]] = {
    "robustness": Claim(
        lambda lab, study: claims.robustness(lab, study.competitors), figures.robustness_figure
    ),
    "diversity": Claim(lambda lab, study: claims.diversity(lab), figures.diversity_figure),
    "subsets": Claim(lambda lab, study: claims.subsets(lab), figures.subsets_figure),
    "frontier": Claim(lambda lab, study: frontier(lab), frontier_figure, together=True),
    "losses": Claim(lambda lab, study: losses(lab), losses_figure, together=True),
    "layers": Claim(lambda lab, study: layers(lab), layers_figure, all_seeds=False, together=True),
    "strip": Claim(lambda lab, study: strip(lab), strip_figure, all_seeds=False, together=True),
    "shapes": Claim(lambda lab, study: shapes(lab), shapes_figure),
    "map": Claim(
        lambda lab, study: claims.prompt_space(lab, study.competitors), figures.map_figure, False
    ),
}
"""File name -> the claim."""


def study_of(
    suite: Suite,
    *,
    concepts: Sequence[str] = (),
    seeds: int | None = None,
    quick: bool = False,
    device: str = "cpu",
) -> Study:
    """A suite as a study: its base, concepts, judge of record, sizes and repeats (the training seeds).

    Args:
        suite: Its ``task_vector`` lines are studied, the first as the reference; its other methods, but
            for the controls, are the competitors.
        concepts: Some of its concepts; empty: all.
        seeds: Training seeds; ``None``: the suite's repeats.
        quick: As small as it goes.
        device: A torch device.

    Raises:
        UsageError: the suite has no task vector, not that concept, or no CLIP for its base; or the
            base cannot be used.
    """
    methods = suite.methods
    vectors = [m for m in methods if isinstance(m, TaskVectorErasure)]
    if not vectors:
        raise UsageError(f"suite {suite.name}: expected a task_vector among the methods")
    there = [c.text for c in suite.concepts]
    for name in concepts:
        if name not in there:
            raise UsageError(unknown("concept", name, there))
    known = {**suite.known_concepts, **{c.text: c for c in suite.concepts}}
    named = {v.own_name or v.label: v.model_copy(update=_TINY) if quick else v for v in vectors}
    utility = suite.utility.neighbours + suite.utility.others
    files = inspect_base(suite.base, commit=suite.revision)
    for vector in vectors:
        vector.check_base(files.folder)
    model = TextToImage(load_inspected(files, dtype=suite.dtype, device=device))
    self_check(model, suite.sampler)
    return Study(
        model=model,
        known=known,
        concepts=tuple(concepts) or tuple(there),
        vectors=named,
        competitors=tuple(m for m in methods if not m.control and m.name != "task_vector"),
        judge=suite.judges[0],
        sizes=QUICK if quick else Sizes(prompts=suite.goals, utility=utility),
        seeds=seeds or (1 if quick else suite.repeats),
    )


def on_a_suite(
    source: str | Path,
    which: Sequence[str],
    *,
    work: Path,
    out: Path,
    minutes: float | None = None,
    **narrowed: Any,
) -> list[Path]:
    """:func:`reproduce` on :func:`study_of` a suite.

    Raises:
        UsageError: an unknown suite, claim or concept.
        OutOfTime: as there.
    """
    for name in which:
        if name not in CLAIMS:
            raise UsageError(unknown("claim", name, list(CLAIMS)))
    study = study_of(load_suite(source), **narrowed)
    words = ["tvc-bench", "paper", str(source)]
    words += [w for name in narrowed.get("concepts", ()) for w in ("--concept", name)]
    words += [w for name in which for w in ("--claim", name)]
    words += ["--seeds", str(study.seeds)] + ["--quick"] * bool(narrowed.get("quick"))
    command = shlex.join(words)
    return reproduce(study, which or DEFAULT, work=work, out=out, command=command, minutes=minutes)


def reproduce(
    study: Study,
    which: Sequence[str],
    *,
    work: Path,
    out: Path,
    command: str = "",
    minutes: float | None = None,
) -> list[Path]:
    """Measures the claims and writes ``<claim>.csv``, a picture per claim and vector, ``claims.csv``, ``README.md``.

    Args:
        study: What is studied.
        which: Names of :data:`CLAIMS`.
        work: Where pieces are kept: a run that was stopped goes on from here.
        out: Where tables and figures go.
        command: What the page says it was made by.
        minutes: So long it measures; ``None``: until all is there.

    Returns:
        The files written.

    Raises:
        OutOfTime: the minutes are over; what was measured is kept, and nothing is written to ``out``.
    """
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    common = dict(
        zip(unique_labels(study.competitors), (c.digest for c in study.competitors), strict=True)
    )
    # Seeds outermost: a run that was stopped has all concepts at fewer seeds.
    labs = [
        (label, Lab(study.model, study.known, name, method=method, judge=study.judge, folder=work, sizes=study.sizes,
                    seed=seed, common=common, deadline=deadline))
        for seed in range(study.seeds)
        for name in study.concepts
        for label, method in study.vectors.items()
    ]  # fmt: skip
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in which}
    for label, lab in labs:
        for name in which:
            if lab.seed == 0 or CLAIMS[name].all_seeds:
                rows = CLAIMS[name].measure(lab, study)
                tables[name].append(
                    pd.concat([pd.Series(label, rows.index, name="vector"), rows], axis=1)
                )
    out.mkdir(parents=True, exist_ok=True)
    written, measured = [], {n: pd.concat(parts, ignore_index=True) for n, parts in tables.items()}
    for name, table in measured.items():
        write_atomic(
            out / f"{name}.csv", as_csv(table.drop(columns=PIXELS, errors="ignore"), digits="%.4f")
        )
        written.append(out / f"{name}.csv")
        for stem, rows in drawings(name, table).items():
            figure = CLAIMS[name].draw(rows)
            for suffix in ("png", "pdf"):
                save(figure, out / f"{stem}.{suffix}")
            written += [out / f"{stem}.{suffix}" for suffix in ("png", "pdf")]
    found = verdicts(measured, costs(labs))
    write_atomic(out / "claims.csv", as_csv(found, digits="%.4f"))
    pictures = {name: list(drawings(name, table)) for name, table in measured.items()}
    text = page(found, pictures, study_text(study), command)
    write_atomic(out / "README.md", text.encode())
    return [*written, out / "claims.csv", out / "README.md"]


def drawings(claim: str, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Name of a picture's file, without its end -> the rows that it shows: one per vector, or one of all."""
    vectors = list(dict.fromkeys(map(str, table.vector)))
    if CLAIMS[claim].together or len(vectors) == 1:
        return {claim: table}
    return {f"{claim}-{slug(v)}": table[table.vector == v] for v in vectors}


def costs(labs: Sequence[tuple[str, Lab]]) -> pd.DataFrame:
    """The cost of an edit's parts: ``vector, piece, seconds, threads``, a row per lab and piece."""
    taken = [
        (label, piece, *of) for label, lab in labs for piece, of in lab.pieces.seconds().items()
    ]
    return pd.DataFrame(taken, columns=["vector", "piece", "seconds", "threads"])


def study_text(study: Study) -> str:
    """Sentences on what was studied, for the page."""
    sizes, concepts = study.sizes, study.concepts
    return (
        f"{_counted(len(concepts), 'concept')} ({', '.join(concepts)}), "
        f"{_counted(study.seeds, 'training seed')} each. A concept and seed has {sizes.prompts} prompts per set, "
        f"{sizes.utility} prompts for other concepts, and attacks of {sizes.attack_rows} embeddings with {sizes.seeds} "
        "images each."
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
