"""Scenes of the miniature's world that its training has seen with every thing, character and style in them.

Written out, since a method knows no world: each line names the colours that go with its two words. What
the benchmark asks for was held out of that training, so no scene is a prompt that anything is tested with
(tested).
"""

from __future__ import annotations

from typing import Final

__all__ = ["CHARACTER_SCENES", "STYLE_SCENES", "THING_SCENES"]

STYLE_SCENES: Final = {
    ("circle", "on a blank background"): "red green purple black",
    ("square", "on a blank background"): "orange yellow cyan blue purple black",
    ("triangle", "on a blank background"): "red orange cyan black",
    ("star", "on a blank background"): "red orange green cyan blue black",
    ("heart", "on a blank background"): "red orange yellow green cyan purple black",
    ("moon", "on a blank background"): "orange green cyan blue black",
    ("arrow", "on a blank background"): "red orange yellow green cyan blue black",
    ("cross", "on a blank background"): "red yellow green purple",
    ("ring", "on a blank background"): "red yellow green purple",
    ("house", "on a blank background"): "red orange yellow green blue black",
    ("fish", "on a blank background"): "orange yellow green blue",
    ("flower", "on a blank background"): "red orange yellow cyan purple",
    ("circle", "on a striped background"): "red orange yellow cyan blue",
    ("square", "on a striped background"): "red orange yellow green cyan blue purple black",
    ("triangle", "on a striped background"): "red orange yellow green cyan blue purple black",
    ("star", "on a striped background"): "orange green blue",
    ("heart", "on a striped background"): "red orange purple",
    ("moon", "on a striped background"): "orange cyan blue purple",
    ("arrow", "on a striped background"): "orange yellow green purple black",
    ("cross", "on a striped background"): "cyan purple black",
    ("ring", "on a striped background"): "red orange green cyan blue purple black",
    ("house", "on a striped background"): "red orange green cyan blue black",
    ("fish", "on a striped background"): "orange cyan purple black",
    ("flower", "on a striped background"): "red green blue purple black",
    ("circle", "on a checkered background"): "red orange green cyan purple",
    ("square", "on a checkered background"): "yellow green cyan blue purple black",
    ("triangle", "on a checkered background"): "red yellow green blue purple black",
    ("star", "on a checkered background"): "cyan purple black",
    ("heart", "on a checkered background"): "cyan black",
    ("moon", "on a checkered background"): "red orange yellow green black",
    ("arrow", "on a checkered background"): "red orange yellow cyan purple black",
    ("cross", "on a checkered background"): "orange yellow green purple",
    ("ring", "on a checkered background"): "red orange black",
    ("house", "on a checkered background"): "red orange purple black",
    ("fish", "on a checkered background"): "red orange purple black",
    ("flower", "on a checkered background"): "orange green cyan purple black",
    ("circle", "at sunset"): "yellow green blue purple black",
    ("square", "at sunset"): "orange yellow green black",
    ("triangle", "at sunset"): "red orange yellow blue purple",
    ("star", "at sunset"): "cyan blue purple black",
    ("heart", "at sunset"): "orange yellow green blue purple",
    ("moon", "at sunset"): "orange yellow cyan blue purple black",
    ("arrow", "at sunset"): "orange yellow green blue purple black",
    ("cross", "at sunset"): "green cyan blue",
    ("ring", "at sunset"): "red orange yellow green cyan purple black",
    ("house", "at sunset"): "red cyan black",
    ("fish", "at sunset"): "red yellow green blue purple black",
    ("flower", "at sunset"): "red orange yellow green cyan blue purple black",
    ("circle", "in a meadow"): "red orange yellow purple",
    ("square", "in a meadow"): "red orange yellow cyan blue purple black",
    ("triangle", "in a meadow"): "red green cyan blue purple",
    ("star", "in a meadow"): "orange purple",
    ("heart", "in a meadow"): "red yellow green blue",
    ("moon", "in a meadow"): "red orange green purple black",
    ("arrow", "in a meadow"): "red yellow cyan purple",
    ("cross", "in a meadow"): "red orange yellow green black",
    ("ring", "in a meadow"): "red orange yellow cyan blue purple black",
    ("house", "in a meadow"): "orange green blue purple black",
    ("fish", "in a meadow"): "red orange yellow green blue purple black",
    ("flower", "in a meadow"): "red orange yellow green cyan blue purple",
}
"""Thing and background -> colours, for any style."""

THING_SCENES: Final = {
    ("on a blank background", "flat picture"): "green purple black",
    ("on a blank background", "sketch"): "orange cyan black",
    ("on a blank background", "pixel art"): "red",
    ("on a blank background", "halftone"): "red yellow green blue",
    ("on a blank background", "watercolour"): "orange yellow green black",
    ("on a striped background", "flat picture"): "orange purple",
    ("on a striped background", "sketch"): "purple black",
    ("on a striped background", "pixel art"): "orange",
    ("on a striped background", "halftone"): "cyan blue purple",
    ("on a striped background", "watercolour"): "red orange cyan",
    ("on a checkered background", "flat picture"): "red black",
    ("on a checkered background", "sketch"): "red green purple",
    ("on a checkered background", "pixel art"): "yellow cyan black",
    ("on a checkered background", "halftone"): "orange",
    ("on a checkered background", "watercolour"): "red cyan",
    ("at sunset", "flat picture"): "orange green blue black",
    ("at sunset", "sketch"): "orange yellow purple",
    ("at sunset", "halftone"): "orange green blue purple black",
    ("at sunset", "watercolour"): "yellow green",
    ("in a meadow", "flat picture"): "cyan",
    ("in a meadow", "sketch"): "red yellow blue",
    ("in a meadow", "pixel art"): "green purple",
    ("in a meadow", "halftone"): "red cyan purple",
    ("in a meadow", "watercolour"): "orange yellow purple",
}
"""Background and style -> colours, for any thing."""

CHARACTER_SCENES: Final = (
    ("on a blank background", "flat picture"),
    ("on a blank background", "pixel art"),
    ("on a blank background", "halftone"),
    ("on a striped background", "flat picture"),
    ("on a striped background", "sketch"),
    ("on a striped background", "halftone"),
    ("on a checkered background", "pixel art"),
    ("at sunset", "pixel art"),
    ("at sunset", "watercolour"),
)
"""Background and style, for any character."""
