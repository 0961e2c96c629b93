"""Commands that show what there is: ls, and verify for a store."""

from __future__ import annotations

from bench.cli.listing import Listed, listing
from bench.cli.output import out, print_json
from bench.cli.words import STORE, Json, StoreArg
from bench.core.errors import UsageError

__all__ = ["ls", "verify"]


def ls(what: Listed = "methods", *, store: StoreArg = STORE, json_: Json = False) -> int:
    """Lists what there is."""
    rows = listing(what, store)
    if json_:
        print_json(rows)
    else:
        width = max((len(r["name"]) for r in rows), default=0)
        for row in rows:
            out.print(
                f"{row['name']:{width}}  {row['about']}",
                soft_wrap=True,
            )
    return 0


def verify(*, store: StoreArg = STORE, json_: Json = False) -> int:
    """Checks every file of the store against its hash; moves nothing."""
    from bench.run.store import Store

    if not store.is_dir():
        raise UsageError(f"--store {store}: no such folder; run a suite first")
    ledger = Store(store)
    damage = ledger.verify()
    entries = ledger.count() - sum(d.attempt is None for d in damage)
    if json_:
        print_json(
            {
                "entries": entries,
                "damaged": [
                    {"kind": d.kind, "digest": d.digest, "reason": d.reason} for d in damage
                ],
            }
        )
    else:
        for d in damage:
            what = "" if d.attempt is None else f"failed attempt {d.attempt}: "
            told = f"damaged: {d.kind} {d.digest}: {what}{d.reason}"
            out.print(told, soft_wrap=True)
        out.print(f"{entries} sound entries, {len(damage)} damaged")
    return 1 if damage else 0
