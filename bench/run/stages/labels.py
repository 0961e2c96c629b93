"""The labels of the rows that a metric of sets stores."""

from __future__ import annotations

from typing import Final

__all__ = ["HIGH", "IMAGES", "LOW", "REFERENCES"]

LOW: Final = " low"
HIGH: Final = " high"
"""After the name of a value: its bounds."""
IMAGES: Final = "images"
REFERENCES: Final = "references"
"""How many images each set has."""
