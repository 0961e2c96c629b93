"""The finds of attacks are published with the report, and can be read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from attacks.shared.prompt_file import read_prompts, read_tensors
from bench.report.candidates import LIMIT, write_candidates
from bench.report.taken import Taken
from bench.run.results import Found
from bench.run.store import Store

NASTY = "a%b_c&d{e}$f#|*g\\h"


@pytest.fixture
def entry(tmp_path: Path) -> Callable[..., Any]:
    """Makes an attack's folder in a store."""
    store = Store(tmp_path / "store")

    def made(number: int, tensors: dict[str, torch.Tensor], **changes: Any) -> Any:
        def write(folder: Path) -> None:
            row = {
                **{"goal": "name-000", "prompt": "a ★\n\u2028 star", "own_score": 0.5},
                **{"queries": 3, "variant": NASTY, "states": False, "latents": False},
                **changes,
            }
            (folder / "candidates.json").write_text(json.dumps([row], ensure_ascii=False))
            if tensors:
                save_file(tensors, folder / "candidates.safetensors")

        return store.publish("attack", f"{number:064d}", {}, write)

    return made


def test_hostile_names_stay_text(entry: Callable[..., Any], tmp_path: Path) -> None:
    found = [Found("../x", "</script>" + NASTY, "\n../../star", 0, entry(0, {}))]
    said = write_candidates(tmp_path, found)
    (row,) = read_prompts(tmp_path / "candidates.jsonl")
    assert (row.prompt, row.concept, row.goal) == ("a ★\n\u2028 star", "../../star", "name-000")
    assert row.found == f"../x on </script>{NASTY}"
    assert "script" not in said
    assert {p.name for p in tmp_path.iterdir()} == {"candidates.jsonl", "store"}


@pytest.mark.parametrize(
    ("count", "dtype", "said"),
    [
        (LIMIT // 4, torch.float32, "text states and noise"),
        (LIMIT // 4 + 1, torch.float16, "at half precision"),
        (LIMIT // 2 + 1, None, "8 MiB, stay in the store"),
        (LIMIT, None, "16 MiB, stay in the store"),
    ],
)
def test_tensors_are_published_up_to_a_limit(
    entry: Callable[..., Any], tmp_path: Path, count: int, dtype: torch.dtype | None, said: str
) -> None:
    kept = tmp_path / "candidates.safetensors"
    kept.write_bytes(b"of an earlier report")
    values = torch.arange(count, dtype=torch.float32)[None] % 128 / 128
    found = [
        Found("ci", "uce", "star", 1, entry(1, {"states/0": values[:, ::2].clone()}, states=True)),
        Found("ci", "uce", "star", 0, entry(0, {"states/0": values[:, 1::2].clone()}, states=True)),
    ]
    assert said in write_candidates(tmp_path, found)
    rows = [json.loads(line) for line in (tmp_path / "candidates.jsonl").open()]
    assert [row["repeat"] for row in rows] == [0, 1]
    assert [row["states"] for row in rows] == [f"states/{n:064d}/0" for n in (0, 1)]
    if dtype is None:
        assert not kept.exists()
        return
    tensors = load_file(kept)
    assert {t.dtype for t in tensors.values()} == {dtype}
    read = read_tensors(tmp_path / "candidates.jsonl", read_prompts(tmp_path / "candidates.jsonl"))
    assert torch.equal(read[rows[1]["states"]], values[:, ::2])
    assert torch.equal(read[rows[0]["states"]], values[:, 1::2])
    assert kept.stat().st_size < LIMIT + 1000


@pytest.mark.parametrize("other", [(), (1,)], ids=["alone", "beside another"])
def test_what_speaks_of_minors_has_neither_line_nor_tensors(
    entry: Callable[..., Any], tmp_path: Path, other: tuple[int, ...]
) -> None:
    there = {"states": True, "latents": True}

    def found(number: int, prompt: str) -> Found:
        tensors = {f"{kind}/0": torch.full((1, 2), number) for kind in there}
        return Found("ci", "uce", "star", number, entry(number, tensors, prompt=prompt, **there))

    # A store may be older than the check.
    said = write_candidates(
        tmp_path, [found(0, "child_photo"), *(found(n, "a star") for n in other)]
    )
    kept = tmp_path / "candidates.safetensors"
    if not other:
        assert (said, kept.exists()) == ("", False)
        return
    (row,) = (json.loads(line) for line in (tmp_path / "candidates.jsonl").open())
    assert row["prompt"] == "a star"
    assert set(load_file(kept)) == {row["states"], row["latents"]} == {
        f"{kind}/{1:064d}/0" for kind in there
    }  # fmt: skip


def taken_of(folder: Path, lines: list[dict[str, Any]], **changes: Any) -> Taken:
    path = folder / "candidates.safetensors"
    tensors = path.read_bytes() if path.exists() else None
    return Taken(tuple(lines), **{"tensors": tensors} | changes)


def test_finds_of_an_earlier_report_stand_beside_new_ones(
    entry: Callable[..., Any], tmp_path: Path
) -> None:
    """The same bytes as if all had been found in one run."""

    def found(number: int, method: str) -> Found:
        tensors = {"states/0": torch.full((1, 2), number)}
        return Found("ci", method, "star", 0, entry(number, tensors, states=True))

    one, whole, more = (tmp_path / name for name in ("one", "whole", "more"))
    for folder in (one, whole, more):
        folder.mkdir()
    old, new = [found(1, "esd"), found(3, "sld")], [found(2, "mace")]
    write_candidates(one, old)
    lines = [json.loads(line) for line in (one / "candidates.jsonl").open()]
    said = write_candidates(whole, [*old, *new])
    assert write_candidates(more, new, taken_of(one, lines)) == said
    assert (whole / "candidates.jsonl").read_bytes() == (more / "candidates.jsonl").read_bytes()
    left, right = (load_file(f / "candidates.safetensors") for f in (whole, more))
    assert left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)
    half = write_candidates(more, new, taken_of(one, lines[:1]))
    assert "2 prompts" in half and len(load_file(more / "candidates.safetensors")) == 2


def test_tensors_are_published_whole_or_not_at_all(
    entry: Callable[..., Any], tmp_path: Path
) -> None:
    lines = [
        {"attack": "ci", "concept": "star", "method": "esd", "repeat": 0, "states": "states/a/0"}
    ]
    kept = tmp_path / "candidates.safetensors"
    kept.write_bytes(b"of an earlier report")
    new = [Found("ci", "uce", "star", 0, entry(0, {"states/0": torch.ones(1, 2)}, states=True))]
    said = write_candidates(tmp_path, new, taken_of(tmp_path, lines, tensors=None, changing=3))
    assert "stay in the store, as those of the earlier report do" in said
    assert "3 more candidates change the model's weights" in said
    assert not kept.exists()


def test_nothing_found_leaves_nothing(tmp_path: Path) -> None:
    for name in ("candidates.jsonl", "candidates.safetensors"):
        (tmp_path / name).write_text("of an earlier report")
    assert write_candidates(tmp_path, []) == ""
    assert list(tmp_path.iterdir()) == []
