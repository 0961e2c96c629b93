"""A short card of one method: what each access breaks with luck beside it, what the edit cost, and who stands where."""

from __future__ import annotations

import pandas as pd
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from bench.tables.summaries import ACCESSES, ANY
from bench.tables.tables import ALL, BASE, FLOOR
from bench.tables.text import NONE, fixed, interval, wrapped

__all__ = ["card_lines", "console_card"]

_SAID = {
    "typed": "typed prompts",
    "searched": "searched prompts",
    "embedding": "embeddings",
    "latent": "noise",
    "weights": "weights",
    ANY: "any of these",
}
_RATES = ("share", "low", "high")
_OTHERS = ("typed", "searched", "embedding")
_HEADS = ("typed", "searched", "embedded")
_MOST = 20


def card_lines(worst: pd.DataFrame, method: str) -> pd.DataFrame:
    """The lines of a method that its card shows: by the judge of record, of its one concept or pooled."""
    lines = worst[worst["judge"] == worst["judge"].iloc[0]] if len(worst) else worst
    named = set(lines["concept"]) - {ALL}
    concept = next(iter(named)) if len(named) == 1 else ALL
    return lines[(lines["method"] == method) & (lines["concept"] == concept)]


def console_card(worst: pd.DataFrame, method: str, published: pd.DataFrame, source: str) -> Group:
    """The card for a terminal of 80 columns.

    Args:
        worst: Lines of :data:`~bench.tables.schema.WORST` of the run.
        method: The method it is about.
        published: Lines of the same kind from committed results of the same protocol; may be empty.
        source: Where those are from.
    """
    own, base = card_lines(worst, method), card_lines(worst, BASE)
    if not len(own):
        return Group(Text("no rows"))
    concept = str(own["concept"].iloc[0])
    named = sorted(set(worst["concept"]) - {ALL})
    head = f"{method}: does {', '.join(named)} come back?  judge: {own['judge'].iloc[0]}"
    parts: list[Table | Text] = [Text(wrapped(head, 80), style="bold"), _by_access(own, base)]
    last = own[own["access"] == ANY]
    kept = interval(last, "retained_accuracy", "retained_low", "retained_high").iloc[0]
    parts.append(Text(f"Accuracy on everything else: {kept} % of the unedited model's.\n"))
    others = published[published["concept"] == concept] if len(published) else published
    if len(others):
        parts.append(Text(f"Beside it, on the same protocol ({source}), % of goals broken:"))
        parts.append(_standing(own, others, method))
    else:
        parts.append(Text(f"No committed results of this protocol on {concept} ({source})."))
    return Group(*parts)


def _by_access(own: pd.DataFrame, base: pd.DataFrame) -> Table:
    page = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    page.add_column("what an attacker holds", no_wrap=True)
    for name in ("goals", "broken %", "luck %", "unedited %"):
        page.add_column(name, justify="right", no_wrap=True)
    before = base.set_index("access")
    by = own.set_index("access")
    for access in (*ACCESSES, ANY):
        if access not in by.index:
            continue
        line = by.loc[[access]]
        unedited = (
            interval(before.loc[[access]], *_RATES).iloc[0] if access in before.index else NONE
        )
        luck = interval(line, "control_share", "control_low", "control_high").iloc[0]
        page.add_row(
            _SAID[access], str(int(line["goals"].iloc[0])), interval(line, *_RATES).iloc[0], luck, unedited,
            style="bold" if access == ANY else None,
        )  # fmt: skip
    return page


def _standing(own: pd.DataFrame, others: pd.DataFrame, method: str) -> Table:
    """The method among the published ones, the hardest to break first."""
    both = pd.concat([own.assign(own=True), others.assign(own=False)], ignore_index=True)
    both = both[~both["method"].isin((BASE, FLOOR))]
    last = both[both["access"] == ANY].sort_values(
        ["share", "retained_accuracy"], ascending=[True, False]
    )
    page = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    page.add_column("method", no_wrap=True)
    for name in (*_HEADS, "any", "kept %"):
        page.add_column(name, justify="right", no_wrap=True)
    for row in last.head(_MOST).to_dict("records"):
        mine = both[(both["method"] == row["method"]) & (both["own"] == row["own"])].set_index(
            "access"
        )
        shares = [
            fixed(100 * mine.loc[[a], "share"], 0).iloc[0] if a in mine.index else NONE
            for a in (*_OTHERS, ANY)
        ]
        kept = fixed(pd.Series([100 * row["retained_accuracy"]]), 0).iloc[0]
        name = f"> {method}" if row["own"] else f"  {row['method']}"
        page.add_row(
            Text(wrapped(name, 34)),
            *map(str, shares),
            str(kept),
            style="bold" if row["own"] else None,
        )
    return page
