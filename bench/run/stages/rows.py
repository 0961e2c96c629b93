"""Rows of what is not finite: an error with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["reasons", "with_errors"]


def reasons(status: Sequence[str]) -> list[str]:
    """Why a row has the status ``error``; empty for the others."""
    return ["the latents or the image are not finite" if s == "error" else "" for s in status]


def with_errors(frame: pd.DataFrame, lost_B: np.ndarray[Any, Any], reason: str) -> pd.DataFrame:
    """The rows, with the status ``error`` and its reason where something was lost."""
    frame = frame.copy()
    frame.loc[lost_B, ["status", "reason"]] = ["error", reason]
    return frame
