"""In a bad environment a command ends in one clear line, or does its work; the store is sound either way."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.environment.scenes import SCENES, all_said, faults_of

ROOTS = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user and mount disks")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return all_said(tmp_path_factory.mktemp("scenes"))


@ROOTS
@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_a_bad_environment_is_one_clear_line(said: dict[str, Any], name: str) -> None:
    assert faults_of(name, said[name]) == []
