"""Keeps the pieces of a study in folders: each is made once, and a study that was stopped goes on."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

from bench.core.digest import digest_of, write_atomic

__all__ = ["OutOfTime", "Pieces", "slug"]

log = logging.getLogger(__name__)

Kept = TypeVar("Kept")
_SECONDS: Final = "seconds.json"
_NAME: Final = re.compile(r"[^a-z0-9]+")


class OutOfTime(Exception):
    """The time that was allowed is over; what was measured is kept."""


def slug(text: str) -> str:
    """The text as a part of a file's name."""
    return _NAME.sub("-", text.lower()).strip("-")


class Pieces:
    """The pieces of one concept, training seed and vector.

    Args:
        folder: Holds a folder per concept, seed and what its pieces depend on.
        name: The concept.
        seed: The training seed.
        own: What the pieces of this vector depend on.
        shared: What those depend on that are of no vector; all vectors have them in common.
        common: Labels of the models that these are of.
        deadline: In the seconds of ``time.monotonic``; after it no further piece is begun.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        seed: int,
        *,
        own: Mapping[str, Any],
        shared: Mapping[str, Any],
        common: Collection[str],
        deadline: float | None,
    ) -> None:
        self._about, self._common, self._deadline = f"{name}, seed {seed}", common, deadline
        self.own, self.shared = (
            folder / f"{slug(name)}-{seed}-{digest_of(json.loads(json.dumps(key)))[:12]}"
            for key in (own, shared)
        )
        for place in (self.own, self.shared):
            place.mkdir(parents=True, exist_ok=True)

    def kept(self, label: str, make: Callable[[], Any], *, of: str = "") -> Any:
        """A measurement as JSON, made once, then read; ``of`` is the label of the model that it is of."""

        def save(value: Any, path: Path) -> None:
            write_atomic(path, json.dumps(value).encode())

        def load(path: Path) -> Any:
            return json.loads(path.read_text())

        return self.kept_file(f"{slug(label)}.json", load, save, make, of=of)

    def kept_file(
        self,
        file: str,
        load: Callable[[Path], Kept],
        save: Callable[[Kept, Path], None],
        make: Callable[[], Kept],
        *,
        of: str = "",
    ) -> Kept:
        """The content of ``file``; made, written and logged if it is not there yet.

        Args:
            file: Its name.
            load: Reads it.
            save: Writes it.
            make: What is kept.
            of: The label of the model that was measured; it tells whether all vectors share the file.

        Raises:
            OutOfTime: it is not there, and the deadline is over.
        """
        path = (self.shared if of in self._common else self.own) / file
        if path.exists():
            return load(path)
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise OutOfTime(f"{self._about}: {path.stem} is next")
        began = time.perf_counter()
        value = make()
        seconds = time.perf_counter() - began
        save(value, path)
        taken = {**_seconds(path.parent), path.stem: [round(seconds, 1), torch.get_num_threads()]}
        write_atomic(path.parent / _SECONDS, json.dumps(taken).encode())
        log.info("%s: %s, %.0f s", self._about, path.stem, seconds)
        return value

    def seconds(self) -> dict[str, list[float]]:
        """Piece of this vector -> wall-clock seconds that making it took, and on how many threads."""
        return _seconds(self.own)


def _seconds(folder: Path) -> dict[str, list[float]]:
    path = folder / _SECONDS
    return dict(json.loads(path.read_text())) if path.exists() else {}
