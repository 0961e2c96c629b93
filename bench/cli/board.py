"""Commands of the leaderboard: add writes the entries of a run, check recomputes them, build makes the site."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from bench.cli.output import out, print_json
from bench.cli.words import Batch, Device, Json
from bench.core.errors import UsageError
from bench.run.loading import Runtime, load_base

if TYPE_CHECKING:
    from bench.leaderboard.entry import Entry
    from bench.leaderboard.resampled import Resampled
    from bench.model.text_to_image import TextToImage
    from bench.run.plan import Plan

__all__ = ["add", "build", "check"]

_BOARD = Path("results") / "leaderboard"
Board = Annotated[Path, Parameter(name="--board", help="The folder of the leaderboard.")]


def add(
    run: Annotated[Path, Parameter(help="The folder of a report beside the leaderboard, e.g. results/mini-quick.")], *,
    methods: Annotated[
        tuple[str, ...], Parameter(name="--method", negative="", help="Its line in the tables; may be given often.")
    ] = (),
    suite: Annotated[str | None, Parameter(help="The file of the run's suite, if it is not a shipped one.")] = None,
    board: Board = _BOARD, json_: Json = False,
) -> int:  # fmt: skip
    """Writes an entry for each method of a published run; nobody types a number."""
    from bench.leaderboard.add import add_run

    made = add_run(run, board, methods=methods, suite=suite)
    if json_:
        print_json([{"path": str(one.path), "new": one.new} for one in made])
        return 0
    for one in made:
        out.print(f"{'wrote' if one.new else 'there'}  {one.path}", soft_wrap=True)
    return 0


def check(
    what: Annotated[Path, Parameter(help="An entry, a folder of entries, or the leaderboard's own.")] = _BOARD, *,
    share: Annotated[
        float | None, Parameter(name="--resample", help="Sample this share of the images again, e.g. 0.05.")
    ] = None,
    seed: Annotated[int | None, Parameter(help="Which images are sampled again; by default nobody knows.")] = None,
    store: Annotated[
        Path | None, Parameter(
            name="--store",
            help="Where edits may lie, and what attacks found; other edits are made again by their method.",
        ),
    ] = None,
    device: Device = "auto", batch_size: Batch = "auto", json_: Json = False,
) -> int:  # fmt: skip
    """Recomputes every number of entries from the published rows; refuses what differs, in a line each."""
    from bench.leaderboard.check import check_entry
    from bench.leaderboard.together import check_together

    if store is not None and not store.is_dir():
        raise UsageError(f"--store {store}: no such folder; run a suite first, or leave it out")
    again = None if share is None else _Again(share, seed, store, Runtime(device, batch_size))
    told: list[dict[str, str]] = []
    sound: list[tuple[Path, Entry]] = []
    for path in _entries(what):
        try:
            entry = check_entry(path)
            said = "" if again is None else again.of(path, entry)
            sound.append((path, entry))
            told.append({"entry": str(path), "refused": "", "resampled": said})
        except UsageError as error:
            told.append({"entry": str(path), "refused": str(error), "resampled": ""})
        if not json_:
            _print(told[-1])
    faults = check_together(sound)
    refused = sum(bool(one["refused"]) for one in told) + len(faults)
    if json_:
        print_json({"entries": told, "together": faults})
        return 1 if refused else 0
    for fault in faults:
        out.print(f"refused: {fault}", soft_wrap=True)
    if again is not None:
        out.print(f"images chosen by --seed {again.seed}")
    out.print(f"{len(sound)} sound entries, {refused} refused")
    return 1 if refused else 0


def _print(one: dict[str, str]) -> None:
    if one["refused"]:
        out.print(f"refused: {one['refused']}", soft_wrap=True)
        return
    said = f"; {one['resampled']}" if one["resampled"] else ""
    out.print(f"sound: {one['entry']}{said}", soft_wrap=True)


def _entries(what: Path) -> Iterator[Path]:
    from bench.leaderboard.names import ENTRIES, entry_files

    if what.is_file():
        yield what
        return
    found = []
    if (what / ENTRIES).is_dir():
        found = list(entry_files(what))
    elif what.is_dir():
        found = sorted(what.glob("*.json"))
    if not found:
        raise UsageError(f"expected an entry or a folder of entries, got {what}, which has none")
    yield from found


class _Again:
    """Samples candidates of entries again; a base is loaded once."""

    def __init__(
        self, share: float, seed: int | None, store: Path | None, runtime: Runtime
    ) -> None:
        self.seed = secrets.randbelow(2**32) if seed is None else seed
        self._share, self._store, self._runtime = share, store, runtime
        self._base: tuple[str, TextToImage] | None = None

    def of(self, path: Path, entry: Entry) -> str:
        """Samples a share of an entry again; returns the outcome in words.

        Raises:
            UsageError: the model does not give the rows.
        """
        from bench.leaderboard.check import run_of
        from bench.leaderboard.protocol import plan_with
        from bench.leaderboard.resample import resample

        plan = plan_with(entry.protocol.suite, entry.method.entry)
        found = resample(
            run_of(path, entry), plan, entry.method.name, self._loaded(plan),
            share=self._share, seed=self.seed, store=self._store,
        )  # fmt: skip
        found.refuse(path)
        return _said(found)

    def _loaded(self, plan: Plan) -> TextToImage:
        from bench.model.pipeline.inspect import inspect_base

        if self._base is None or self._base[0] != plan.base:
            files = inspect_base(plan.suite.base, commit=plan.suite.revision)
            self._base = (plan.base, load_base(files, plan.suite.dtype, self._runtime))
        return self._base[1]


def _said(found: Resampled) -> str:
    left = "".join(f"; not {name}: {why}" for name, why in found.left_out.items())
    return (
        f"{found.candidates} of {found.of} candidates and {found.utility} of {found.utility_of} utility images "
        f"sampled again: {found.identical} of {found.images} images "
        f"identical, {len(found.apart)} apart, {found.flipped} verdicts changed, largest change "
        f"{found.largest:.4f}{left}"
    )


def build(
    *, target: Annotated[
        Path, Parameter(name="--out", help="Where the site goes: an empty folder, or an earlier site.")
    ] = Path("build") / "leaderboard",
    bar: Annotated[
        float | None,
        Parameter(name="--utility", help="The share of the unedited accuracy that a ranked method keeps; 0.75."),
    ] = None,
    board: Board = _BOARD, json_: Json = False,
) -> int:  # fmt: skip
    """Makes the static site of the entries: an index, a page per protocol, a page per entry."""
    from bench.leaderboard.ranking import BAR
    from bench.leaderboard.site import build_site

    done = build_site(board, target, bar=BAR if bar is None else bar)
    if json_:
        said = {"index": str(done.index), "protocols": done.protocols, "entries": done.entries}
        print_json({**said, "bytes": done.size})
        return 0
    out.print(
        f"site: {done.index}; {done.protocols} protocols, {done.entries} entries, {done.size / 2**20:.1f} MiB",
        soft_wrap=True,
    )
    return 0
