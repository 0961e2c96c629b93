"""The rows of attacks on the method that they were found on: transfers have a table of their own."""

from __future__ import annotations

import pandas as pd

__all__ = ["without_transfers"]


def without_transfers(trials: pd.DataFrame) -> pd.DataFrame:
    """The rows that are no transfers; the frame itself where there are none, as a copy may take 100 MB.

    Args:
        trials: Rows of :data:`~bench.tables.schema.TRIALS`.
    """
    own = trials["source"] == trials["method"]
    return trials if bool(own.all()) else trials[own]
