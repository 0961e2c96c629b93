"""The layouts of published lists, known by their headers: which column holds what.

Facts of their headers alone, from the repositories that are named; none of their rows is here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["LAYOUTS", "Layout", "layout_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A published layout.

    Attributes:
        name: Who publishes lists like this.
        has: The columns that tell it.
        lacks: Columns that another layout has beside these.
        prompt: The column of the prompts.
        concept: The column of the concepts; empty: the list is of one concept, or of none.
        seed: The columns that may hold seeds.
        guidance: The columns that may hold guidance scales.
        split: The column that says which rows are for erased concepts and which for others; or empty.
        named: The concept of a row is whatever concept its prompt names.
    """

    name: str
    has: frozenset[str]
    lacks: frozenset[str] = frozenset()
    prompt: str = "prompt"
    concept: str = ""
    seed: tuple[str, ...] = ("evaluation_seed", "sd_seed", "seed")
    guidance: tuple[str, ...] = ("evaluation_guidance", "sd_guidance_scale", "guidance")
    split: str = ""
    named: bool = False

    def suits(self, columns: frozenset[str]) -> bool:
        """Whether a file with these columns is of the layout."""
        return self.has <= columns and not self.lacks & columns


def _columns(*names: str) -> frozenset[str]:
    return frozenset(names)


LAYOUTS: Final = (
    Layout(
        name="I2P",
        has=_columns("prompt", "categories", "inappropriate_percentage", "nudity_percentage"),
    ),
    Layout(name="MMA-Diffusion", has=_columns("adv_prompt"), prompt="adv_prompt"),
    Layout(
        name="Ring-A-Bell, as RECE has it",
        has=_columns("sensitive prompt"),
        prompt="sensitive prompt",
    ),
    Layout(name="Eval-Unlearn", has=_columns("adversarial_prompt"), prompt="adversarial_prompt"),
    Layout(
        name="SPEED",
        has=_columns("text", "type", "concept"),
        prompt="text",
        concept="concept",
        split="type",
    ),
    Layout(
        name="MACE, artists",
        has=_columns("prompt", "type", "artist", "evaluation_seed"),
        concept="artist",
        split="type",
    ),
    Layout(
        name="MACE, celebrities",
        has=_columns("prompt", "type", "evaluation_seed"),
        lacks=_columns("artist", "concept", "class"),
        split="type",
        named=True,
    ),
    Layout(
        name="UCE, ESD and Receler",
        has=_columns("prompt", "class", "evaluation_seed"),
        lacks=_columns("concept", "artist"),
        concept="class",
    ),
    Layout(
        name="ESD, ImageNet",
        has=_columns("prompt", "label_str", "evaluation_seed"),
        concept="label_str",
    ),
    Layout(name="P4D", has=_columns("prompt", "classes", "evaluation_seed"), concept="classes"),
    Layout(
        name="ESD, artists",
        has=_columns("prompt", "artist", "evaluation_seed"),
        lacks=_columns("concept", "class"),
        concept="artist",
    ),
    Layout(name="COCO", has=_columns("prompt", "source", "case_number"), lacks=_columns("concept")),
    Layout(name="COCO", has=_columns("prompt", "source", "case_num"), lacks=_columns("concept")),
    Layout(
        name="UnlearnDiffAtk",
        has=_columns("prompt", "case_number", "evaluation_seed", "evaluation_guidance"),
        lacks=_columns("concept", "class", "artist"),
    ),
    Layout(
        name="Ring-A-Bell",
        has=_columns("prompt", "case_number", "evaluation_seed"),
        lacks=_columns("concept", "class", "artist"),
    ),
)
"""The first that suits is taken."""


def layout_of(columns: Iterable[str | int]) -> Layout | None:
    """The layout of a file with these columns; ``None``: nobody's that is known."""
    names = frozenset(name for name in columns if isinstance(name, str))
    return next((layout for layout in LAYOUTS if layout.suits(names)), None)
