"""Bad environments, each made in a child of one warm process; prints what the command line said in each.

    python -m tests.environment.scenes FOLDER [SCENE ...]

A child is a process of its own (rights, limits, folder and streams are its alone), but costs no import.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.cli import main as cli
from bench.run.store import Store
from tests.forks import FORKABLE
from tests.tiny import CELLS, SAMPLES, SUITE

ROOT = Path(__file__).parents[2]
DAMAGED = {"an_entry_was_cut_short": 1, "the_record_of_a_failure_is_damaged": 1}
WRITTEN = {"nobody_reads_what_is_said", "what_is_said_goes_to_a_full_disk"}
NOBODY = 65534
PLAN, RUN, REPORT = ["plan", "tiny.yaml"], ["run", "tiny.yaml"], ["report", "tiny.yaml"]
VERIFY, LS = ["verify"], ["ls", "store"]
Scene = Callable[[Path], list[str]]
SCENES: dict[str, tuple[int, str, Scene]] = {}
"""By name: the exit code, what must be said, and what makes the place and gives the words."""


def scene(code: int, said: str) -> Callable[[Scene], Scene]:
    def named(make: Scene) -> Scene:
        SCENES[make.__name__] = (code, said, make)
        return make

    return named


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def streams(number: int, target: int) -> None:
    """Standard output or errors go there, by a new stream as in a process that starts so."""
    os.dup2(target, number)
    stream = os.fdopen(number, "w", closefd=False, encoding="utf-8", errors="backslashreplace")
    setattr(sys, ("stdout", "stderr")[number - 1], stream)


# --- the store


@scene(2, "a file: File exists; a file stands where a folder is expected")
def store_is_a_file(at: Path) -> list[str]:
    (at / "a file").touch()
    return [*PLAN, "--store", "a file"]


@scene(2, "Not a directory; a file stands where a folder is expected")
def store_is_below_a_file(at: Path) -> list[str]:
    (at / "file").touch()
    return [*PLAN, "--store", "file/x"]


@scene(2, "File name too long; choose a shorter name")
def store_has_a_name_too_long(at: Path) -> list[str]:
    return [*PLAN, "--store", "x" * 300]


@scene(2, "File name too long; choose a shorter name")
def verified_store_has_a_name_too_long(at: Path) -> list[str]:
    return [*VERIFY, "--store", "x" * 300]


@scene(2, "expected a store or an empty folder")
def store_is_a_folder_of_something_else(at: Path) -> list[str]:
    return [*PLAN, "--store", "."]


@scene(2, "expected a store of format 1")
def store_is_of_another_format(at: Path) -> list[str]:
    (at / ".store/STORE.json").write_text('{"format":2}')
    return PLAN


@scene(2, "a link that leads nowhere stands there; mend it or choose another place")
def store_is_a_circle_of_links(at: Path) -> list[str]:
    (at / "a").symlink_to("b")
    (at / "b").symlink_to("a")
    return [*PLAN, "--store", "a"]


@scene(2, "/dev/null: File exists")
def store_is_a_device(at: Path) -> list[str]:
    return [*PLAN, "--store", "/dev/null"]


@scene(2, "Permission denied; choose another place, or ask the owner")
def store_lies_where_one_may_not_write(at: Path) -> list[str]:
    become_nobody()
    return [*PLAN, "--store", "new"]


@scene(2, "Permission denied; choose another place, or ask the owner")
def store_may_not_be_read(at: Path) -> list[str]:
    (at / ".store").chmod(0o700)
    become_nobody()
    return PLAN


@scene(2, "Permission denied")
def part_of_the_store_may_not_be_read(at: Path) -> list[str]:
    (at / ".store/edit").chmod(0o700)
    become_nobody()
    return VERIFY


@scene(0, f"{CELLS} cells, {CELLS} in the store")
def plan_on_the_store_of_another_user(at: Path) -> list[str]:
    become_nobody()
    return PLAN


@scene(0, f"{CELLS + SAMPLES} sound entries, 0 damaged")
def verify_on_the_store_of_another_user(at: Path) -> list[str]:
    become_nobody()
    return VERIFY


@scene(0, "trial none / star / prompts")
def ls_on_the_store_of_another_user(at: Path) -> list[str]:
    become_nobody()
    return LS


@scene(0, "out/index.html")
def report_on_the_store_of_another_user(at: Path) -> list[str]:
    (at / "out").mkdir()
    (at / "out").chmod(0o777)
    become_nobody()
    return [*REPORT, "--out", "out"]


@scene(2, "Permission denied; choose another place, or ask the owner")
def run_on_the_store_of_another_user(at: Path) -> list[str]:
    shutil.rmtree(next((at / ".store/trial").glob("*/*")))
    (at / "out").mkdir()
    (at / "out").chmod(0o777)
    become_nobody()
    return [*RUN, "--out", "out"]


@scene(2, "File too large; raise the limit on the size of files")
def files_are_limited_in_size(at: Path) -> list[str]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
    return [*RUN, "--store", "new"]


@scene(2, "No space left on device; free some space")
def the_disk_of_the_store_is_full(at: Path) -> list[str]:
    disk = tiny_disk(at)
    return [*RUN, "--store", str(disk / "store")]


@scene(2, "Read-only file system; choose a place that can be written")
def the_disk_of_the_store_is_read_only(at: Path) -> list[str]:
    disk = tiny_disk(at)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    return [*RUN, "--store", str(disk / "store")]


@scene(1, f"{CELLS + SAMPLES - 1} sound entries, 1 damaged")
def an_entry_was_cut_short(at: Path) -> list[str]:
    victim = next((at / ".store/trial").rglob("rows.parquet"))
    victim.write_bytes(victim.read_bytes()[:-1])
    return VERIFY


@scene(1, "failed attempt 0: ")
def the_record_of_a_failure_is_damaged(at: Path) -> list[str]:
    folder = Store(at / ".store").fail("edit", "0" * 64, {}, ValueError("x"))
    (folder / "record.json").write_text("{")
    return VERIFY


def tiny_disk(at: Path) -> Path:
    """A filesystem of 64 KiB, which is gone with the child's mounts."""
    disk = at / "disk"
    disk.mkdir()
    size = "size=64k,nr_inodes=200"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)], check=True)
    return disk


# --- the report


@scene(2, "a file: Not a directory; a file stands where a folder is expected")
def out_is_a_file(at: Path) -> list[str]:
    (at / "a file").touch()
    return [*RUN, "--out", "a file"]


@scene(2, "File name too long; choose a shorter name")
def out_has_a_name_too_long(at: Path) -> list[str]:
    return [*REPORT, "--out", "x" * 300]


@scene(
    2, "expected an empty folder or a report of the suite 'tiny', got 'notes.txt'; choose another"
)
def out_holds_something_else(at: Path) -> list[str]:
    (at / "mine").mkdir()
    (at / "mine/notes.txt").touch()
    return [*RUN, "--out", "mine"]


@scene(2, "expected an empty folder or a report of the suite 'tiny', got")
def out_holds_the_report_of_another_suite(at: Path) -> list[str]:
    (at / "mine").mkdir()
    (at / "mine/README.md").write_text("# Results of the suite other\n")
    return [*REPORT, "--out", "mine"]


@scene(2, "Permission denied; choose another place, or ask the owner")
def out_may_not_be_written(at: Path) -> list[str]:
    become_nobody()
    return [*REPORT, "--out", "new"]


@scene(2, "No space left on device; free some space")
def the_disk_of_the_report_is_full(at: Path) -> list[str]:
    return [*REPORT, "--out", str(tiny_disk(at) / "out")]


# --- the process


@scene(2, "expected words in UTF-8")
def a_word_is_not_text(at: Path) -> list[str]:
    return [*PLAN, "--store", os.fsdecode(b"\xff\xfe")]


@scene(2, "the current folder is gone: change to one that exists")
def the_current_folder_is_gone(at: Path) -> list[str]:
    shutil.move(at / "tiny.yaml", at.parent / "tiny-of-a-lost-folder.yaml")
    suite = str(at.parent / "tiny-of-a-lost-folder.yaml")
    shutil.rmtree(at)
    return ["plan", suite]


@scene(0, f"{CELLS} in the store")
def the_current_folder_is_not_text(at: Path) -> list[str]:
    folder = at / os.fsdecode(b"\xff")
    folder.mkdir()
    for name in ("tiny.yaml", ".store"):
        shutil.move(at / name, folder / name)
    os.chdir(folder)
    return PLAN


@scene(0, f"{CELLS} in the store")
def there_is_no_home(at: Path) -> list[str]:
    os.environ.pop("HOME", None)
    become_nobody()
    return PLAN


@scene(0, "index.html")
def there_is_no_folder_for_temporary_files(at: Path) -> list[str]:
    os.environ["TMPDIR"] = str(at / "nowhere")
    tempfile.tempdir = None
    return REPORT


@scene(0, "index.html")
def the_terminal_knows_ascii_only(at: Path) -> list[str]:
    sys.stdout.reconfigure(encoding="ascii", errors="strict")  # type: ignore[union-attr] # it is text
    os.environ["LC_ALL"] = "C"
    return REPORT


@scene(0, "index.html")
def the_terminal_is_one_column_wide(at: Path) -> list[str]:
    os.environ["COLUMNS"] = "1"
    return REPORT


@scene(0, "")
def nobody_reads_what_is_said(at: Path) -> list[str]:
    closed_pipe(1)
    return RUN


@scene(0, f"{CELLS} in the store")
def nobody_reads_the_errors(at: Path) -> list[str]:
    closed_pipe(2)
    return PLAN


@scene(0, "")
def there_is_no_standard_output(at: Path) -> list[str]:
    os.close(1)
    sys.stdout = None  # as Python starts then
    return REPORT


@scene(0, "index.html")
def there_is_no_standard_error(at: Path) -> list[str]:
    os.close(2)
    sys.stderr = None
    return REPORT


@scene(2, "standard output: No space left on device; the work is done all the same")
def what_is_said_goes_to_a_full_disk(at: Path) -> list[str]:
    streams(1, os.open("/dev/full", os.O_WRONLY))
    return REPORT


@scene(2, "Too many open files; raise the limit on open files")
def few_files_may_be_open(at: Path) -> list[str]:
    limit_files(2)
    return [*RUN, "--store", "new"]


@scene(2, "Too many open files; raise the limit on open files")
def no_more_file_may_be_open(at: Path) -> list[str]:
    limit_files(0)
    return VERIFY


def limit_files(more: int) -> None:
    """Lets so many more files be open; all numbers below are taken first."""
    lowest = os.dup(2)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, lowest + more))


def closed_pipe(number: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    streams(number, writer)


# --- all of them


def played(name: str, root: Path, prepared: Path) -> dict[str, Any]:
    """The words of the command line in a scene."""
    at = root / name
    shutil.copytree(prepared, at, symlinks=True)
    at.chmod(0o755)
    child = os.fork()
    if child == 0:
        try:
            # torch makes its pool anew after a fork, and once could not as another user.
            torch.set_num_threads(1)
            os.chdir(at)
            streams(1, os.open(root / f"{name}.out", os.O_WRONLY | os.O_CREAT, 0o666))
            streams(2, os.open(root / f"{name}.err", os.O_WRONLY | os.O_CREAT, 0o666))
            words = SCENES[name][2](at)
            try:
                cli.main(words)
            except SystemExit as end:
                if sys.stdout is not None:
                    sys.stdout.flush()
                os._exit(int(end.code or 0))
        except BaseException:
            traceback.print_exc()
        os._exit(99)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    subprocess.run(["umount", str(at / "disk")], capture_output=True, check=False)
    out, err = (
        (root / f"{name}.{end}").read_text(errors="backslashreplace") for end in ("out", "err")
    )
    store, reported = at / ".store", list((at / "results").glob("*/tiny/README.md"))
    skip = name in ("store_is_of_another_format", "the_current_folder_is_not_text")
    damage = Store(store).verify() if store.is_dir() and not skip else []
    return {
        "code": status, "out": out, "err": err, "damaged": len(damage), "reported": len(reported),
        "left": [p.name for p in at.rglob(".report-*")] + [p.name for p in at.rglob("*.tmp")],
    }  # fmt: skip


def faults_of(name: str, found: dict[str, Any]) -> list[str]:
    """The faults of what the command line said in a scene, a text each."""
    code, words, _ = SCENES[name]
    everything = found["out"] + found["err"]
    faults = []
    if found["code"] != code:
        faults.append(f"expected exit code {code}, got {found['code']}: {everything[-3000:]}")
    if words not in everything:
        faults.append(f"expected {words!r}, got {everything[-3000:]!r}")
    if "Traceback" in everything:
        faults.append(f"expected no traceback, got {everything[-3000:]}")
    if code == 2 and not (found["err"].startswith("error: ") and found["err"].count("\n") == 1):
        faults.append(f"expected one line, got {found['err']!r}")
    if found["damaged"] != DAMAGED.get(name, 0):
        faults.append(f"expected a sound store, got {found['damaged']} damaged entries")
    if found["left"]:
        faults.append(f"expected nothing left behind, got {found['left']}")
    if name in WRITTEN and found["reported"] != 1:
        faults.append("expected the report, got none")
    return faults


def all_said(root: Path, *names: str) -> dict[str, dict[str, Any]]:
    """The words said in each scene; all of them by default, played by a fresh process.

    Args:
        root: An empty folder.
        *names: Of scenes.

    Raises:
        RuntimeError: the process itself failed.
    """
    for folder in (root, *root.parents):  # another user must get there
        if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    done = subprocess.run(
        [sys.executable, "-m", "tests.environment.scenes", str(root), *names],
        capture_output=True, text=True, cwd=ROOT, timeout=580, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), **FORKABLE},
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-3000:])
    said: dict[str, dict[str, Any]] = json.loads((root / "said.json").read_text())
    return said


def main(root: Path, names: list[str]) -> None:
    """Plays scenes, by default all, and writes what was said as JSON."""
    torch.set_num_threads(1)  # a child must not wait for threads that it does not have
    prepared = root / "prepared"
    prepared.mkdir()
    (prepared / "tiny.yaml").write_text(SUITE)
    os.chdir(prepared)
    for words in (
        RUN,
        PLAN,
        REPORT,
        VERIFY,
        LS,
        ["plan", "no-such-suite"],
    ):  # what is imported late
        try:
            cli.main(words)
        except SystemExit:
            continue
    shutil.rmtree(prepared / "results")
    os.chdir(root)
    said = {name: played(name, root, prepared) for name in names or SCENES}
    (root / "said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
