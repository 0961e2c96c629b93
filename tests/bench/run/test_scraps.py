"""Folders in the temporary place: gone at the end, and those of the dead with the next."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bench.run.scraps import own_folder

ROOT = Path(__file__).parents[3]
PREFIX = "tvc-test-"
HOLD = f"""
import sys, time
from bench.run.scraps import own_folder
with own_folder({PREFIX!r}) as folder:
    (folder / "file").touch()
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_a_folder_is_ones_own_and_goes_with_all_in_it(temporary: Path) -> None:
    with own_folder(PREFIX) as folder:
        assert folder.parent == temporary
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "a").mkdir()
    assert list(temporary.iterdir()) == []


def test_a_dead_process_leaves_its_folder_to_the_next_and_a_live_one_keeps_it(
    temporary: Path,
) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, cwd=ROOT)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    held = {path.name for path in temporary.iterdir()}
    with own_folder(PREFIX):
        assert held < {path.name for path in temporary.iterdir()}
    assert {path.name for path in temporary.iterdir()} == held
    holder.kill()
    holder.communicate(timeout=60)
    with own_folder(PREFIX):
        assert held.isdisjoint(path.name for path in temporary.iterdir())
    assert list(temporary.iterdir()) == []


def test_a_path_that_is_too_long_for_sockets_lies_in_tmp(temporary: Path) -> None:
    with own_folder(PREFIX, longest=len(str(temporary))) as folder:
        assert folder.parent == Path("/tmp")
    assert not folder.exists()
