"""The suite from Python: load a model, erase, attack, evaluate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from bench.config.suite import Code, load_suite
from bench.core.errors import UsageError, from_pydantic
from bench.core.spec import Spec
from bench.interfaces import (
    Attack,
    Candidate,
    Concept,
    Erasure,
    Goal,
    Judge,
    Rng,
    Target,
    bare,
    registry,
)
from bench.model.backbone import load_inspected
from bench.model.batching import MicroBatch
from bench.model.pipeline.inspect import inspect_base
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.run.collect import collect
from bench.run.plan import make_plan
from bench.run.planning.goals import goals_of
from bench.run.runner import Watcher, run_plan
from bench.run.store import Store
from bench.tables.tables import summarise
from bench.toolkit.prompt_files.read import read_source

__all__ = ["attack", "concepts", "erase", "evaluate"]

_KEY = "api"


def _spec(kind: Any, entry: Any) -> Spec:
    if isinstance(entry, Spec):
        return registry.complete(entry, entry.name)
    return registry.build(kind, entry)


def concepts(model: TextToImage) -> dict[str, Concept]:
    """The concepts that come with the model's folder (``concepts.json``), by name; maybe none."""
    from bench.config.suite import read_concepts

    folder = model.backbone.folder
    if folder is None or not (folder / "concepts.json").is_file():
        return {}
    return read_concepts(folder / "concepts.json")


def _concept(model: TextToImage, concept: str | Concept) -> Concept:
    if isinstance(concept, Concept):
        return concept
    if known := concepts(model).get(concept):
        return known
    try:
        return Concept(text=concept)
    except ValidationError as error:
        raise from_pydantic(error, Concept) from error


def erase(
    model: TextToImage, concept: str | Concept | Sequence[str | Concept], method: str | dict[str, Any] | Erasure, *,
    seed: int = 0,
) -> TextToImage:  # fmt: skip
    """Erases one concept, or several together.

    Args:
        model: From :func:`bench.load_model`; it is not changed.
        concept: Names known to the model's folder, any other text, or full concepts.
        method: A registered name, ``{name: {field: value}}``, or an object.
        seed: Of the method's random streams.

    Raises:
        UsageError: unknown method, wrong or missing fields, no concept, or a base that does not suit.
        ValueError: the method filled a slot or changed a parameter that it does not declare.
    """
    spec = _spec("method", method)
    if not isinstance(spec, Erasure):
        raise UsageError(f"expected an erasure method, got {spec.kind} {spec.name}")
    many = [concept] if isinstance(concept, str | Concept) else list(concept)
    wanted = [_concept(model, c) for c in many]
    return spec(model, wanted, rng=Rng((_KEY, seed, "edit")))


def attack(
    model: TextToImage,
    concept: str | Concept,
    method: str | dict[str, Any] | Attack,
    *,
    prompts: Sequence[str] = (),
    sampler: Sampler | None = None,
    surrogate: str | dict[str, Any] | Judge = "clip_zero_shot",
    limit: int = 24,
    seed: int = 0,
) -> list[Candidate]:
    """Attacks an edited model.

    Args:
        model: The edited model.
        concept: What should come back.
        method: A registered attack, ``{name: {field: value}}``, or an object.
        prompts: Where the attack starts; by default the rows of its file of goals, or else the concept's
            own sets, as the attack asks for them.
        sampler: By default the suites' own.
        surrogate: The attacker's own judge; the default looks through the miniature's CLIP, and is
            refused on other bases.
        limit: At most so many goals per prompt set; 1 or more.
        seed: Of the attack's random streams.

    Returns:
        Candidates. They are not judged: sample them on fresh seeds and ask a judge, as
        :func:`evaluate` does.

    Raises:
        UsageError: unknown attack or judge, one that cannot see the concept, a limit below 1, no
            prompts, or a prompt or concept about minors.
    """
    if limit < 1:
        raise UsageError(f"limit: expected at least 1, got {limit}")
    spec = _spec("attack", method)
    judge = _spec("judge", surrogate)
    if not isinstance(spec, Attack) or not isinstance(judge, Judge):
        raise UsageError(
            f"expected an attack and a judge, got {spec.kind} {spec.name} and {judge.kind} {judge.name}"
        )
    judge.check_base(model.backbone.folder)
    full = _concept(model, concept)
    judge.check_concept(full)
    spec = spec.pinned()
    spec.check([full])
    sets = (
        {"given": tuple(prompts)}
        if prompts
        else {s: full.prompts.get(s, ()) for s in spec.prompt_sets}
    )
    goals = [
        Goal(id=f"{name}-{i:03d}", concept=bare(full), prompt=text, prompt_set=name)
        for name, texts in sets.items()
        for i, text in enumerate(texts[:limit])
    ]
    if not prompts and spec.goal_file is not None:
        file = read_source(spec.goal_file)
        file.check([full.text])
        goals = list(goals_of(file, bare(full), min(limit, spec.most_goals or limit))[0])
    elif not prompts and (own := spec.own_goals(bare(full))) is not None:
        goals = list(own[:limit])
    if not goals:
        raise UsageError(
            f"no prompts for {full.text!r} in {', '.join(spec.prompt_sets)}; pass prompts=[...]"
        )
    target = Target(model, sampler or Sampler(), judge)
    return spec(target, goals, rng=Rng((_KEY, seed, "attack")))


def evaluate(
    suite: str | Path,
    *,
    methods: Sequence[str | dict[str, Any]] = (),
    store: str | Path = ".store",
    only: Sequence[str] = (),
    limit: int | None = None,
    device: str = "cpu",
    micro_batch: int = 64,
    code: Code = "installed",
) -> pd.DataFrame:
    """Runs a suite and returns its table.

    Args:
        suite: A shipped suite's name or a YAML file.
        methods: Methods to add to the suite's: ``module:Class`` evaluates yours beside the
            baselines.
        store: Where results are kept; what is there is not computed again.
        only: See ``tvc-bench run --only``.
        limit: See ``tvc-bench run --limit``.
        device: A torch device.
        micro_batch: Images worked on at once.
        code: ``named`` lets a YAML file of yours run the code that it names by ``module:Class``; it is
            refused otherwise. ``methods`` are yours, and may name it in any case.

    Returns:
        The columns of ``docs/table.md``.

    Raises:
        UsageError: the suite is not valid.
        RuntimeError: cells failed; the message names the first.
    """
    loaded = load_suite(suite, code=code)
    if methods:
        loaded = loaded.with_(methods=[*loaded.file.methods, *methods])
    files = inspect_base(loaded.base, revision=loaded.revision)
    plan = make_plan(loaded, files.digest, folder=files.folder, only=only, limit=limit)
    backbone = load_inspected(files, dtype=loaded.dtype, device=device)
    base = TextToImage(backbone, micro=MicroBatch(micro_batch))
    ledger = Store(Path(store))
    outcome = run_plan(plan, ledger, base, Watcher())
    if outcome.failed:
        raise RuntimeError(
            f"cells failed: {len(outcome.failed)}, blocked: {len(outcome.blocked)}; "
            f"the first: {': '.join(outcome.failed[0])}"
        )
    found = collect(plan, ledger)
    return summarise(found.trials, found.utility, edits=found.edits, suite=loaded.name)
