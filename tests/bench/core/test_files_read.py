"""A plug-in's identity knows each of a user's files that it opens; the system says which these are."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.interfaces import registry
from bench.model.text_to_image import TextToImage
from tests.readers import ALIKE, NOTHING, READERS, declared, readers, weights_in

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")

_OPEN, _IS_FOLDER, _NONBLOCK = 0x20, 0x40000000, os.O_NONBLOCK
_DECOYS = (
    "added_tokens.json", "special_tokens_map.json", "generation_config.json", "adapter_config.json",
    "video_preprocessor_config.json", "processor_config.json", "tokenizer_config.json",
    "open_clip_config.json", "modules.json", "image_processor_config.json",
    "audio_tokenizer_config.json", "params.json",
)  # fmt: skip
"""Names that libraries look for beside a network; some are read where they are there. Chat templates are left out:
they are read with any tokenizer, and decide nothing where nobody chats."""


@contextmanager
def opened(root: Path) -> Iterator[Callable[[], set[Path]]]:
    """Yields what tells which files under a folder were opened, by whatever code, since the last call."""
    libc = ctypes.CDLL(None, use_errno=True)
    queue = libc.inotify_init1(_NONBLOCK)
    folders = [root, *(p for p in root.rglob("*") if p.is_dir())]
    places = {libc.inotify_add_watch(queue, os.fsencode(p), _OPEN): p for p in folders}
    assert queue >= 0 and -1 not in places, os.strerror(ctypes.get_errno())

    def told() -> set[Path]:
        found: set[Path] = set()
        while True:
            try:
                data = os.read(queue, 2**16)
            except BlockingIOError:
                return found
            while data:
                place, mask, _, size = struct.unpack_from("iIII", data)
                name, data = data[16 : 16 + size].rstrip(b"\0"), data[16 + size :]
                if not mask & _IS_FOLDER:
                    found.add(places[place] / os.fsdecode(name))

    try:
        yield told
    finally:
        os.close(queue)


def test_every_judge_and_metric_is_among_the_readers() -> None:
    for kind in ("judge", "metric"):
        told = NOTHING[kind] | READERS.keys() | ALIKE.keys()
        assert set(registry.names(kind)) <= told, "add it to tests/readers.py"
    for name, other in ALIKE.items():
        metrics: list[Any] = [registry.get("metric", called) for called in (name, other)]
        assert metrics[0].features is metrics[1].features


@pytest.mark.parametrize("name", readers())
def test_what_is_opened_is_in_the_identity(
    name: str, miniature: TextToImage, tmp_path: Path
) -> None:
    reader = READERS[name]
    fields = reader.write(tmp_path)
    for folder in {path.parent for path in tmp_path.rglob("*") if path.is_file()}:
        for decoy in _DECOYS:
            if not (folder / decoy).exists():
                (folder / decoy).write_text("{}")
    spec = reader.make(fields)
    with opened(tmp_path) as told:
        reader.look(spec, miniature)
        read = told()
    assert set(weights_in(tmp_path)) <= read, "it does not look through what it was given"
    assert {path.resolve() for path in read} <= declared(spec)
