"""The smallest suite that runs through every kind of cell: what is played hundreds of times in bad places."""

from __future__ import annotations

from typing import Final

__all__ = ["CELLS", "SAMPLES", "SUITE"]

SUITE: Final = """\
name: tiny
concepts: [star]
sampler: {steps: 2, guidance_scale: 3.0}
methods: [none, destroyed]
attacks: [prompts, {random_tokens: {tries: 1}}, {seed_search: {tries: 1}}]
judges: [mini_judge]
surrogate: clip_zero_shot
metrics: [accuracy, clip_score]
goals: 1
utility: {neighbours: 1, others: 1}
keep_images: 2
"""
"""The text of its file."""

CELLS: Final = 1 + 2 * (2 + 2 + 3 * 3)
"""A reference; of each method an edit, utility with two metrics, and per attack a search, a trial and a score."""

SAMPLES: Final = 1 + 2 * (1 + 3)
"""Those of them that keep images, each an entry more: the reference, utility and trials."""
