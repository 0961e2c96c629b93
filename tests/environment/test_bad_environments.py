"""In a bad environment a command ends in one clear line, or does its work; the store is sound either way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.environment.scenes import SCENES

ROOT = Path(__file__).parents[2]
ROOTS = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user and mount disks")
DAMAGED = {"an_entry_was_cut_short": 1, "the_record_of_a_failure_is_damaged": 1}
WRITTEN = {"nobody_reads_what_is_said", "what_is_said_goes_to_a_full_disk"}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("scenes")
    for folder in (root, *root.parents):  # another user must get there
        if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    done = subprocess.run(
        [sys.executable, "-m", "tests.environment.scenes", str(root)],
        capture_output=True, text=True, cwd=ROOT, timeout=580, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((root / "said.json").read_text())
    return found


@ROOTS
@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_a_bad_environment_is_one_clear_line(said: dict[str, Any], name: str) -> None:
    code, words, _ = SCENES[name]
    found = said[name]
    everything = found["out"] + found["err"]
    assert found["code"] == code, everything
    assert words in everything
    assert "Traceback" not in everything
    if code == 2:
        assert found["err"].count("\n") == 1, found["err"]
        assert found["err"].startswith("error: ")
    assert found["damaged"] == DAMAGED.get(name, 0)
    assert found["left"] == []
    if name in WRITTEN:
        assert found["reported"] == 1
