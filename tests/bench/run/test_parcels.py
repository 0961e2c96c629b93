"""Results as bytes: the same entry on the other side, and nothing but an entry."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.core.digest import JSON, StoreError, digest_of
from bench.run.parcels import adopt, pack, pack_failure
from bench.run.store import Store

DIGEST = digest_of("x")
FILES = {"rows.bin": bytes(range(256)) * 40, "deep/er/one.json": b'{"a": 1}', "empty": b""}
RECORD: dict[str, JSON] = {"title": "é", "cell": {"images": 3}, "timing": {"seconds": 1.5}}


def write(folder: Path) -> None:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.fixture
def parcel(tmp_path: Path) -> bytes:
    return pack(Store(tmp_path / "there").publish("edit", DIGEST, RECORD, write))


def test_an_entry_arrives_as_it_was_sent(tmp_path: Path, parcel: bytes) -> None:
    here = Store(tmp_path / "here")
    adopt(here, parcel)
    mine, theirs = here.find("edit", DIGEST), Store(tmp_path / "there").find("edit", DIGEST)
    assert mine is not None
    assert theirs is not None
    assert mine.record == theirs.record
    assert mine.files == theirs.files
    assert here.verify() == []
    adopt(here, parcel)  # it is there already
    assert here.count() == 1


def test_a_failure_arrives_as_it_was_sent(tmp_path: Path) -> None:
    there, here = Store(tmp_path / "there"), Store(tmp_path / "here")
    there.fail("edit", DIGEST, {"title": "t"}, ValueError("no é"))
    (failure,) = there.failures("edit", DIGEST)
    adopt(here, pack_failure(failure))
    (mine,) = here.failures("edit", DIGEST)
    assert (mine.record, mine.traceback) == (failure.record, failure.traceback)


@given(at=st.integers(0, 10_500), how=st.sampled_from(["cut", "flip", "more"]))
@settings(max_examples=60, deadline=None)
def test_what_was_spoilt_on_the_way_is_refused(at: int, how: str) -> None:
    body = b"".join(FILES[name] for name in sorted(FILES))
    listed = [[n, len(FILES[n]), hashlib.sha256(FILES[n]).hexdigest()] for n in sorted(FILES)]
    head = {"kind": "edit", "digest": DIGEST, "record": RECORD, "files": listed}
    whole = json.dumps(head).encode() + b"\n" + body
    start = len(whole) - len(body)
    place = start + at % len(body)
    spoilt = {
        "cut": whole[:place],
        "flip": whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
        "more": whole + b"x",
    }[how]
    with pytest.raises(StoreError, match="expected a parcel of an entry"):
        adopt(Nowhere(), spoilt)


class Nowhere(Store):
    """A store that nothing may come to."""

    def __init__(self) -> None:
        pass

    def publish(self, *told: object) -> None:  # type: ignore[override] # it is never called
        raise AssertionError("a spoilt parcel was published")


@pytest.mark.parametrize("name", ["../out", "/etc/x", "a/../../x", ".hidden", "a//b", ""])
def test_a_file_goes_nowhere_but_into_its_entry(tmp_path: Path, name: str) -> None:
    head = {"kind": "edit", "digest": DIGEST, "record": {},
            "files": [[name, 1, hashlib.sha256(b"x").hexdigest()]]}  # fmt: skip
    store = Store(tmp_path / "store")
    with pytest.raises(StoreError):
        adopt(store, json.dumps(head).encode() + b"\nx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store"]
    assert store.count() == 0


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"[]\n", b'{"kind": "edit"}\n', b"\x80abc", b"null\n"]
)
def test_what_is_no_parcel_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(StoreError, match="expected a parcel of an entry"):
        adopt(Store(tmp_path), data)
