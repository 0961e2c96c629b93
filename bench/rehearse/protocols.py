"""The table of the shipped protocols, from the suites themselves: ``docs/protocols.md`` holds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from bench.config.protocols import question
from bench.config.suite import load_suite, read_suite, suite_names
from bench.config.suite_file import SuiteFile
from bench.interfaces import Attack, Judge, registry
from bench.rehearse.hours import Speed, counted, images_of
from bench.run.cells import TrialCell
from bench.run.plan import Plan, make_plan

__all__ = ["COMMAND", "H200", "Protocol", "protocols", "table"]

COMMAND: Final = "protocols"
H200: Final = Speed(0.7170 / (16 * 4), 0.1376 / 16, "NVIDIA H200")
"""Of Stable Diffusion 1.4 in bfloat16: 16 images of 4 steps, and a gradient step of 16 rows (``results/perf``)."""
_MEASURED: Final = "CompVis/stable-diffusion-v1-4"


@dataclass(frozen=True, slots=True)
class Protocol:
    """A named protocol, as its suite spells it.

    Attributes:
        file: Of the suite.
        plan: Of its cells. Its judges are others, since those of the suite need weights.
        judge: The judge of record.
        digest: The first 12 digits of :func:`bench.config.protocols.question`.
    """

    file: SuiteFile
    plan: Plan
    judge: Judge
    digest: str

    @property
    def images(self) -> int:
        """Images that are sampled in all, those that attacks look at included."""
        return sum(images_of(cell) for cell in self.plan.cells)

    @property
    def hours(self) -> float | None:
        """On :data:`H200`, as far as they are counted; ``None``: the base was not measured."""
        if self.file.base != _MEASURED:
            return None
        return counted(self.plan, H200).total / 3600

    def denominators(self) -> Iterator[tuple[str, int]]:
        """Attacks, and the images per method and concept that each one's success is a share of."""
        for cell in self.plan.cells:
            if isinstance(cell, TrialCell) and cell.method_label == "none" and cell.repeat == 0:
                if cell.concept == self.plan.suite.concepts[0]:
                    yield cell.attack.name, images_of(cell)


def protocols() -> list[Protocol]:
    """Every named protocol that is shipped, in the order of the suites' names."""
    return [_protocol(name) for name in suite_names() if read_suite(name).protocol is not None]


def table() -> str:
    """The protocols as two tables of Markdown: what is asked, and how much that is."""
    found = protocols()
    asked = [
        "| protocol | concepts | prompts | seeds | sampler | judge | threshold | denominator | question |",
        "|---|---|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(_asked(one))} |" for one in found),
    ]
    much = [
        "| protocol | methods | attacks | images | hours, at least | not counted |",
        "|---|--:|--:|--:|--:|---|",
        *(f"| {' | '.join(_much(one))} |" for one in found),
    ]
    return "\n".join([*asked, "", *much])


def _protocol(name: str) -> Protocol:
    file = read_suite(name)
    judge: Any = registry.build("judge", file.judges[0])
    clip = {"clip_zero_shot": {"clip": "./another", "alternatives": ["something"]}}
    suite = load_suite(name).with_(judges=[clip], metrics=[{"clip_score": {"clip": "./another"}}])
    return Protocol(file, make_plan(suite, "0" * 64), judge, question(file)[:12])


def _asked(one: Protocol) -> tuple[str, ...]:
    suite = one.plan.suite
    sampler = suite.sampler
    size = f", {sampler.size} pixels" if sampler.size else ""
    concepts = ", ".join(concept.text for concept in suite.concepts)
    return (
        f"`{one.file.protocol}`",
        concepts if len(suite.concepts) < 4 else f"{len(suite.concepts)}: {concepts}",
        f"{suite.goals} per set, {_name(one.file.concepts_file)}",
        str(suite.seeds),
        f"{sampler.solver}, {sampler.steps} steps, guidance {sampler.guidance_scale:g}{size}",
        f"`{one.judge.name}`",
        _threshold(one.judge),
        _denominator(one),
        f"`{one.digest}`",
    )


def _denominator(one: Protocol) -> str:
    by: dict[int, list[str]] = {}
    for attack, images in one.denominators():
        by.setdefault(images, []).append(f"`{attack}`")
    return "; ".join(f"{images} images: {', '.join(names)}" for images, names in by.items())


def _threshold(judge: Judge) -> str:
    """The rule by which an image counts."""
    about = judge.applied()
    if (rank := about.get("decides")) is not None and rank != "concept":
        return f"{rank} of the classes"
    labels = f", `{about['label_set']}`" if "label_set" in about else ""
    return f"{judge.threshold:g}{labels}"


def _much(one: Protocol) -> tuple[str, ...]:
    suite, hours = one.plan.suite, one.hours
    trained = counted(one.plan, H200).unknown
    attacks: list[Attack] = list(suite.attacks)
    return (
        f"`{one.file.protocol}`",
        str(len(suite.methods)),
        str(len(attacks)),
        f"{one.images:,}",
        "not measured" if hours is None else f"{hours:.1f}" if hours < 10 else f"{hours:.0f}",
        "; ".join(f"{n} cells of {kind}" for kind, n in trained.items()) or "nothing",
    )


def _name(path: str | None) -> str:
    return "the base's own" if path is None else f"`{path.rpartition('/')[2]}`"
