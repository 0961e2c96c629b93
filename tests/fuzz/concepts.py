"""Mutated files of concepts: what a user's ``concepts.json`` may look like after an accident."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.fuzz.prompts import mutated_bytes

__all__ = ["write_mutated"]

_VALUES: Final[tuple[Any, ...]] = (
    *(None, 7, -1, 1e308, True, "", " ", "x" * 3000, "\u202e", "\ud800", [], {}, ["a", 7], [[]]),
    *({"name": "a star"}, {"name": [7]}, {"": []}, [{"text": "a"}], 10**400),
)
_SPECIAL: Final[tuple[Callable[[Path], object], ...]] = (
    Path.mkdir,
    os.mkfifo,
    lambda path: path.symlink_to("nowhere"),
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: None,
)


def write_mutated(random: Random, folder: Path) -> Path:
    """Writes one file of concepts, perhaps damaged; returns its path.

    Args:
        random: Decides everything.
        folder: An empty one, or of a call before.
    """
    path = folder / "concepts.json"
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    if random.random() < 0.03:
        random.choice(_SPECIAL)(path)
        return path
    concepts: Any = {
        name: _concept(name) for name in ("star", "fish", "ring")[: random.randrange(4)]
    }
    for _ in range(random.choice((0, 0, 1, 2))):
        _change(random, concepts)
    data = json.dumps(concepts, indent=random.choice((None, 1))).encode()
    for _ in range(random.choice((0, 0, 1, 3))):
        data = mutated_bytes(random, data)
    path.write_bytes(random.randbytes(random.randrange(200)) if random.random() < 0.05 else data)
    return path


def _concept(name: str) -> dict[str, Any]:
    prompts = {"name": [f"a {name}", f"a red {name}"], "indirect": ["something in the sky"]}
    utility = [{"text": f"a {name}, please", "concept": name, "mentions": [name]}]
    about = {"text": name, "family": "object", "guide": "", "neighbours": ["moon"]}
    return {**about, "prompts": prompts, "utility": utility}


def _change(random: Random, value: Any) -> None:
    """Changes one place of a nested value: another value, a key more, or one fewer."""
    while isinstance(value, dict | list) and value:
        key = random.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if not isinstance(value[key], dict | list) or not value[key] or random.random() < 0.3:
            match random.randrange(4):
                case 0:
                    del value[key]
                case 1 if isinstance(value, dict):
                    value[random.choice(("text", "kind", "extra", ""))] = _value(random)
                case _:
                    value[key] = _value(random)
            return
        value = value[key]


def _value(random: Random) -> Any:
    """A value of its own: a list that is in two places, or in itself, is no JSON."""
    return deepcopy(random.choice(_VALUES))
