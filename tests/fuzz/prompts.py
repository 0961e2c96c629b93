"""Mutated files of prompts and candidates: what a user's file may look like after an accident."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any, Final

import torch
from safetensors.torch import save

__all__ = ["LAYOUTS", "mutated_bytes", "write_mutated"]

_WORDS: Final = ("a", "star", "red", "church", "ring, at sunset", 'the "old" house', "étoile", "星")
_VALUES: Final = ("", " ", "7", "-1", "1e999", "NaN", "null", "star", "x" * 3000, "\ud7ff", "0")
_PIECES: Final = (
    *(
        b"",
        b"\0",
        b"\r",
        b"\n",
        b"\r\n",
        b'"',
        b'""',
        b",",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\\ud800",
    ),
    *(b"{", b"}", b"[" * 3000, b"null", b"1" * 5000, b"\xe2\x80\xa8", b"\xe2\x80\xae", b"\x1b[31m"),
    *(b"prompt", b"concept", b"a child\n", b"\n ,\n", b"x" * 200_000, b"\t", b"'", b"=cmd"),
)
LAYOUTS: Final[Mapping[str, tuple[str, ...]]] = {
    "plain": ("prompt",),
    "ours": ("prompt", "concept"),
    "seeds": ("case_number", "prompt", "evaluation_seed", "evaluation_guidance"),
    "artists": ("", "case_number", "prompt", "evaluation_seed", "artist"),
    "classes": ("case_number", "prompt", "class", "evaluation_seed"),
    "two": ("sensitive prompt", "normal prompt"),
    "adversarial": ("target_prompt", "adv_prompt"),
    "text": ("id", "type", "text", "concept", "seed"),
}
"""Headers of published lists; the rows are ours."""


def write_mutated(random: Random, folder: Path) -> Path:
    """Writes one file of prompts, perhaps damaged, perhaps with tensors beside it; returns its path.

    Args:
        random: Decides everything.
        folder: An empty one, or of a call before.
    """
    kind = random.choice(("csv", "csv", "jsonl", "candidates.jsonl", "candidates.json", "bytes"))
    data = random.randbytes(random.randrange(200)) if kind == "bytes" else _sound(kind, random)
    for _ in range(random.choice((0, 1, 1, 2, 5))):
        data = mutated_bytes(random, data)
    ending = random.choice(("csv", "jsonl")) if kind == "bytes" else kind.rpartition(".")[2]
    if random.random() < 0.03:
        ending = random.choice(("txt", "json", "CSV", "tsv", "csv.gz", "parquet", "jsonl.gz", ""))
    name = kind if kind == "candidates.json" else f"fuzz.{ending}"
    path = folder / name
    for old in (path, path.with_suffix(".safetensors")):
        _remove(old)
    if random.random() < 0.03:
        random.choice(_SPECIAL)(path)
        return path
    path.write_bytes(data)
    if "candidates" in kind and random.random() < 0.8:
        tensors = _tensors(random)
        for _ in range(random.choice((0, 0, 1, 2))):
            tensors = mutated_bytes(random, tensors)
        path.with_suffix(".safetensors").write_bytes(tensors)
    return path


def mutated_bytes(random: Random, data: bytes) -> bytes:
    """The bytes with one change: a piece put in, cut out, doubled or flipped, or another encoding."""
    at = random.randrange(len(data) + 1)
    to = min(len(data), at + random.choice((1, 4, 40)))
    match random.randrange(6):
        case 0 | 1:
            return data[:at] + random.choice(_PIECES) + data[at:]
        case 2:
            return data[:at] + data[to:]
        case 3:
            return data[:to] + data[at:]
        case 4:
            flipped = bytes(b ^ 1 << random.randrange(8) for b in data[at:to])
            return data[:at] + flipped + data[to:]
        case _:
            encoding = random.choice(("utf-16", "latin-1", "utf-8-sig"))
            return data.decode(errors="replace").encode(encoding, errors="replace")


def _sound(kind: str, random: Random) -> bytes:
    rows = [[_text(random) for _ in range(8)] for _ in range(random.choice((0, 1, 3, 20)))]
    if kind == "csv":
        columns = random.choice(list(LAYOUTS.values()))
        table = io.StringIO()
        csv.writer(table).writerows([columns, *(row[: len(columns)] for row in rows)])
        return table.getvalue().encode(errors="replace")
    records = [_record(kind, row, random) for row in rows]
    if kind == "candidates.json":
        return json.dumps(records).encode()
    return "".join(
        json.dumps(r, ensure_ascii=random.random() < 0.5) + "\n" for r in records
    ).encode(errors="surrogatepass")


def _text(random: Random) -> str:
    if random.random() < 0.02:
        return random.choice(_VALUES)
    return " ".join(random.choices(_WORDS, k=random.randrange(1, 6)))


def _record(kind: str, row: list[str], random: Random) -> dict[str, Any]:
    record: dict[str, Any] = {
        "prompt": row[0],
        "concept": random.choice(("star", "fish", "", "", None)),
    }
    if kind != "jsonl":
        record |= {"goal": row[1], "attack": "p4d", "method": "uce", "own_score": 0.5, "queries": 4}
        named = kind == "candidates.jsonl"
        record["states"] = random.choice(("one", "one", "one", None) if named else (True, False))
        record["latents"] = random.choice(("two", None) if named else (True, False))
    if random.random() < 0.03:
        values: tuple[Any, ...] = (None, 7, [], {}, True, -1e308, "\ud800", 10**400)
        record[random.choice(list(record))] = random.choice(values)
    if random.random() < 0.03:
        del record[random.choice(list(record))]
    return record


def _tensors(random: Random) -> bytes:
    shapes = {"one": (2, 3), "two": (4, 2, 2), "states/0": (2, 3), "latents/0": (4, 2, 2)}
    types = (torch.float32, torch.float16, torch.bfloat16, torch.int32)
    return save({name: torch.ones(s, dtype=random.choice(types)) for name, s in shapes.items()})


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


_SPECIAL: Final[tuple[Callable[[Path], object], ...]] = (
    Path.mkdir,
    os.mkfifo,
    lambda path: path.symlink_to("nowhere"),
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: None,
)
