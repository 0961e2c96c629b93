"""Tampering with entries and with files of a run: each kind is found, in one line that says where."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.core.errors import UsageError
from bench.leaderboard.check import check_entry
from bench.leaderboard.names import entry_files
from tests.bench.leaderboard.boards import UCE, Tree, planted, write

HTML = "<script>window.hacked=1</script>"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return planted(tmp_path_factory.mktemp("board") / "results")


@pytest.fixture(scope="module")
def kept(shared: Tree) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in shared.results.rglob("*") if path.is_file()}


@pytest.fixture
def tree(shared: Tree, kept: dict[Path, bytes]) -> Iterator[Tree]:
    """The shared copy; whatever a test changes is put back."""
    before = {path: stamp(path) for path in kept}
    yield shared
    for path in [p for p in shared.results.rglob("*") if p.is_symlink() or p.is_file()]:
        if path not in kept:
            path.unlink()
    for path, data in kept.items():
        if not path.is_file() or stamp(path) != before[path]:
            write(path, data)


def stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        check_entry(path)
    said = str(caught.value)
    assert "\n" not in said
    return said


def worst(entry: Any, access: str = "any") -> Any:
    lines = entry["measured"]["worst"]
    return next(one for one in lines if (one["concept"], one["access"]) == ("all", access))


def rows(entry: Any, part: str) -> Any:
    return entry["measured"][part]


def set_in(value: Any, key: Any, to: Any) -> None:
    value[key] = to


Change = Callable[[Any], Any]
INSIDE: dict[str, tuple[Change, str]] = {
    "a digit of the worst case": (
        lambda e: set_in(worst(e)["share"], "value", 0.999),
        "share.value: expected 1.0",
    ),
    "the last digit of an interval": (
        lambda e: set_in(worst(e)["share"], "low", 0.903582),
        r"share.low: expected 0\.903581",
    ),
    "an interval that is gone": (lambda e: set_in(worst(e)["share"], "low", None), "share.low"),
    "a denominator": (lambda e: set_in(worst(e)["share"], "of", 360), "share.of: expected 36"),
    "goals that were broken": (lambda e: set_in(worst(e), "broken", 3), "broken: expected 36"),
    "the luck of the controls": (lambda e: set_in(worst(e)["luck"], "value", 0.9), "luck.value"),
    "luck left out": (lambda e: set_in(worst(e), "luck", None), "luck: expected"),
    "the goals of the controls": (
        lambda e: set_in(worst(e)["luck"], "of", 12),
        "luck.of: expected 36",
    ),
    "an access left out": (lambda e: rows(e, "worst").pop(1), "measured.worst"),
    "one attack": (
        lambda e: set_in(rows(e, "attacks")[0]["success"], "value", 0.5),
        "success.value",
    ),
    "a control called a contender": (
        lambda e: set_in(rows(e, "attacks")[0], "control", False),
        "control",
    ),
    "a concept left out": (lambda e: rows(e, "costs").pop(), "measured.costs"),
    "retained accuracy": (
        lambda e: set_in(rows(e, "costs")[0]["retained"], "value", 0.5),
        "retained.value",
    ),
    "seconds": (lambda e: set_in(rows(e, "costs")[0]["seconds"], "value", 0.001), "seconds.value"),
    "a flag left out": (lambda e: rows(e, "flags").pop(0), "measured.flags"),
    "a doubt that is not there": (
        lambda e: set_in(e, "unreliable", "so I say"),
        "unreliable: expected None",
    ),
    "an external number": (lambda e: set_in(e["external"][0], "value", 0.0), r"external\.0\.value"),
    "an external number left out": (lambda e: e["external"].pop(), "external: expected"),
    "an external number without a judge": (
        lambda e: set_in(e["external"][0], "judge", ""),
        "judge",
    ),
    "an external number without a source": (lambda e: e["external"][0].pop("source"), "source"),
    "a reported number that no paper has": (
        lambda e: e["reported"].append(e["external"][0]),
        "reported: expected",
    ),
    "the licence": (
        lambda e: set_in(e["method"]["paper"], "licence", "none"),
        "licence: expected 'MIT'",
    ),
    "an address that is none": (
        lambda e: set_in(e["method"]["paper"], "paper", "javascript:alert(1)"),
        "https",
    ),
    "an unknown key": (lambda e: set_in(e, "rank", 1), "rank"),
    "a share above one": (lambda e: set_in(worst(e)["share"], "value", 1.5), "share.value"),
    "a number as text": (lambda e: set_in(worst(e)["share"], "value", "1.0"), "share.value"),
    "a number as true": (lambda e: set_in(worst(e)["share"], "value", True), "share.value"),
    "markup for a name": (lambda e: set_in(e["method"], "name", HTML), "script_window_hacked"),
    "a path for a name": (lambda e: set_in(e["method"], "name", "../../../x"), "move it"),
    "another method's name": (lambda e: set_in(e["method"], "name", "esd"), "move it"),
    "a name that steers a terminal": (
        lambda e: set_in(e["method"], "name", "uce\x1b[2J"),
        "control characters",
    ),
    "another preset of the method": (
        lambda e: set_in(e["method"], "entry", {"uce": {"preset": "repo-2025"}}),
        r"uce\[repo-2025\]",
    ),
    "a method under another's name": (
        lambda e: set_in(e["method"], "entry", {"negative_prompt": {"as": "mine"}}),
        "expected the line",
    ),
    "code for a method": (
        lambda e: set_in(e["method"], "entry", {"os:system": {}}),
        "expected a method of this repository",
    ),
    "code for a method, by its name": (
        lambda e: set_in(e["method"], "entry", "os:system"),
        "expected a method of this repository",
    ),
    "a file of one machine": (
        lambda e: set_in(e["method"], "entry", {"checkpoint": {"path": "/home/me/x"}}),
        "no path of one machine",
    ),
    "a method that nobody knows": (
        lambda e: set_in(e["method"], "entry", "nobody"),
        "unknown method",
    ),
    "the digest of the method": (
        lambda e: set_in(e["method"], "digest", "0" * 64),
        "method.digest",
    ),
    "a method called a control": (lambda e: set_in(e["method"], "control", True), "method.control"),
    "a protocol that is not shipped": (
        lambda e: set_in(e["protocol"], "suite", "mini"),
        "move it|shipped",
    ),
    "the judge of record": (
        lambda e: set_in(e["protocol"], "judge", "another"),
        "expected the protocol",
    ),
    "another base": (lambda e: set_in(e["protocol"], "base", "0" * 64), "expected the base"),
    "the digest of the protocol": (
        lambda e: set_in(e["protocol"], "digest", "0" * 64),
        "expected the protocol",
    ),
    "a short commit": (lambda e: set_in(e["run"], "commit", e["run"]["commit"][:12]), "commit"),
    "another commit": (lambda e: set_in(e["run"], "commit", "0" * 40), "run.commit"),
    "a branch for a commit": (lambda e: set_in(e["run"], "commit", "main"), "commit"),
    "another seed": (lambda e: set_in(e["run"], "seed", 1), "run.seed"),
    "a run elsewhere": (lambda e: set_in(e["run"], "folder", "../mini-quick"), "folder"),
    "a run that is not there": (
        lambda e: set_in(e["run"], "folder", "mini-gone"),
        "expected the folder of a published run",
    ),
    "the digest of the suite": (
        lambda e: set_in(e["run"], "suite_digest", "0" * 64),
        "suite_digest",
    ),
    "the number of rows": (lambda e: set_in(e["run"]["rows"], "trials", 1), "rows.trials"),
    "the digest of rows": (
        lambda e: set_in(e["run"]["files"], "trials.parquet", "0" * 64),
        r"trials\.parquet: expected sha256",
    ),
    "a file that is not listed": (
        lambda e: e["run"]["files"].pop("utility.parquet"),
        "utility.parquet: expected sha256 none",
    ),
    "a version of the format": (lambda e: set_in(e, "version", 2), "version"),
}


@pytest.mark.parametrize("kind", INSIDE)
def test_a_changed_entry_is_refused(tree: Tree, kind: str) -> None:
    change, said = INSIDE[kind]
    assert_said(refusal(tree.change(lambda e: None if change(e) is not e else e)), said)


def assert_said(line: str, pattern: str) -> None:
    assert re.search(pattern, line), line


TEXTS: dict[str, tuple[Callable[[str], str], str]] = {
    "NaN": (lambda text: text.replace('"value": 1.0', '"value": NaN', 1), "finite"),
    "infinity": (lambda text: text.replace('"value": 1.0', '"value": 1e999', 1), "finite"),
    "a key twice": (
        lambda text: text.replace(' "version": 1,', ' "version": 1,\n "version": 1,', 1),
        "once",
    ),
    "another format": (lambda text: json.dumps(json.loads(text)), "expected the text"),
    "no JSON": (lambda text: text[:-3], "expected JSON"),
    "something else": (lambda text: "[]", "expected a JSON object"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_another_text_is_refused(tree: Tree, kind: str) -> None:
    change, said = TEXTS[kind]
    text = tree.entry().read_text(encoding="utf-8")
    assert change(text) != text
    write(tree.entry(), change(text))
    assert_said(refusal(tree.entry()), said)


def provenance(tree: Tree, **changes: Any) -> None:
    about = json.loads((tree.run / "provenance.json").read_text(encoding="utf-8")) | changes
    tree.replace("provenance.json", json.dumps(about).encode())


def table(tree: Tree, name: str, old: str, new: str) -> None:
    text = (tree.run / name).read_text(encoding="utf-8")
    assert old in text
    tree.replace(name, text.replace(old, new, 1).encode())


def page(tree: Tree, word: str) -> None:
    head, _, rest = (tree.run / "README.md").read_text(encoding="utf-8").partition("\n\n")
    write(tree.run / "README.md", f"{head}\n\n> **{word}**: not the whole suite.\n\n{rest}")


def lines(tree: Tree, name: str, keep: Callable[[list[str]], list[str]]) -> None:
    text = (tree.run / name).read_text(encoding="utf-8").splitlines(keepends=True)
    tree.replace(name, "".join(keep(text)).encode())


def without(part: str) -> Callable[[list[str]], list[str]]:
    return lambda text: [line for line in text if part not in line]


CUT = "tvc-bench run mini-quick --limit 4"
PLACES: dict[str, tuple[Callable[[Tree], Any], str]] = {
    "rows changed under an old digest": (
        lambda t: write(t.run / "trials.parquet", b"PAR1"),
        "expected sha256",
    ),
    "rows that are none": (
        lambda t: t.replace("trials.parquet", b"PAR1"),
        "expected rows of trials",
    ),
    "rows removed": (lambda t: (t.run / "trials.parquet").unlink(), "is missing"),
    "a table's digit": (
        lambda t: table(t, "worst.csv", "0.568627", "0.068627"),
        r"worst\.csv:\d+: expected what the rows give",
    ),
    "the suite's name": (
        lambda t: table(t, "table.csv", "mini-quick", "mini-full"),
        "expected the lines of one suite",
    ),
    "a flag removed from its table": (
        lambda t: lines(t, "flags.csv", without("uce")),
        r"flags\.csv:\d+",
    ),
    "a draft": (lambda t: provenance(t, dirty=True), "a draft"),
    "a failed cell": (lambda t: provenance(t, failed=["attack uce"]), "1 cells failed"),
    "a blocked cell": (lambda t: provenance(t, blocked=["trial uce"]), "1 cells were blocked"),
    "a missing cell": (lambda t: provenance(t, missing=["trial uce"]), "1 cells are missing"),
    "rows that are errors": (
        lambda t: provenance(t, errors=["trial uce: 1 of 36"]),
        "1 rows are errors",
    ),
    "what was lost is not said": (lambda t: provenance(t, failed=None), "an unknown number"),
    "a suite cut short": (lambda t: provenance(t, command=CUT), "cut by --limit"),
    "a run of no commit": (lambda t: provenance(t, commit="unknown"), "40 hex digits"),
    "a run of another base": (lambda t: provenance(t, base="0" * 64), "expected the base"),
    "a run of another seed": (lambda t: provenance(t, seed=1), "expected the seed 0"),
    "a partial page": (lambda t: page(t, "PARTIAL"), "a PARTIAL one"),
    "a draft page": (lambda t: page(t, "DRAFT"), "a DRAFT one"),
    "the page of another suite": (
        lambda t: write(t.run / "README.md", "# Something\n"),
        "expected the page of",
    ),
    "a cell removed": (
        lambda t: lines(t, "cells.csv", without("edit,uce[repo-2023],uce[repo-2023],star")),
        "is missing",
    ),
    "a cell of another method": (
        lambda t: table(t, "cells.csv", "edit,uce[repo-2023]", "edit,esd"),
        "expected edit uce",
    ),
    "a cell twice": (
        lambda t: lines(t, "cells.csv", lambda text: [*text, text[-1]]),
        "got one twice",
    ),
    "a candidate removed": (
        lambda t: lines(t, "candidates.jsonl", without("name-003")),
        "expected 12 candidates",
    ),
    "all candidates removed": (
        lambda t: t.replace("candidates.jsonl", b""),
        "expected 12 candidates",
    ),
    "a candidate's prompt": (
        lambda t: lines(
            t,
            "candidates.jsonl",
            lambda text: [x.replace('"prompt": "', '"prompt": "not ') for x in text],
        ),
        "expected prompt",
    ),
    "a candidate's own score": (
        lambda t: lines(
            t,
            "candidates.jsonl",
            lambda text: [x.replace('"own_score": ', '"own_score": 1') for x in text],
        ),
        "expected own_score",
    ),
    "a start that leaves the edited model no step": (
        lambda t: lines(
            t,
            "candidates.jsonl",
            lambda text: [x.replace('"own_score": ', '"start": 6, "own_score": ') for x in text],
        ),
        "expected a start below the sampler's 6 steps, with latents, got 6",
    ),
    "another grid": (
        lambda t: write(t.run / "grid-star.png", (t.run / "grid-zorbo.png").read_bytes()),
        "grid-star.png: expected sha256",
    ),
    "tensors removed": (lambda t: (t.run / "candidates.safetensors").unlink(), "no such file"),
    "a paper that says otherwise": (lambda t: table_of_paper(t), "paper.title"),
    "a published table that says otherwise": (lambda t: published(t), r"external\.0"),
    "a table removed": (lambda t: (t.run / "worst.csv").unlink(), "is missing"),
}


def table_of_paper(tree: Tree) -> None:
    path = tree.board / "papers" / "uce.json"
    write(path, path.read_text(encoding="utf-8").replace("Unified", "United"))


def published(tree: Tree) -> None:
    path = tree.board / "published.csv"
    write(path, path.read_text(encoding="utf-8").replace("79.58", "9.58").replace("78.87", "8.87"))


@pytest.mark.parametrize("kind", PLACES)
def test_a_changed_file_of_a_run_is_refused(tree: Tree, kind: str) -> None:
    change, said = PLACES[kind]
    change(tree)
    assert_said(refusal(tree.entry()), said)


def test_an_entry_under_another_name_or_protocol_is_refused(tree: Tree) -> None:
    text = tree.entry().read_bytes()
    for place in (
        tree.entry("uce"),
        tree.board / "entries" / "mini-quick@0123456789ab" / f"{UCE}.json",
        tree.board / f"{UCE}.json",
    ):
        place.parent.mkdir(exist_ok=True)
        write(place, text)
        assert_said(refusal(place), "move it|give its place")
        place.unlink()
    (tree.board / "entries" / "mini-quick@0123456789ab").rmdir()


def test_a_foreign_version_of_a_protocol_is_refused(tree: Tree) -> None:
    def foreign(entry: Any) -> None:
        entry["protocol"] |= {"version": "0" * 12, "digest": "0" * 64}

    text = tree.change(foreign).read_bytes()
    place = tree.board / "entries" / f"mini-quick@{'0' * 12}" / f"{UCE}.json"
    place.parent.mkdir()
    write(place, text)
    assert_said(refusal(place), f"expected the protocol {tree.protocol} of this version")
    place.unlink()
    place.parent.rmdir()


def test_what_is_no_entry_has_no_place_among_them(tree: Tree) -> None:
    link = tree.entry().with_name("link.json")
    link.symlink_to(tree.entry())
    with pytest.raises(UsageError, match="expected an entry"):
        list(entry_files(tree.board))
    link.unlink()
    write(tree.entry().with_name("notes.txt"), "x")
    with pytest.raises(UsageError, match="expected an entry"):
        list(entry_files(tree.board))


def test_what_nobody_changed_is_sound(tree: Tree) -> None:
    assert check_entry(tree.entry()).method.name == "uce[repo-2023]"
