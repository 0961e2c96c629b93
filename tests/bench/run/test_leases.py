"""Claims lapse with their holder's signs of life, and not before; whoever was away takes nothing from his heir."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bench.core.digest import digest_of
from bench.run.leases import BEAT_S, LEASE_S, try_lease
from bench.run.locks import Lock, try_lock
from bench.run.store import Store

PATIENCE_S = 60.0


def old(path: Path) -> None:
    """As if nobody had touched it for long."""
    long_ago = path.stat().st_mtime - 2 * LEASE_S
    os.utime(path, (long_ago, long_ago))


@pytest.fixture
def dead(tmp_path: Path) -> Lock:
    """The lock of a machine that died, on a filesystem that has not noticed."""
    lock = try_lock(tmp_path / "claim.lock")
    assert lock is not None
    return lock


def test_several_beats_may_be_missed() -> None:
    assert LEASE_S >= 5 * BEAT_S


def test_a_claim_is_good_without_a_sign_of_life_for_a_while(dead: Lock) -> None:
    assert try_lease(dead.path) is None


def test_the_claim_of_a_dead_machine_is_taken_over(dead: Lock) -> None:
    old(dead.path)
    heir = try_lease(dead.path)
    assert heir is not None
    assert try_lease(dead.path) is None, "it is the heir's now"
    dead.release()  # the machine was only away
    assert heir.path.exists(), "the file of the heir stays"
    assert try_lease(dead.path) is None
    heir.release()
    assert list(heir.path.parent.iterdir()) == []


def test_only_one_takes_a_claim_over(dead: Lock) -> None:
    old(dead.path)
    guard = try_lock(dead.path.parent / "take-over.lock")
    assert guard is not None
    with guard:
        assert try_lease(dead.path) is None
    heir = try_lease(dead.path)
    assert heir is not None
    heir.release()


def test_who_lives_keeps_a_claim(tmp_path: Path) -> None:
    path = tmp_path / "claim.lock"
    with try_lease(path, beat_s=0.01) or pytest.fail("nobody holds it"):
        old(path)
        end = time.monotonic() + PATIENCE_S
        while time.time() - path.stat().st_mtime > LEASE_S:
            assert time.monotonic() < end, "no sign of life"
            time.sleep(0.005)
        assert try_lease(path) is None
    assert not path.exists()


def test_a_file_that_was_left_is_young_again_for_its_next_holder(tmp_path: Path) -> None:
    path = tmp_path / "claim.lock"
    path.touch()
    old(path)
    with try_lease(path) or pytest.fail("nobody holds it"):
        assert time.time() - path.stat().st_mtime < LEASE_S
        assert try_lease(path) is None


def test_the_store_gives_such_claims(tmp_path: Path) -> None:
    store, digest = Store(tmp_path), digest_of("x")
    with store.claim("edit", digest) or pytest.fail("nobody holds it"):
        lock_file = tmp_path / "claims" / f"edit-{digest}.lock"
        old(lock_file)
        heir = Store(tmp_path).claim("edit", digest)
        assert heir is not None
        assert store.clean_tmp() == []
        heir.release()
