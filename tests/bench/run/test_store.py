"""On real files: what is there is complete, what is damaged is named, kill -9 is harmless."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import logging
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.digest import (
    DamagedError,
    canonical_json,
    digest_of,
    file_sha256,
    parse_json,
    write_atomic,
)
from bench.run import store as store_module
from bench.run.locks import try_lock
from bench.run.store import Damage, Entry, Store, StoreError

ROOT = Path(store_module.__file__).parents[2]
DIGEST = digest_of({"method": "uce", "concept": "monet"})
ROWS = b"rows " * 4000
ROUNDS = 60


def write_files(folder: Path) -> None:
    (folder / "rows.bin").write_bytes(ROWS)
    (folder / "images").mkdir()
    (folder / "images" / "0.png").write_bytes(b"png")
    (folder / "scores.json").write_text('{"asr": 0.25}')


def publish(store: Store, digest: str = DIGEST, kind: str = "edit") -> Entry:
    return store.publish(kind, digest, {"method": "uce", "seeds": [1, 2]}, write_files)


def files_below(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if not p.is_dir())


def assert_complete(entry: Entry | None) -> None:
    assert entry is not None
    assert files_below(entry.path) == [
        "images/0.png",
        "manifest.json",
        "record.json",
        "rows.bin",
        "scores.json",
    ]
    assert entry.file("rows.bin").read_bytes() == ROWS


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# ------------------------------------------------------------------------------ canonical JSON

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=15,
)


def reverse_keys(value: object) -> object:
    match value:
        case dict():
            return {key: reverse_keys(item) for key, item in reversed(value.items())}
        case list():
            return tuple(reverse_keys(item) for item in value)
        case _:
            return value


@settings(deadline=None)  # the machine may be busy
@given(values)
def test_canonical_json_depends_on_the_meaning_only(value: object) -> None:
    text = canonical_json(value)
    assert canonical_json(reverse_keys(value)) == text
    assert canonical_json(parse_json(text.encode())) == text
    assert json.loads(text) == value
    assert digest_of(reverse_keys(value)) == digest_of(value)


def test_canonical_json_and_digest_never_change() -> None:
    value = {"b": [1, 1.0, True, None], "a": {"é": "\n<"}}
    assert canonical_json(value) == '{"a":{"é":"\\n<"},"b":[1,1.0,true,null]}'
    assert digest_of({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert len({digest_of(one) for one in (1, 1.0, True, "1")}) == 4


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [0, {"b": math.nan}]}, r"\$\.a\[1\]\.b: .*nan"),
        ([math.inf], r"\$\[0\]: .*inf"),
        ({"a": {1: 2}}, r"\$\.a: .*keys.* 1"),
        ({"a": {1, 2}}, r"\$\.a: .*builtins\.set"),
        ({"a": Path("x")}, r"\$\.a: .*Path"),
        ({"a": b"x"}, r"\$\.a: .*bytes"),
        ({"a": signal.SIGKILL}, r"\$\.a: .*Signals"),
        (["\ud800"], r"\$\[0\]: .*surrogate"),
        ({"\ud800": 1}, r"\$: .*surrogate"),
    ],
)
def test_canonical_json_refuses_and_names_the_path(value: object, path: str) -> None:
    with pytest.raises(TypeError, match=path):
        canonical_json(value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"NaN",
        b"[Infinity]",
        b"1e999",
        b'{"a":1,"a":2}',
        b"\xff",
        b"[" * 100_000,
        b'["\\ud800"]',
    ],
)
def test_parse_json_refuses(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_write_atomic_replaces_or_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "shard.bin"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert file_sha256(path) == "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_atomic(tmp_path / "folder", b"new")
    assert files_below(tmp_path) == ["shard.bin"]


# ----------------------------------------------------------------------------- publish and find


def test_round_trip(store: Store) -> None:
    assert store.find("edit", DIGEST) is None
    entry = publish(store)
    assert entry == store.find("edit", DIGEST) == Store(store.root).find("edit", DIGEST)
    assert_complete(entry)
    assert entry.path == store.root / "edit" / DIGEST[:2] / DIGEST
    assert entry.record == {
        "kind": "edit",
        "digest": DIGEST,
        "method": "uce",
        "schema_version": 1,
        "seeds": [1, 2],
    }
    assert entry.read_json("scores.json") == {"asr": 0.25}
    assert entry.read_json("record.json") == entry.record
    assert set(entry.files) == {"images/0.png", "record.json", "rows.bin", "scores.json"}
    assert entry.files["rows.bin"].sha256 == file_sha256(entry.file("rows.bin"))
    assert hash(entry) == hash(store.find("edit", DIGEST))
    assert files_below(store.root / "tmp") == []
    assert store.damage == store.verify() == store.quarantined() == []


def test_everything_is_on_the_disk_before_the_entry_is_in_place(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def recorded_fsync(descriptor: int) -> None:
        steps.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def recorded_rename(source: Path, target: Path) -> None:
        steps.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    entry = publish(store)
    before = steps[: steps.index("rename")]
    temporary = next(path for path in before if path.endswith("manifest.json"))
    temporary = str(Path(temporary).parent)
    names = ["images", *files_below(entry.path)]
    assert {f"{temporary}/{name}" for name in names} | {temporary} <= set(before)
    assert before.index(f"{temporary}/rows.bin") < before.index(f"{temporary}/manifest.json")
    assert steps[steps.index("rename") + 1] == str(entry.path.parent)


def test_publishing_again_keeps_the_first_and_does_not_call_write(store: Store) -> None:
    first = publish(store)
    again = store.publish("edit", DIGEST, {}, lambda folder: pytest.fail("written again"))
    assert again == first
    assert again.record["method"] == "uce"


def test_the_slower_of_two_gets_the_faster_ones_entry(store: Store) -> None:
    def overtaken(folder: Path) -> None:
        publish(Store(store.root))
        (folder / "slower.bin").write_bytes(b"slower")

    entry = store.publish("edit", DIGEST, {}, overtaken)
    assert_complete(entry)
    assert list((store.root / "tmp").iterdir()) == []


def test_an_overtaker_that_is_damaged_is_set_aside(store: Store) -> None:
    def overtaken(folder: Path) -> None:
        publish(Store(store.root)).file("rows.bin").write_bytes(b"")
        write_files(folder)

    assert_complete(store.publish("edit", DIGEST, {}, overtaken))
    assert [damage.digest for damage in store.damage] == [DIGEST]


def test_entries_are_listed_by_kind(store: Store) -> None:
    digests = sorted(digest_of(i) for i in range(5))
    for digest in digests:
        publish(store, digest)
    publish(store, DIGEST, "attack")
    store.scratch("edit", DIGEST)
    store.fail("edit", DIGEST, {}, ValueError())
    (store.root / "edit" / "notes.txt").write_text("not an entry")
    assert [entry.digest for entry in store.entries("edit")] == digests
    assert [entry.kind for entry in store.entries()] == ["attack"] + ["edit"] * 5
    assert list(store.entries("judge")) == []


@pytest.mark.parametrize(
    "kind", ["", "Edit", "../x", "a/b", "a-b", "edit\n", ".", "tmp", "errors", "scratch"]
)
def test_a_bad_kind_is_refused(store: Store, kind: str) -> None:
    before = files_below(store.root.parent)
    for use in every_use(store, kind, DIGEST):
        with pytest.raises(StoreError, match="expected a kind"):
            use()
    with pytest.raises(StoreError, match="expected a kind"):
        list(store.entries(kind))
    assert files_below(store.root.parent) == before


@pytest.mark.parametrize(
    "digest", ["", "abc", DIGEST.upper(), DIGEST + "\n", DIGEST[:61] + "/..", "../" + DIGEST[3:]]
)
def test_a_bad_digest_is_refused(store: Store, digest: str) -> None:
    before = files_below(store.root.parent)
    for use in every_use(store, "edit", digest):
        with pytest.raises(StoreError, match="expected a digest"):
            use()
    assert files_below(store.root.parent) == before


def every_use(store: Store, kind: str, digest: str) -> list[Callable[[], object]]:
    return [
        lambda: store.find(kind, digest),
        lambda: store.publish(kind, digest, {}, write_files),
        lambda: store.scratch(kind, digest),
        lambda: store.fail(kind, digest, {}, ValueError()),
        lambda: store.failures(kind, digest),
        lambda: store.clear_failures(kind, digest),
    ]


@pytest.mark.parametrize(
    "name", ["../x", "../../../STORE.json", "/etc/passwd", "manifest.json", "images", "images/../x"]
)
def test_only_files_of_the_manifest_are_given_out(store: Store, name: str) -> None:
    entry = publish(store)
    with pytest.raises(StoreError, match="expected a file of"):
        entry.file(name)
    with pytest.raises(StoreError, match="expected a file of"):
        entry.read_json(name)


def test_a_file_that_is_not_json_is_named(store: Store) -> None:
    with pytest.raises(StoreError, match=r"rows\.bin: "):
        publish(store).read_json("rows.bin")


@pytest.mark.parametrize("found", ["find", "read"])
def test_a_file_that_changed_since_its_entry_was_found_is_not_read(
    store: Store, found: str
) -> None:
    publish(store)
    fresh = Store(store.root)
    entry = fresh.find("edit", DIGEST) if found == "find" else fresh.read("edit", DIGEST)
    assert entry is not None
    entry.file("scores.json").write_text('{"asr": 0.75}')
    if found == "read":  # the bytes that were verified are at hand
        assert entry.read_json("scores.json") == {"asr": 0.25}
    else:
        with pytest.raises(DamagedError, match=r"scores\.json: expected sha256"):
            entry.read_json("scores.json")


def link(folder: Path) -> None:
    (folder / "link").symlink_to("/etc/passwd")


def link_to_a_folder(folder: Path) -> None:
    (folder / "images").symlink_to("/etc")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (link, "got a link"),
        (link_to_a_folder, "got a link"),
        (lambda folder: os.mkfifo(folder / "pipe"), "got a link or a device"),
        (lambda folder: (folder / ".hidden").touch(), "file names"),
        (lambda folder: (folder / "a b").touch(), "file names"),
        (lambda folder: (folder / os.fsdecode(b"\xff")).touch(), "file names"),
        (lambda folder: (folder / "manifest.json").touch(), r"manifest\.json"),
        (lambda folder: (folder / "record.json").touch(), r"record\.json"),
    ],
)
def test_write_may_not_leave(store: Store, write: Callable[[Path], None], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        store.publish("edit", DIGEST, {}, write)
    assert files_below(store.root) == ["STORE.json"]


@pytest.mark.parametrize(
    ("record", "message"),
    [({"a": math.nan}, r"\$\.a"), ({"kind": "x"}, "kind"), ({"schema_version": 2}, "schema")],
)
def test_a_bad_record_is_refused_before_anything_is_computed(
    store: Store, record: Mapping[str, float], message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        store.publish("edit", DIGEST, record, lambda folder: pytest.fail("computed"))


# -------------------------------------------------------------------------------------- damage


def flip(folder: Path) -> None:
    data = bytearray(ROWS)
    data[12345] ^= 1
    (folder / "rows.bin").write_bytes(data)


def empty(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def replace_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


def replace_by_a_dangling_link(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("nowhere")


def copy_of_another(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"digest": digest_of(0)}))


def manifest_with_another_file(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../../../STORE.json"] = manifest["files"]["rows.bin"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


def swap_for_a_link(folder: Path) -> None:
    (folder / "rows.bin").rename(folder.parent / "rows.bin")
    (folder / "rows.bin").symlink_to("../rows.bin")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped byte": (flip, r"rows\.bin: expected sha256"),
    "truncated": (lambda f: os.truncate(f / "rows.bin", 7), r"rows\.bin: expected 20000 bytes"),
    "longer": (lambda f: os.truncate(f / "rows.bin", 30000), r"rows\.bin: .* got 30000"),
    "missing": (lambda f: (f / "images/0.png").unlink(), r"missing files: \['images/0\.png'\]"),
    "extra": (lambda f: (f / "images/1.png").touch(), r"does not name: \['images/1\.png'\]"),
    "not utf-8": (lambda f: (f / "r\udcff").touch(), r"does not name: \['r\\udcff'\]"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), r"missing .*manifest\.json"),
    "manifest not JSON": (lambda f: (f / "manifest.json").write_text("{"), r"manifest\.json: "),
    "manifest a list": (lambda f: (f / "manifest.json").write_text("[]"), r"manifest\.json: "),
    "manifest of text": (
        lambda f: (f / "manifest.json").write_text(
            json.dumps({"kind": "edit", "digest": DIGEST, "files": {"rows.bin": "x"}})
        ),
        r"manifest\.json: ",
    ),
    "manifest of another": (copy_of_another, r"manifest\.json: expected the files of"),
    "manifest goes outside": (manifest_with_another_file, r"missing files: \['\.\./"),
    "record not JSON": (lambda f: (f / "record.json").write_text("{"), r"record\.json: expected"),
    "link": (swap_for_a_link, r"rows\.bin: .* got a link"),
    "pipe": (lambda f: os.mkfifo(f / "pipe"), "pipe: .* device"),
    "empty": (empty, "missing files"),
    "a file": (replace_by_a_file, "expected a folder"),
    "dangling": (replace_by_a_dangling_link, "expected a folder"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_set_aside_and_named(
    store: Store, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    harm, reason = DAMAGES[name]
    other = publish(store, digest_of("other"))
    folder = publish(store).path
    harm(folder)

    (seen,) = Store(store.root).verify()
    assert seen == Damage("edit", DIGEST, folder, seen.reason)
    assert os.path.lexists(folder), "verify moves nothing"

    with caplog.at_level(logging.WARNING):
        assert store.find("edit", DIGEST) is None
    place = store.root / "quarantine" / f"edit-{DIGEST}-0"
    (damage,) = store.damage
    assert damage == Damage("edit", DIGEST, place, seen.reason)
    assert [damage] == store.quarantined() == Store(store.root).quarantined()
    (message,) = caplog.messages
    assert DIGEST in message
    assert str(place) in message
    assert os.path.lexists(place / "entry"), "the evidence is kept"
    assert not os.path.lexists(folder)
    assert re.search(reason, damage.reason)

    assert_complete(publish(store))
    assert len(store.damage) == 1
    assert store.verify() == []
    assert list(store.entries()) == sorted([other, publish(store)], key=lambda entry: entry.digest)


def test_publishing_over_a_damaged_entry_names_it(store: Store) -> None:
    flip(publish(store).path)
    assert_complete(publish(store))
    flip(publish(store).path)
    assert_complete(publish(store))
    assert [damage.path.name[-2:] for damage in store.damage] == ["-0", "-1"]
    assert store.quarantined() == store.damage


def test_set_aside_moves_all_that_verify_finds(store: Store) -> None:
    for i in range(4):
        publish(store, digest_of(i))
    for i in range(2):
        flip(store.root / "edit" / digest_of(i)[:2] / digest_of(i))
    assert {damage.digest for damage in store.verify()} == {digest_of(0), digest_of(1)}
    assert store.damage == []
    assert {damage.digest for damage in store.set_aside()} == {digest_of(0), digest_of(1)}
    assert store.verify() == store.set_aside() == []
    assert len(store.damage) == len(list(store.entries())) == 2


def test_a_file_is_hashed_once_and_again_when_it_changes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store)
    hashed: list[str] = []

    def counting(path: str, size: int) -> tuple[str, bytes]:
        hashed.append(Path(path).name)
        return file_sha256(Path(path)), Path(path).read_bytes()

    monkeypatch.setattr("bench.core.digest._seen", counting)
    fresh = Store(store.root)
    for _ in range(3):
        assert_complete(fresh.find("edit", DIGEST))
    assert sorted(hashed) == ["0.png", "record.json", "rows.bin", "scores.json"]
    path = store.root / "edit" / DIGEST[:2] / DIGEST / "rows.bin"
    times = path.stat()
    flip(path.parent)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fresh.find("edit", DIGEST) is None


# -------------------------------------------------------------------------- failures and scratch


def test_failures_are_kept_in_order_until_cleared(store: Store) -> None:
    assert store.failures("attack", DIGEST) == []
    for n in range(12):
        try:
            raise RuntimeError(f"attempt {n} \ud800")
        except RuntimeError as error:
            path = store.fail("attack", DIGEST, {"device": "cpu"}, error)
        assert path == store.root / "errors" / "attack" / DIGEST / str(n)
    failures = Store(store.root).failures("attack", DIGEST)
    assert [failure.path.name for failure in failures] == [str(n) for n in range(12)]
    assert failures[3].record["error"] == {"type": "RuntimeError", "message": "attempt 3 \\ud800"}
    assert failures[3].record["device"] == "cpu"
    assert "test_store.py" in failures[3].traceback
    assert store.find("attack", DIGEST) is None
    store.clear_failures("attack", DIGEST)
    store.clear_failures("attack", DIGEST)
    assert store.failures("attack", DIGEST) == []
    assert files_below(store.root) == ["STORE.json"]


def test_scratch_lasts_until_the_entry_is_published(store: Store) -> None:
    write_atomic(store.scratch("attack", DIGEST) / "trials-0.bin", b"trials")
    scratch = Store(store.root).scratch("attack", DIGEST)
    assert (scratch / "trials-0.bin").read_bytes() == b"trials"

    def fails(folder: Path) -> None:
        raise RuntimeError("late")

    with pytest.raises(RuntimeError):
        store.publish("attack", DIGEST, {}, fails)
    assert scratch.exists()

    def copies(folder: Path) -> None:
        shutil.copytree(scratch, folder / "trials")

    entry = store.publish("attack", DIGEST, {}, copies)
    assert entry.file("trials/trials-0.bin").read_bytes() == b"trials"
    assert not scratch.exists()


# ------------------------------------------------------------------------------------- opening


@pytest.mark.parametrize("mark", ['{"format":2}', "{", "", '{"format":1,"x":0}'])
def test_a_store_of_another_format_is_refused(store: Store, mark: str) -> None:
    assert (store.root / "STORE.json").read_text() == '{"format":1}'
    (store.root / "STORE.json").write_text(mark)
    with pytest.raises(StoreError, match="expected a store of format 1"):
        Store(store.root)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"thesis\.tex.*choose another folder"):
        Store(tmp_path)
    assert files_below(tmp_path) == ["thesis.tex"]


def temporary(store: Store, number: int) -> Path:
    """A folder in tmp/ under the name that this process would give it."""
    folder = store.root / "tmp" / f"{os.getpid()}-{number:016}-{platform.node()}"
    folder.mkdir(parents=True)
    write_files(folder)
    return folder


def lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def test_clean_tmp_removes_only_what_nobody_holds(store: Store) -> None:
    held, dead, unlocked, old = (temporary(store, n) for n in range(4))
    lock_of(dead).touch()
    day = time.time() - 25 * 3600
    os.utime(old, (day, day))
    claimed = store.claim("edit", DIGEST)
    other = store.claim("edit", digest_of("other"))
    assert claimed is not None
    assert other is not None
    left = store.root / "claims" / "left.lock"
    left.touch()
    with other, contextlib.ExitStack() as stack:
        lock = try_lock(lock_of(held))
        assert lock is not None
        stack.enter_context(lock)
        claimed.release()
        assert set(store.clean_tmp()) == {dead, lock_of(dead), old, left}
        assert files_below(store.root / "claims") == [other.path.name]
        kept = {held, lock_of(held), unlocked}
        assert set((store.root / "tmp").iterdir()) == kept
        assert_complete_files(held)
    assert store.clean_tmp() == [], "what has no lock is given a day"
    assert files_below(store.root / "claims") == []


def assert_complete_files(folder: Path) -> None:
    assert files_below(folder) == ["images/0.png", "rows.bin", "scores.json"]


def test_the_folder_of_a_live_writer_is_never_cleaned_away(store: Store) -> None:
    def write(folder: Path) -> None:
        write_files(folder)
        assert Store(store.root).clean_tmp() == []

    assert_complete(store.publish("edit", DIGEST, {}, write))
    assert files_below(store.root / "tmp") == []


# -------------------------------------------------------------------------------------- claims


def test_a_claim_is_one_process_long_and_leaves_nothing(store: Store) -> None:
    with store.claim("edit", DIGEST) or pytest.fail("nobody holds it"):
        assert Store(store.root).claim("edit", DIGEST) is None
        with store.claim("attack", DIGEST) or pytest.fail("another kind"):
            pass
    assert files_below(store.root) == ["STORE.json"]
    holder = start("hold", store.root)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    assert store.claim("edit", DIGEST) is None
    holder.kill()
    holder.communicate(timeout=60)
    with store.claim("edit", DIGEST) or pytest.fail("its holder is dead"):
        pass
    assert files_below(store.root) == ["STORE.json"]


def test_only_one_of_many_gets_a_claim(store: Store) -> None:
    path = store.root / "claim.lock"
    rivals = [start("count", path) for _ in range(3)]
    assert [int(rival.communicate(timeout=60)[0]) > 0 for rival in rivals] == [True] * 3
    assert int((store.root / "count").read_text()) == 3 * ROUNDS
    assert not path.exists()


def count(path: Path) -> None:
    """Runs in a process of its own: counts up a number that only the claim protects."""
    total, waited = path.with_name("count"), 1
    for _ in range(ROUNDS):
        while (lock := try_lock(path)) is None:
            waited += 1
            time.sleep(0.0005)
        with lock:
            value = int(total.read_text()) if total.exists() else 0
            total.write_text(str(value + 1))
    print(waited)  # noqa: T201


def hold(root: Path) -> None:
    """Runs in a process of its own: claims an entry and sleeps."""
    with Store(root).claim("edit", DIGEST) or pytest.fail("nobody holds it"):
        print("held", flush=True)  # noqa: T201
        time.sleep(600)


def test_without_locks_everybody_is_granted_one_and_nothing_is_cleaned(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    folder = temporary(store, 0)
    lock_of(folder).touch()
    first, second = store.claim("edit", DIGEST), store.claim("edit", DIGEST)
    assert first is not None
    assert second is not None
    assert not first.sure
    assert "has no locks" in caplog.text
    assert store.clean_tmp() == []
    first.release()
    second.release()
    assert_complete(publish(store))


# ------------------------------------------------------------------------------- other users


def private(folder: Path) -> None:
    write_files(folder)
    for path in folder.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o027, 0o077])
def test_all_files_of_an_entry_have_the_mode_of_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = Store(tmp_path / "store")
        entry = store.publish("edit", DIGEST, {}, private)
        store.fail("edit", DIGEST, {}, ValueError())
    finally:
        os.umask(before)
    modes = {path: path.stat().st_mode & 0o777 for path in store.root.rglob("*")}
    assert entry.file("rows.bin") in modes
    for path, mode in modes.items():
        assert mode == (0o777 if path.is_dir() else 0o666) & ~umask, path


def read_as_another(root: Path) -> None:
    """Runs in a process of its own: becomes the user nobody, who owns nothing, and reads a store."""
    logging.disable()
    nobody = 65534
    os.setgroups([])
    os.setgid(nobody)
    os.setuid(nobody)
    try:
        store = Store(root)
        numbers = [len(list(store.entries())), len(store.damage), len(store.verify())]
        numbers += [store.count(), len(store.failures("edit", DIGEST))]
        print(*numbers, sep="/")  # noqa: T201
    except PermissionError as error:
        print(type(error).__name__)  # noqa: T201


def read(store: Store) -> str:
    return start("other", store.root).communicate(timeout=60)[0].decode().strip()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_may_read_what_the_modes_let_him_read(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o001 == 0 and folder.stat().st_uid == 0:
            folder.chmod(folder.stat().st_mode | 0o011)
    store = Store(tmp_path / "store")
    store.publish("edit", DIGEST, {}, private)
    store.publish("edit", digest_of("other"), {}, private)
    store.fail("edit", DIGEST, {}, ValueError())
    assert read(store) == "2/0/0/2/1"
    flip(store.root / "edit" / DIGEST[:2] / DIGEST)
    assert read(store) == "1/1/1/2/1"
    assert store.quarantined() == []
    (store.root / "edit").chmod(0o700)
    assert read(store) == "PermissionError", "never an empty store"


# -------------------------------------------------------------- records of failed attempts


def replace_the_record_by_a_folder(folder: Path) -> None:
    (folder / "record.json").unlink()
    (folder / "record.json").mkdir()


RECORDS: dict[str, Callable[[Path], object]] = {
    "not JSON": lambda f: (f / "record.json").write_text("{"),
    "a list": lambda f: (f / "record.json").write_text("[]"),
    "not text": lambda f: (f / "record.json").write_bytes(b"\xff"),
    "empty": lambda f: (f / "record.json").write_bytes(b""),
    "no record": lambda f: (f / "record.json").unlink(),
    "no traceback": lambda f: (f / "traceback.txt").unlink(),
    "a folder for a file": replace_the_record_by_a_folder,
    "a file": replace_by_a_file,
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record_of_a_failure_is_seen_and_set_aside(store: Store, name: str) -> None:
    for number in range(3):
        store.fail("edit", DIGEST, {"n": number}, ValueError(str(number)))
    folder = store.root / "errors" / "edit" / DIGEST / "1"
    RECORDS[name](folder)
    (seen,) = Store(store.root).verify()
    assert (seen.kind, seen.digest, seen.path, seen.attempt) == ("edit", DIGEST, folder, 1)
    assert os.path.lexists(folder), "verify moves nothing"
    assert [f.record["n"] for f in store.failures("edit", DIGEST)] == [0, 2]
    (damage,) = store.damage
    assert damage == Damage("edit", DIGEST, damage.path, seen.reason, 1)
    assert os.path.lexists(damage.path / "entry"), "the evidence is kept"
    assert store.verify() == []
    RECORDS[name](store.root / "errors" / "edit" / DIGEST / "2")
    assert len(store.set_aside()) == 1
    assert [f.record["n"] for f in store.failures("edit", DIGEST)] == [0]


def test_an_entry_can_be_rejected_for_what_it_holds(store: Store) -> None:
    entry = publish(store)
    store.reject(entry, "rows.bin: expected rows")
    store.reject(entry, "rows.bin: expected rows")  # it is gone
    assert store.find("edit", DIGEST) is None
    (damage,) = store.damage
    assert damage.reason == "rows.bin: expected rows"
    assert_complete(publish(store))


# ------------------------------------------------------------ crashes, full disks, and races


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


def fill_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def prepare_new(store: Store) -> None:
    write_atomic(store.scratch("edit", DIGEST) / "shard.bin", b"shard")


def prepare_damaged(store: Store) -> None:
    flip(publish(store).path)


STRIKES = {f.__name__: f for f in (kill, interrupt, fill_disk)}
PREPARATIONS = {f.__name__: f for f in (prepare_new, prepare_damaged)}


def strike_everywhere(
    root: Path, prepare: Callable[[Store], None], strike: Callable[[], None]
) -> None:
    """Runs in a process of its own: for every k, a child publishes and is struck at its k-th touch.

    A touch is an open, a rename, a listing, a making or a removal (all told by the audit hook), or
    an fsync. Ends with the first k that is not reached, and prints it.
    """
    logging.disable()
    touches, deadline = 0, None

    def touch(event: str, args: object) -> None:
        nonlocal touches
        if deadline and event.startswith(("open", "os.", "shutil.")) and event != "os.kill":
            touches += 1
            if touches == deadline:
                strike()

    # What a killed process has written stays in the page cache: no need to wait for the disk.
    pytest.MonkeyPatch().setattr(os, "fsync", lambda descriptor: touch("os.fsync", descriptor))
    sys.addaudithook(touch)
    for k in itertools.count(1):
        store = Store(root / f"{k:03}")
        prepare(store)
        child = os.fork()
        if child == 0:
            deadline = k
            with contextlib.suppress(BaseException):
                publish(store)
            os._exit(1 if touches >= k else 0)
        if os.waitpid(child, 0)[1] == 0:
            print(k)  # noqa: T201
            break


def race(root: Path, number: str) -> None:
    """Runs in a process of its own: publishes what its rivals publish, at the same time."""
    store = Store(root)
    (root / "tmp" / f"ready-{number}").touch()
    while not (root / "tmp" / "go").exists():
        time.sleep(0.001)
    for i in range(20):
        assert_complete(publish(store, digest_of(i)))
    print(len(store.damage))  # noqa: T201


def start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, __file__, *map(str, arguments)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize(
    ("prepare", "strike"),
    [
        ("prepare_new", "kill"),
        ("prepare_new", "interrupt"),
        ("prepare_new", "fill_disk"),
        ("prepare_damaged", "kill"),
    ],
)
def test_a_strike_at_any_moment_leaves_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: str, strike: str
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    output = start("strike", tmp_path, prepare, strike).communicate(timeout=60)[0]
    moments = int(output)
    assert moments > 40
    outcomes = []
    for k in range(1, moments + 1):
        store = Store(tmp_path / f"{k:03}")
        remains = files_below(store.root / "tmp")
        if strike != "kill":  # a lock that was struck as it was removed is free
            kept = ("shard.bin", ".lock")
            assert [name for name in remains if not name.endswith(kept)] == []
        entry = store.find("edit", DIGEST)
        outcomes.append(entry is not None)
        if entry is not None:
            assert_complete(entry)
        assert_complete(publish(store))
        assert store.verify() == []
        assert len(store.quarantined()) == (1 if prepare == "prepare_damaged" else 0)
        store.clean_tmp()
        assert [name for name in files_below(store.root) if "shard" in name] == []
        assert list((store.root / "tmp").iterdir()) == []
    assert outcomes == sorted(outcomes), "nothing until a moment, the whole entry from then on"
    assert set(outcomes) == {False, True}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_an_exception_in_write_leaves_nothing(store: Store, error: BaseException) -> None:
    def write(folder: Path) -> None:
        write_files(folder)
        raise error

    with pytest.raises(type(error)) as caught:
        store.publish("edit", DIGEST, {}, write)
    assert caught.value is error
    assert files_below(store.root) == ["STORE.json"]
    assert_complete(publish(store))


def test_processes_may_publish_the_same_at_once(store: Store) -> None:
    (store.root / "tmp").mkdir()
    rivals = [start("race", store.root, number) for number in range(3)]
    while len(list((store.root / "tmp").glob("ready-*"))) < len(rivals):
        assert all(rival.poll() is None for rival in rivals)
        time.sleep(0.01)
    (store.root / "tmp" / "go").touch()
    assert [rival.communicate(timeout=60)[0] for rival in rivals] == [b"0\n"] * len(rivals)
    assert len(list(store.entries("edit"))) == 20
    assert store.verify() == store.quarantined() == []
    assert all(path.is_file() for path in (store.root / "tmp").iterdir())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["strike", where, how, what]:
            strike_everywhere(Path(where), PREPARATIONS[how], STRIKES[what])
        case ["race", where, number]:
            race(Path(where), number)
        case ["hold", where]:
            hold(Path(where))
        case ["other", where]:
            read_as_another(Path(where))
        case ["count", where]:
            count(Path(where))
