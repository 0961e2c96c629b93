from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bench.core.digest import file_sha256
from bench.core.errors import UsageError
from bench.core.files import expanded, only_regular, regular
from bench.core.spec import content


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # a socket's path has at most 107 bytes
        server.bind(path.name)


SPECIAL: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "folder": (Path.mkdir, "got a folder at "),
    "fifo": (os.mkfifo, "got a FIFO at "),
    "socket": (_socket, "got a socket at "),
    "device": (lambda path: path.symlink_to("/dev/zero"), ", a link to a device; give "),
    "link": (lambda path: path.symlink_to(path.parent), ", a link to a folder; give "),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", SPECIAL)
def test_nothing_but_a_regular_file_is_opened(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.safetensors"
    make, message = SPECIAL[what]
    make(path)
    for use in (regular, only_regular, file_sha256, content):
        with pytest.raises(UsageError, match=r"^expected a regular file, got .*") as caught:
            use(path)
        assert message in str(caught.value)


def test_a_file_and_a_link_to_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, link = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_text("a")
    link.symlink_to(path)
    assert [regular(p) for p in (path, link)] == [path, link]
    assert file_sha256(link) == file_sha256(path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert regular("~/a.txt") == path


LOST: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "which is not there"),
    "dangling": (lambda path: path.symlink_to("nowhere"), "a link to nothing; restore what"),
    "loop": (lambda path: path.symlink_to(path), "which cannot be read"),
}


@pytest.mark.parametrize("what", LOST)
def test_what_is_not_there_is_said_in_one_line(tmp_path: Path, what: str) -> None:
    make, message = LOST[what]
    make(tmp_path / "a.txt")
    with pytest.raises(UsageError, match=message):
        regular(tmp_path / "a.txt")
    with pytest.raises(OSError):  # the callers' own answer
        only_regular(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["a\0b", "a" * 300, "file/below", "~nosuchuser/a"])
def test_names_that_cannot_be_are_said_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("a")
    given = name if name.startswith("~") else str(tmp_path / name)
    with pytest.raises(UsageError, match=r"^expected a ") as caught:
        regular(given)
    assert "\n" not in str(caught.value)


def test_an_unknown_user_has_no_home() -> None:
    with pytest.raises(UsageError, match="got '~nosuchuser/a': no user has that home folder"):
        expanded("~nosuchuser/a")


@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000, "a\0b"])
def test_a_name_that_no_path_can_have_is_one_line(name: str) -> None:
    with pytest.raises(UsageError, match="expected a path") as error:
        expanded(name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000
