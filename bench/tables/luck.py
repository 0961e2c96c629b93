"""Luck beside every attack: what its control reaches with about as many images looked at.

Best of N is high by selection alone. What an attack adds is what it has above the best of N that were
not searched for. Those are random tokens where it types or embeds, and seeds where it chooses the noise.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

__all__ = ["LUCK", "with_luck"]

LUCK = ("luck_asr", "luck_low", "luck_high", "luck_queries")
_RATES = ["asr", "asr_low", "asr_high", "queries"]
_SAME = ["judge", "method", "concept"]
_KIND = {"prompt": "words", "embedding": "words", "latent": "noise"}


def with_luck(lines: pd.DataFrame, *, plain: str) -> pd.DataFrame:
    """The lines with the columns :data:`LUCK`: the nearest control's rates and its N.

    That is the control of the same judge, method, concept and kind of access whose N is nearest. One
    on the same prompt set is preferred. Where two are as near, so is the larger N, as it is luckier.

    Args:
        lines: With ``attack``, ``access``, ``control``, ``prompt_set``, ``queries`` and the rates.
        plain: The attack that searches nothing: it has no luck and is nobody's.

    Returns:
        The lines in their order; missing for controls, the plain attack, access ``weights``, and
        where the suite has no such control.
    """
    kind = lines["access"].map(_KIND)
    tried = kind.notna() & (lines["attack"].str.partition("/")[0] != plain)
    about = [*_SAME, "kind", "prompt_set", *_RATES]
    rows = lines.assign(kind=kind, place=np.arange(len(lines)))[[*about, "place"]]
    searches, controls = rows[tried & ~lines["control"]], rows[tried & lines["control"]]
    controls = controls[controls["asr"].notna()]
    pairs = searches.merge(controls, on=[*_SAME, "kind"], suffixes=("", "_luck"))
    pairs = pairs.assign(
        elsewhere=pairs["prompt_set"] != pairs["prompt_set_luck"],
        apart=(pairs["queries"] - pairs["queries_luck"]).abs(),
        fewer=-pairs["queries_luck"],
    )
    pairs = pairs.sort_values(["place", "elsewhere", "apart", "fewer", "place_luck"])
    nearest = pairs.drop_duplicates("place").set_index("place")
    luck = nearest[[f"{name}_luck" for name in _RATES]].astype(float)
    luck.columns = pd.Index(LUCK)
    return lines.join(luck.reindex(np.arange(len(lines))).set_axis(lines.index))
