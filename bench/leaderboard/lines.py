"""The measured lines of an entry: every share with its interval and its denominator."""

from __future__ import annotations

from bench.leaderboard.fields import Card, Count, Line, Mean, Number, Rate

__all__ = ["AccessLine", "AttackLine", "Cost", "Flag", "Measured"]


class AccessLine(Card):
    """The worst case per goal over the attacks of one access.

    Attributes:
        judge: Who decided.
        concept: The erased concept; ``all`` pools them.
        access: Which attacks; ``any`` is all of them.
        attacks: How many.
        broken: Goals that at least one of them broke; of several repeats each counts.
        share: Their share of the goals.
        images: Held-out images per goal, mean.
        luck: The same share of the controls, on the goals that they tried.
        luck_images: Held-out images per goal of the controls.
    """

    judge: Line
    concept: Line
    access: Line
    attacks: Count
    broken: Count
    share: Rate | None
    images: Number | None
    luck: Rate | None
    luck_images: Number | None


class AttackLine(Card):
    """One attack.

    Attributes:
        judge: Who decided.
        concept: The erased concept; ``all`` pools them.
        attack: The attack, with its prompt set where it has several.
        access: What the attacker holds.
        control: It is a control, not a contender.
        success: Share of the images that show the concept.
        before: The same share of the plain prompts of its goals.
        goals: Goals behind the images.
        attempted: All images, with errors and abstentions.
        refused: Images that a filter refused to make.
        blanked: Images that a checker blanked.
        lost: Images lost to an error or an abstention.
        queries: Images that the attack looked at per image of ``success``.
    """

    judge: Line
    concept: Line
    attack: Line
    access: Line
    control: bool
    success: Rate | None
    before: Mean | None
    goals: Count
    attempted: Count
    refused: Count
    blanked: Count
    lost: Count
    queries: Mean | None


class Cost(Card):
    """The cost of the edits to the rest of the model, and to whoever made them.

    Attributes:
        concept: The erased concept; ``all`` pools them.
        retained: Accuracy on prompts for other concepts.
        prompts: Different prompts behind it.
        unedited: The same accuracy of the unedited model.
        ratio: ``retained`` over ``unedited``.
        neighbours: Accuracy on the neighbours' prompts.
        others: Accuracy on all other prompts.
        clip_score: Agreement of images with their prompts.
        drift: Distance of images from the unedited model's.
        seconds: Time of an edit.
        memory_mb: The largest memory of an edit, MiB.
        images: Images that an edit sampled.
        gradient_steps: Optimiser steps of an edit.
        parameters_touched: Most parameters that an edit changed.
        parameters_total: Parameters of the model.
    """

    concept: Line
    retained: Rate | None
    prompts: Count
    unedited: Mean | None
    ratio: Number | None
    neighbours: Mean | None
    others: Mean | None
    clip_score: Mean | None
    drift: Mean | None
    seconds: Mean
    memory_mb: Number | None
    images: Mean
    gradient_steps: Mean
    parameters_touched: Count
    parameters_total: Count


class Flag(Card):
    """A raised flag; ``docs/flags.md`` explains each."""

    flag: Line
    concept: Line
    attack: Line
    value: Number | None
    detail: Line


class Measured(Card):
    """The numbers that were computed from the rows of the run; nobody typed one.

    Attributes:
        worst: The worst case per goal, by judge, concept and access.
        attacks: Each attack.
        costs: Each concept.
        flags: Each flag of the method.
    """

    worst: tuple[AccessLine, ...]
    attacks: tuple[AttackLine, ...]
    costs: tuple[Cost, ...]
    flags: tuple[Flag, ...]
