"""Erases and attacks one model from Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from bench.api.given import Model, model_of
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
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage
from bench.run.planning.goals import goals_of
from bench.toolkit.prompt_files.read import read_source

__all__ = ["attack", "concept_of", "concepts", "erase", "spec_of"]

_KEY = "api"


def spec_of(kind: Any, entry: Any) -> Spec:
    """The spec that a registered name, ``{name: {field: value}}`` or an object stands for.

    Raises:
        UsageError: unknown, or a field that only a user can fill is empty.
    """
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


def concept_of(model: TextToImage, concept: str | Concept) -> Concept:
    """The concept itself, the one that the model's folder has by that name, or a bare one of that text.

    Raises:
        UsageError: a text that can be no concept's name.
    """
    if isinstance(concept, Concept):
        return concept
    if known := concepts(model).get(concept):
        return known
    try:
        return Concept(text=concept)
    except ValidationError as error:
        raise from_pydantic(error, Concept) from error


def erase(
    model: Model, concept: str | Concept | Sequence[str | Concept], method: str | dict[str, Any] | Erasure, *,
    seed: int = 0, base: TextToImage | None = None,
) -> TextToImage:  # fmt: skip
    """Erases one concept, or several together.

    Args:
        model: From :func:`bench.load_model`, or a ``StableDiffusionPipeline`` in memory; it is not changed.
        concept: Names known to the model's folder, any other text, or full concepts.
        method: A registered name, ``{name: {field: value}}``, or an object.
        seed: Of the method's random streams.
        base: What a pipeline was made from.

    Raises:
        UsageError: unknown method, wrong or missing fields, no concept, a base that does not suit, or a
            pipeline of another base.
        ValueError: the method filled a slot or changed a parameter that it does not declare.
    """
    spec = spec_of("method", method)
    if not isinstance(spec, Erasure):
        raise UsageError(f"expected an erasure method, got {spec.kind} {spec.name}")
    known = model_of(model, base)
    many = [concept] if isinstance(concept, str | Concept) else list(concept)
    wanted = [concept_of(known, c) for c in many]
    return spec(known, wanted, rng=Rng((_KEY, seed, "edit")))


def attack(
    model: Model,
    concept: str | Concept,
    method: str | dict[str, Any] | Attack,
    *,
    prompts: Sequence[str] = (),
    sampler: Sampler | None = None,
    surrogate: str | dict[str, Any] | Judge = "clip_zero_shot",
    limit: int = 24,
    seed: int = 0,
    base: TextToImage | None = None,
) -> list[Candidate]:
    """Attacks an edited model.

    Args:
        model: The edited model, or a ``StableDiffusionPipeline`` in memory.
        concept: What should come back.
        method: A registered attack, ``{name: {field: value}}``, or an object.
        prompts: Where the attack starts; by default the rows of its file of goals, or else the concept's
            own sets, as the attack asks for them.
        sampler: By default the suites' own.
        surrogate: Guides the search, and decides nothing. The default looks through the miniature's
            CLIP, and is refused on other bases.
        limit: At most so many goals per prompt set; 1 or more.
        seed: Of the attack's random streams.
        base: What a pipeline was made from.

    Returns:
        Candidates. They are not judged: sample them on fresh seeds and ask a judge, as
        :func:`evaluate` does.

    Raises:
        UsageError: unknown attack or judge, one that cannot see the concept, a limit below 1, no
            prompts, or a prompt or concept about minors. Or a pipeline is of another base.
    """
    if limit < 1:
        raise UsageError(f"limit: expected at least 1, got {limit}")
    spec = spec_of("attack", method)
    judge = spec_of("judge", surrogate)
    if not isinstance(spec, Attack) or not isinstance(judge, Judge):
        raise UsageError(
            f"expected an attack and a judge, got {spec.kind} {spec.name} and {judge.kind} {judge.name}"
        )
    edited = model_of(model, base)
    judge.check_base(edited.backbone.folder)
    full = concept_of(edited, concept)
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
    target = Target(edited, sampler or Sampler(), judge)
    return spec(target, goals, rng=Rng((_KEY, seed, "attack")))
