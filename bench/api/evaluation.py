"""Evaluates methods and models on a suite, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.api.given import GivenModel, is_pipeline
from bench.config.suite import Code, Suite, load_suite
from bench.core.errors import UsageError
from bench.extend.extension import extension
from bench.extend.rest import rest_of
from bench.interfaces import Erasure, registry
from bench.model.backbone import load_inspected
from bench.model.batching import MicroBatch
from bench.model.pipeline.inspect import inspect_base
from bench.model.text_to_image import TextToImage
from bench.run.collect import collect
from bench.run.plan import make_plan
from bench.run.runner import Watcher, run_plan
from bench.run.store import Store
from bench.tables.tables import summarise

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Given", "evaluate", "with_given"]

Given: TypeAlias = "str | dict[str, Any] | Erasure | TextToImage | tuple[str, Any]"
"""A method: a registered name, an entry of a suite, an object; or a model in memory, under a name."""


def with_given(suite: Suite, methods: Sequence[Given]) -> Suite:
    """The suite with more methods, built and checked.

    Args:
        suite: Its own methods stay.
        methods: See :data:`Given`. Of a pair, the name is what tables call it.

    Raises:
        UsageError: one is nothing of the kind, or two lines would have one name.
    """
    entries = [m for m in methods if isinstance(m, str | dict)]
    if entries:
        suite = suite.with_(methods=[*suite.file.methods, *entries])
    objects = [_spec(m) for m in methods if not isinstance(m, str | dict)]
    labels = [spec.label for spec in (*suite.methods, *objects)]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise UsageError(
            f"methods: expected each line under a name of its own, got {twice[0]!r} twice; "
            "give (name, method)"
        )
    return replace(suite, methods=(*suite.methods, *objects))


def evaluate(
    suite: str | Path,
    *,
    methods: Sequence[Given] = (),
    store: str | Path = ".store",
    only: Sequence[str] = (),
    limit: int | None = None,
    device: str = "cpu",
    micro_batch: int = 64,
    extend: str | Path | None = None,
    code: Code = "installed",
) -> pd.DataFrame:
    """Runs a suite and returns its table.

    Example:
        ``evaluate("mini-quick", methods=["uce", my_erasure, ("mine", my_pipeline)], only=["star"])``

    Args:
        suite: A shipped suite's name or a YAML file.
        methods: Methods and models to add to the suite's: a registered name, ``module:Class``, an entry
            as a suite has it, an object, or an edited model. A ``StableDiffusionPipeline`` in memory
            comes with its name, as ``("mine", pipeline)``; the others may, too.
        store: Where results are kept; what is there is not computed again.
        only: See ``tvc-bench run --only``.
        limit: See ``tvc-bench run --limit``.
        device: A torch device.
        micro_batch: Images worked on at once.
        extend: The folder of a published report, such as ``results/mini-full``: its lines are taken from
            there, and only the others are computed.
        code: ``named`` lets a YAML file of yours run the code that it names by ``module:Class``; it is
            refused otherwise. ``methods`` are yours, and may name it in any case.

    Returns:
        The columns of ``docs/table.md``.

    Raises:
        UsageError: the suite is not valid, or a method is nothing that can be evaluated.
        RuntimeError: cells failed; the message names the first.
    """
    loaded = with_given(load_suite(suite, code=code), methods)
    files = inspect_base(loaded.base, commit=loaded.revision)
    plan = make_plan(loaded, files.digest, folder=files.folder, only=only, limit=limit)
    backbone = load_inspected(files, dtype=loaded.dtype, device=device)
    base = TextToImage(backbone, micro=MicroBatch(micro_batch))
    ledger = Store(Path(store))
    extended = None if extend is None else extension(plan, Path(extend))
    rest = rest_of(plan, extended)
    outcome = run_plan(rest, ledger, base, Watcher())
    if outcome.failed:
        raise RuntimeError(
            f"cells failed: {len(outcome.failed)}, blocked: {len(outcome.blocked)}; "
            f"the first: {': '.join(outcome.failed[0])}"
        )
    found = collect(rest, ledger)
    if extended is not None:
        extended.joined(found)
    return summarise(found.trials, found.utility, edits=found.edits, suite=loaded.name)


def _spec(given: object) -> Erasure:
    match given:
        case (str() as name, thing):
            return _spec(thing).called(name)
        case Erasure():
            registry.complete(given, given.name)
            return given
        case TextToImage():
            return GivenModel.of_model(given)
        case _ if is_pipeline(given):
            return GivenModel.of_pipeline(given)
    raise UsageError(
        "methods: expected a name, an entry of a suite, an Erasure, an edited model or a diffusers pipeline, got "
        f"a {type(given).__name__}"
    )
