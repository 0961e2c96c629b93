"""The slots of a model that an edit can fill."""

from __future__ import annotations

from typing import Literal

__all__ = ["Slot"]

Slot = Literal["weights", "guidance", "filters", "hooks"]
