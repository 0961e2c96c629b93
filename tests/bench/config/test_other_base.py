"""A suite on another base: under its own name, of no protocol, and the same in all else."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.config.other_base import on_base
from bench.config.suite import load_suite, read_suite
from bench.core.errors import UsageError
from bench.core.shipped import model_folder

COMMIT = "4" * 40


def test_only_the_base_the_name_and_the_protocol_change() -> None:
    file = read_suite("sd14-objects-quick")
    assert file.protocol and file.revision
    found = on_base(file, f"somebody/Their_Model.v2@{COMMIT}")
    assert (found.base, found.revision) == ("somebody/Their_Model.v2", COMMIT)
    assert found.name == "sd14-objects-quick-on-their-model-v2"
    assert found.protocol is None
    same = {"base", "revision", "name", "protocol"}
    assert found.model_dump(exclude=same) == file.model_dump(exclude=same)


def test_a_folder_is_seen_from_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    file = read_suite("sd14-objects-quick")
    for said in ("mine", "./mine", str(tmp_path / "mine")):
        found = on_base(file, said)
        assert (found.base, found.revision) == (str(tmp_path / "mine"), None)
        assert found.name == "sd14-objects-quick-on-mine"


def test_its_own_base_leaves_the_suite_as_it_is() -> None:
    file = read_suite("mini-quick")
    assert on_base(file, "miniature") is file
    real = read_suite("sd14-objects-quick")
    assert on_base(real, f"{real.base}@{real.revision}") is real


def test_a_suite_on_a_copy_of_the_miniature_has_its_concepts(tmp_path: Path) -> None:
    (tmp_path / "Ä ö").symlink_to(model_folder())
    suite = load_suite("mini-quick", base=str(tmp_path / "Ä ö"))
    assert suite.name == "mini-quick-on-base"
    assert [c.text for c in suite.concepts] == [c.text for c in load_suite("mini-quick").concepts]


@pytest.mark.parametrize("base", ["", " ", "somebody/model", "@", "model@", f"@{COMMIT}"])
def test_a_base_that_is_none_is_refused_in_one_line(base: str) -> None:
    with pytest.raises(UsageError, match=r"^base: expected a miniature, a folder"):
        on_base(read_suite("mini-quick"), base)


@pytest.mark.parametrize("base", ["", "somebody/model", "./nothing"])
def test_an_error_of_the_base_is_told_of_the_option_and_not_of_the_file(base: str) -> None:
    with pytest.raises(UsageError, match=r"^--base: (?!.*yaml)"):
        load_suite("mini-quick", base=base)


def test_a_long_name_stays_a_name(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 200)
    folder.mkdir()
    file = read_suite("mini-quick")
    assert on_base(file, str(folder)).name == f"mini-quick-on-{'x' * 36}"
    long = file.model_copy(update={"name": "s" * 100})
    assert on_base(long, str(folder)).name == f"{'s' * 60}-on-{'x' * 36}"
