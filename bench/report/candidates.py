"""Publishes what attacks found, so that others can try it again: ``prompts: {file: .../candidates.jsonl}``.

``candidates.jsonl`` holds one object per candidate:

    attack, method, concept, repeat     where it was found
    goal, prompt, variant               as in `trials.parquet`; a prompt to sample
    own_score, queries                  the attack's own view, and what it cost
    attack_digest                       the folder of the attack in the store
    states, latents                     names in `candidates.safetensors` of the text states to use
                                        instead of the prompt, and of the noise to start from; or null
    start                               how many steps of the sampler that noise has behind it; only
                                        where it is not 0

Candidates that were withheld because they speak of minors are not among them. Nor are those that change
the model's weights: they are no prompts, and stay in the store. Tensors are published
as they are where they fit in :data:`LIMIT`, else at half precision, and else not
at all. The store has them, and `prompts` reads the ``candidates.json`` that lies there as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.digest import write_atomic
from bench.interfaces.minors import about_minors
from bench.report.taken import NOTHING, Taken
from bench.run.results import Found
from bench.run.store import Entry

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LIMIT", "write_candidates"]

LIMIT = 4 * 2**20  # bytes of tensors: a report is committed
_TENSORS = "candidates.safetensors"
_KINDS = ("states", "latents")
_Place = tuple[str, str, str, int]
_Line = tuple[_Place, bytes]
# One for all: `json.dumps` makes one at each call.
_written = json.JSONEncoder(ensure_ascii=False).encode
_STAYED = " Their text states and noise stay in the store, as those of the earlier report do."
_STAY = (
    " {} more candidates change the model's weights: they are no prompts, and stay in the store "
    "(`attack/<first two digits>/<attack_digest>`)."
)


def write_candidates(folder: Path, found: Sequence[Found], taken: Taken = NOTHING) -> str:
    """Writes the candidates into a folder; the same ones in any order give the same bytes.

    What an earlier report has left there goes, as tensors of another report must not be found.

    Args:
        folder: Of the report.
        found: What the attacks of this run found.
        taken: What an earlier report published, of lines that were not computed again.

    Returns:
        What the page says of it; nothing where there is nothing.
    """
    lines: list[_Line] = []  # as text: a dict of each would take ten times the memory
    having: list[tuple[Entry, set[int]]] = []
    changing = 0
    for one in sorted(found, key=lambda f: (f.attack, f.concept, f.method, f.repeat)):
        rows: Any = one.entry.read_json("candidates.json")
        unsaid = _unpublished(rows)
        lines += _lines(one, rows, unsaid)
        changing += sum("weights" in row for row in rows)
        if any(row[kind] for row in rows for kind in _KINDS):
            having.append((one.entry, unsaid))
    changing += taken.changing
    lines += [(_place(line), _text(line)) for line in taken.candidates]
    lines.sort(key=lambda line: line[0])
    said = _write_tensors(folder, having, taken)
    stay = _STAY.format(changing) if changing else ""
    if not lines:
        (folder / "candidates.jsonl").unlink(missing_ok=True)
        return f"\n## Candidates\n\n{stay.strip()}\n" if stay else ""
    write_atomic(folder / "candidates.jsonl", b"".join(text for _, text in lines))
    return (
        "\n## Candidates\n\n"
        f"[candidates.jsonl](candidates.jsonl) has the {len(lines)} prompts that the attacks found, "
        f"without the controls'.{said} "
        "The attack `prompts: {file: candidates.jsonl}` tries them on any suite's methods."
        f"{stay}\n"
    )


def _lines(found: Found, rows: Sequence[dict[str, Any]], unsaid: set[int]) -> list[_Line]:
    """The lines of one attack, in its order; those of ``unsaid`` are left out."""
    about = {name: getattr(found, name) for name in ("attack", "method", "concept", "repeat")}
    kept = ("goal", "prompt", "variant", "own_score", "queries")
    place = _place(about)
    lines = (
        {
            **about,
            **{name: row[name] for name in kept},
            "attack_digest": found.entry.digest,
            **{kind: _key(kind, found.entry, i) if row[kind] else None for kind in _KINDS},
            **({"start": row["start"]} if "start" in row else {}),
        }
        for i, row in enumerate(rows)
        if i not in unsaid
    )
    return [(place, _text(line)) for line in lines]


def _place(line: Mapping[str, Any]) -> _Place:
    """Returns the key that lines are ordered by; those of one attack stay in its order."""
    return line["attack"], line["concept"], line["method"], line["repeat"]


def _text(line: Mapping[str, Any]) -> bytes:
    return f"{_written(dict(line))}\n".encode()


def _unpublished(rows: Sequence[dict[str, Any]]) -> set[int]:
    """The candidates that speak of minors or change weights: neither lines nor tensors are published."""
    return {i for i, row in enumerate(rows) if "weights" in row or about_minors(row["prompt"])}


def _key(kind: str, entry: Entry, number: int) -> str:
    """A tensor's name: it says whose it is, so that no other can be taken for it."""
    return f"{kind}/{entry.digest}/{number}"


def _write_tensors(folder: Path, having: Sequence[tuple[Entry, set[int]]], taken: Taken) -> str:
    """Writes the tensors of the candidates where they are small enough, and all of them are there.

    Args:
        folder: The report's.
        having: The entries with tensors to publish, and which candidates' are not.
        taken: What an earlier report published.

    Returns:
        What the page says of them; nothing where there are none.
    """
    size = sum(entry.files[_TENSORS].size for entry, _ in having)
    named = {line[kind] for line in taken.candidates for kind in _KINDS if line.get(kind)}
    if named:
        if taken.tensors is None:
            (folder / _TENSORS).unlink(missing_ok=True)
            return _STAYED
        size += len(taken.tensors)
    tensors = _tensors(having) if 0 < size <= 2 * LIMIT else {}  # larger ones are not even read
    if taken.tensors is not None and named and size <= 2 * LIMIT:
        tensors |= _tensors_of(taken.tensors, named)
    kept = tensors if _bytes(tensors) <= LIMIT else {name: t.half() for name, t in tensors.items()}
    if not kept or _bytes(kept) > LIMIT:
        (folder / _TENSORS).unlink(missing_ok=True)
        return _too_large(size) if kept or size > 2 * LIMIT else ""
    from safetensors.torch import save  # torch takes seconds, and most reports have no tensors

    write_atomic(folder / _TENSORS, save(kept))
    half = kept is not tensors or any(t.element_size() == 2 for t in kept.values())
    precision = ", at half precision" if half else ""
    return f" [{_TENSORS}]({_TENSORS}) has their text states and noise{precision}."


def _tensors(having: Sequence[tuple[Entry, set[int]]]) -> dict[str, Tensor]:
    """The tensors to publish by name."""
    from safetensors.torch import load_file

    return {
        f"{kind}/{entry.digest}/{number}": value.contiguous()
        for entry, unsaid in having
        for name, value in load_file(entry.file(_TENSORS)).items()
        for kind, _, number in (name.partition("/"),)
        if kind in _KINDS and int(number) not in unsaid
    }


def _tensors_of(data: bytes, names: set[str]) -> dict[str, Tensor]:
    """The tensors of an earlier report that its lines name."""
    from safetensors.torch import load

    return {name: value for name, value in load(data).items() if name in names}


def _bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(t.nbytes for t in tensors.values())


def _too_large(size: int) -> str:
    return (
        f" Their text states and noise, {size / 2**20:.0f} MiB, stay in the store. "
        "`prompts` reads them there too: `attack/<first two digits>/<attack_digest>/candidates.json`."
    )
