"""The store: each result is an immutable folder, named by the digest of what it was computed from.

    root/STORE.json                         {"format": 1}
    root/<kind>/<digest[:2]>/<digest>/      an entry: its files, record.json and manifest.json
    root/errors/<kind>/<digest>/<n>/        a failed attempt: record.json and traceback.txt
    root/scratch/<kind>/<digest>/           resumable work towards an entry
    root/quarantine/<kind>-<digest>-<n>/    a damaged entry (entry) and its reason.txt
    root/tmp/                               what is being written or removed now, and its locks
    root/claims/<kind>-<digest>.lock        held by the process that computes the entry

An entry is written in tmp/, brought to the disk and renamed into place. A folder that is there is
complete, whatever was killed, and two processes that compute the same entry harm nobody. They need
not: who means to compute an entry claims it first (`claim`). Reading verifies every file; a damaged
entry is set aside with its reason, never computed again in silence. Whoever may read the folder may
read all of it: files have the mode that the umask gives. Only JSON is parsed. POSIX only: renames
must be atomic and folders must sync.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import os
import platform
import re
import secrets
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.core.digest import (
    JSON,
    DamagedError,
    FileInfo,
    Stamp,
    StoreError,
    canonical_json,
    parse_json,
    seal,
    sync,
    unseal,
    write_atomic,
    write_synced,
)
from bench.run.leases import Lease, try_lease
from bench.run.locks import Lock, try_lock

__all__ = ["Damage", "Entry", "Failure", "FileInfo", "Store", "StoreError", "write_atomic"]

FORMAT = 1
SCHEMA_VERSION = 1
RESERVED_KINDS = frozenset({"claims", "errors", "quarantine", "scratch", "tmp"})

_RECORD = "record.json"
_TRACEBACK = "traceback.txt"
_MARKER = "STORE.json"
_KIND = re.compile(r"[a-z0-9_]+")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{2}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_QUARANTINED = re.compile(r"([a-z0-9_]+)-([0-9a-f]{64})-([0-9]+)")
_TEMPORARY = re.compile(r"[0-9]{1,9}-[0-9a-f]{16}-.*")
_LOCK = ".lock"
_UNLOCKED_S = 24 * 3600.0
"""So old is what a program without locks has left in tmp/, before it counts as dead."""
_TRIES = 100
_READ_ONLY = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A complete, verified result.

    Attributes:
        kind: what it is, such as `edit`.
        digest: the identity of what it was computed from.
        path: its folder; nothing in it may be changed.
        record: the content of record.json, with `kind`, `digest` and `schema_version`.
        files: what is in the folder, by POSIX name, without the manifest.
        data: the bytes of small files, as they were verified, of an entry that `Store.read` gives.
    """

    kind: str
    digest: str
    path: Path
    record: Mapping[str, JSON] = field(hash=False, repr=False)
    files: Mapping[str, FileInfo] = field(hash=False, repr=False)
    data: Mapping[str, bytes] = field(default_factory=dict, hash=False, repr=False, compare=False)

    def file(self, name: str) -> Path:
        """Returns the path of a file of the manifest; any other name is a StoreError."""
        if name not in self.files:
            raise StoreError(f"{self.path}: expected a file of {sorted(self.files)}, got {name!r}")
        return self.path / name

    def read_bytes(self, name: str) -> bytes:
        """Returns the content of a file of the manifest, held to it.

        Raises:
            DamagedError: it has changed since the entry was found.
        """
        if name in self.data:
            return self.data[name]
        data = self.file(name).read_bytes()
        if (sha256 := hashlib.sha256(data).hexdigest()) != self.files[name].sha256:
            raise DamagedError(f"{name}: expected sha256 {self.files[name].sha256}, got {sha256}")
        return data

    def read_json(self, name: str) -> JSON:
        """Returns the content of a JSON file of the manifest, held to it as `read_bytes` holds it."""
        data = self.read_bytes(name)
        try:
            return parse_json(data)
        except ValueError as error:
            raise StoreError(f"{self.file(name)}: {error}") from error


@dataclass(frozen=True, slots=True)
class Damage:
    """An entry that is not what its manifest says; `path` is where its remains lie.

    `attempt` is the number of a failed attempt, where it is the record of that which is damaged.
    """

    kind: str
    digest: str
    path: Path
    reason: str
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt at an entry; its record holds the error's type and message as `error`."""

    kind: str
    digest: str
    path: Path
    record: Mapping[str, JSON] = field(hash=False, repr=False)
    traceback: str = field(repr=False)


class Store:
    """A folder of immutable entries, shared by any number of processes.

    Args:
        root: the store's folder; a missing or an empty one becomes a store.

    Raises:
        StoreError: if the folder holds something else, or a store of another format.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self._damage: list[Damage] = []
        self._verified: dict[tuple[str, str], Stamp] = {}
        _open_root(self.root)

    @property
    def damage(self) -> list[Damage]:
        """The entries that this object has set aside since it was made, oldest first."""
        return list(self._damage)

    def find(self, kind: str, digest: str) -> Entry | None:
        """Returns a complete entry, or None if there is none.

        Every file is compared with the manifest; what this object has hashed before is not hashed
        again while inode, size and times stay the same. A damaged entry is moved to the quarantine,
        logged and added to `damage`, and counts as none. Where this process may not move it, it
        stays.
        """
        return self._looked_up(kind, digest, keep=False)

    def read(self, kind: str, digest: str) -> Entry | None:
        """Returns what `find` does, with the bytes of the entry's small files: each is read once.

        What this object has hashed before has no bytes.
        """
        return self._looked_up(kind, digest, keep=True)

    def _looked_up(self, kind: str, digest: str, *, keep: bool) -> Entry | None:
        """Returns what `find` does; where they are to be kept, with the bytes of small files."""
        folder = self._folder("", kind, digest)
        while True:
            try:
                inode = folder.lstat().st_ino
                return self._load(folder, kind, digest, {} if keep else None)
            except FileNotFoundError:  # none, or another process has just set it aside
                return None
            except DamagedError as error:
                if not self._quarantine(folder, Damage(kind, digest, folder, str(error)), inode):
                    return None

    def reject(self, entry: Entry, reason: str) -> None:
        """Sets aside an entry whose files fit its manifest but do not hold what they should."""
        damage = Damage(entry.kind, entry.digest, entry.path, reason)
        try:
            inode = entry.path.lstat().st_ino
        except FileNotFoundError:  # another process has just set it aside
            return
        self._quarantine(entry.path, damage, inode)

    def claim(self, kind: str, digest: str) -> Lease | None:
        """Returns the claim to compute an entry, or None while another process holds it.

        Hold it while you compute, and look for the entry once more when you have it. The kernel
        gives it back when its holder dies; it lapses when a whole machine does. Nothing else of
        the store asks for it.
        """
        name = self._folder("claims", kind, digest)
        folder = name.parent.parent
        folder.mkdir(exist_ok=True)
        return try_lease(folder / f"{kind}-{digest}{_LOCK}")

    def publish(
        self, kind: str, digest: str, record: Mapping[str, JSON], write: Callable[[Path], None]
    ) -> Entry:
        """Makes an entry, all of it or nothing, and removes its scratch folder.

        Args:
            kind: what it is, such as `edit`.
            digest: the identity of what it was computed from.
            record: what record.json says, without `kind`, `digest` and `schema_version`.
            write: puts the entry's files into the empty folder that it is given. It is not called
                if a complete entry is there already.

        Returns:
            The entry; if another process was faster, that one's.

        Raises:
            StoreError: if the record is not JSON, or a file is a link or badly named.
        """
        final = self._folder("", kind, digest)
        data = _record_json(record, kind=kind, digest=digest)
        entry = self.find(kind, digest)
        if entry is None:
            with self._temporary() as temporary:
                temporary.mkdir()
                write(temporary)
                if (temporary / _RECORD).exists():
                    raise StoreError(f"expected no {_RECORD} from `write`, got one; use `record`")
                write_synced(temporary / _RECORD, data)
                stamp = seal(temporary, kind=kind, digest=digest)
                entry = self._move_in(temporary, final, kind, digest, stamp)
        self._discard(self._folder("scratch", kind, digest))
        return entry

    def scratch(self, kind: str, digest: str) -> Path:
        """Returns a folder for resumable work towards an entry, which outlives crashes.

        Write to it with `write_atomic`, and copy from it in `publish`, which then removes it. Two
        processes at the same entry share it: if a file is gone, look for the entry before failing.
        """
        folder = self._folder("scratch", kind, digest)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def fail(
        self, kind: str, digest: str, record: Mapping[str, JSON], error: BaseException
    ) -> Path:
        """Keeps the record and the traceback of a failed attempt; returns their folder."""
        said = {"type": type(error).__qualname__, "message": _utf8(str(error)).decode()}
        lines = "".join(traceback.format_exception(error))
        return self.keep_failure(kind, digest, record, said, lines)

    def keep_failure(
        self, kind: str, digest: str, record: Mapping[str, JSON], error: JSON, lines: str
    ) -> Path:
        """Keeps a failed attempt of which another process has told; returns its folder.

        Args:
            kind: of the entry.
            digest: of the entry.
            record: what record.json says, without `kind`, `digest`, `error` and `schema_version`.
            error: the error's `type` and `message`.
            lines: the traceback.
        """
        attempts = self._folder("errors", kind, digest)
        data = _record_json(record, kind=kind, digest=digest, error=error)
        with self._temporary() as temporary:
            temporary.mkdir()
            write_synced(temporary / _RECORD, data)
            write_synced(temporary / _TRACEBACK, _utf8(lines))
            sync(temporary)
            attempts.mkdir(parents=True, exist_ok=True)
            places = (attempts / str(n) for n in itertools.count())
            return next(place for place in places if _rename(temporary, place))

    def failures(self, kind: str, digest: str) -> list[Failure]:
        """Returns the failed attempts at an entry that are on record, oldest first.

        One whose record is damaged is set aside as a damaged entry is, and left out.
        """
        found = []
        for folder in self._attempts(kind, digest):
            try:
                inode = folder.lstat().st_ino
                found.append(_read_failure(folder, kind, digest))
            except FileNotFoundError:  # another process has just set it aside
                continue
            except DamagedError as error:
                damage = Damage(kind, digest, folder, str(error), int(folder.name))
                self._quarantine(folder, damage, inode)
        return found

    def remove(self, kind: str, digest: str) -> bool:
        """Removes an entry that nothing will ask for again; returns whether it was there."""
        self._verified.pop((kind, digest), None)
        return self._discard(self._folder("", kind, digest))

    def clear_failures(self, kind: str, digest: str) -> None:
        """Forgets the failed attempts at an entry."""
        self._discard(self._folder("errors", kind, digest))

    def entries(self, kind: str | None = None) -> Iterator[Entry]:
        """Yields the complete entries, of one kind or of all, by kind and digest.

        A damaged entry is set aside as `find` does, and left out.
        """
        for address in self._addresses(kind):
            entry = self.find(*address)
            if entry is not None:
                yield entry

    def count(self) -> int:
        """Returns how many entries there are, sound or not."""
        return sum(1 for _ in self._addresses(None))

    def verify(self) -> list[Damage]:
        """Hashes every entry again and returns the damaged ones, leaving them in place.

        The records of failed attempts are read too.
        """
        self._verified.clear()
        found = []
        for kind, digest in self._addresses(None):
            folder = self._folder("", kind, digest)
            try:
                self._load(folder, kind, digest)
            except DamagedError as error:
                found.append(Damage(kind, digest, folder, str(error)))
            except FileNotFoundError:  # another process has just set it aside
                continue
        for kind, digest in self._failed():
            for folder in self._attempts(kind, digest):
                try:
                    _read_failure(folder, kind, digest)
                except DamagedError as error:
                    found.append(Damage(kind, digest, folder, str(error), int(folder.name)))
                except FileNotFoundError:
                    continue
        return found

    def set_aside(self) -> list[Damage]:
        """Hashes every entry again, moves the damaged ones to the quarantine and returns them."""
        self._verified.clear()
        before = len(self._damage)
        for address in self._addresses(None):
            self.find(*address)
        for address in self._failed():
            self.failures(*address)
        return self._damage[before:]

    def quarantined(self) -> list[Damage]:
        """Returns everything in the quarantine, whoever has set it aside."""
        found = []
        for place in sorted((self.root / "quarantine").glob("*")):
            match = _QUARANTINED.fullmatch(place.name)
            if match and os.path.lexists(place / "entry"):
                reason = (place / "reason.txt").read_text(encoding="utf-8").rstrip("\n")
                found.append(Damage(match[1], match[2], place, reason))
        return found

    def clean_tmp(self) -> list[Path]:
        """Removes what dead processes have left in tmp/ and claims/; returns the paths.

        A process holds the lock of what it has there, so whatever host or container it lives in,
        what is locked stays. What has no lock was left by a program that knew none: it goes when
        nobody has touched it for a day.
        """
        removed = []
        for path in sorted((self.root / "tmp").glob("*")):
            if not _TEMPORARY.fullmatch(path.name) or path.name.endswith(_LOCK):
                continue
            lock = path.with_name(path.name + _LOCK)
            if lock.exists():
                removed += _remove_if_free(lock, path)
            elif time.time() - path.lstat().st_mtime > _UNLOCKED_S and self._discard(path):
                removed.append(path)
        for folder in ("tmp", "claims"):
            for lock in sorted((self.root / folder).glob(f"*{_LOCK}")):
                removed += _remove_if_free(lock)
        return removed

    def _folder(self, area: str, kind: str, digest: str) -> Path:
        """Returns where something of an entry lies; names that could lead astray are refused."""
        _check_kind(kind)
        if not _DIGEST.fullmatch(digest):
            raise StoreError(f"expected a digest of 64 digits 0-9a-f, got {digest!r}")
        part = f"{area}/{kind}/{digest}" if area else f"{kind}/{digest[:2]}/{digest}"
        return self.root / part

    def _addresses(self, kind: str | None) -> Iterator[tuple[str, str]]:
        """Yields what there are folders of; a folder that may not be read is an OSError."""
        if kind is not None:
            _check_kind(kind)
        for name in [kind] if kind is not None else _names(self.root):
            if not _KIND.fullmatch(name) or name in RESERVED_KINDS:
                continue
            for start in _names(self.root / name):
                if not _PREFIX.fullmatch(start):
                    continue
                for digest in _names(self.root / name / start):
                    if _DIGEST.fullmatch(digest) and digest[:2] == start:
                        yield name, digest

    def _failed(self) -> Iterator[tuple[str, str]]:
        """Yields what there are failed attempts at."""
        for kind in _names(self.root / "errors"):
            if _KIND.fullmatch(kind) and kind not in RESERVED_KINDS:
                for digest in _names(self.root / "errors" / kind):
                    if _DIGEST.fullmatch(digest):
                        yield kind, digest

    def _attempts(self, kind: str, digest: str) -> list[Path]:
        """Returns the folders of the failed attempts at an entry, oldest first."""
        attempts = self._folder("errors", kind, digest)
        numbers = sorted(int(name) for name in _names(attempts) if _NUMBER.fullmatch(name))
        return [attempts / str(n) for n in numbers]

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        """Gives a fresh path in tmp/ that is locked, and removes what is left of it at the end."""
        folder = self.root / "tmp"
        folder.mkdir(exist_ok=True)
        path = folder / f"{os.getpid()}-{secrets.token_hex(8)}-{platform.node()}"
        while (lock := try_lock(path.with_name(path.name + _LOCK))) is None:
            time.sleep(0.001)  # who cleans up has looked at it just now
        try:
            yield path
        finally:
            _remove(path, lock)

    def _discard(self, path: Path) -> bool:
        """Takes a folder away at once, then removes it; returns whether it was there."""
        if not os.path.lexists(path):
            return False
        with self._temporary() as temporary:
            try:
                path.rename(temporary)
            except FileNotFoundError:
                return False
        return True

    def _load(
        self, folder: Path, kind: str, digest: str, kept: dict[str, bytes] | None = None
    ) -> Entry:
        trusted = self._verified.get((kind, digest), {})
        files, stamp = unseal(folder, trusted, kept=kept, kind=kind, digest=digest)
        self._verified[kind, digest] = stamp
        data = kept or {}
        return Entry(kind, digest, folder, _read_record(folder, data.get(_RECORD)), files, data)

    def _move_in(self, temporary: Path, final: Path, kind: str, digest: str, stamp: Stamp) -> Entry:
        """Renames a sealed folder into place, or returns the entry that came before."""
        for parent in (final.parent.parent, final.parent):
            parent.mkdir(exist_ok=True)
            sync(parent.parent)
        for _ in range(_TRIES):
            if _rename(temporary, final):
                break
            theirs = self.find(kind, digest)
            if theirs is not None:
                return theirs
        else:
            raise StoreError(
                f"{final}: this is damaged and cannot be moved away; remove it, or ask its owner to"
            )
        self._verified[kind, digest] = stamp
        return self._load(final, kind, digest)

    def _quarantine(self, folder: Path, damage: Damage, inode: int) -> bool:
        """Moves something damaged away, unless another process has done so.

        Returns:
            False if this process may not move it. It counts as damaged all the same.
        """
        try:
            place = self._place_for(folder, damage, inode)
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
            self._damage.append(damage)
            _log.warning("%s is damaged (%s) and may not be set aside", folder, damage.reason)
            return False
        if place is not None:
            self._verified.pop((damage.kind, damage.digest), None)
            self._damage.append(replace(damage, path=place))
            about = (damage.kind, damage.digest, damage.reason, place)
            _log.warning("%s %s is damaged (%s): set aside in %s", *about)
        return True

    def _place_for(self, folder: Path, damage: Damage, inode: int) -> Path | None:
        """Returns where in the quarantine the folder lies now; None if it was gone."""
        places = self.root / "quarantine"
        places.mkdir(exist_ok=True)
        names = (f"{damage.kind}-{damage.digest}-{n}" for n in itertools.count())
        place = next(places / name for name in names if _mkdir(places / name))
        try:
            write_atomic(place / "reason.txt", _utf8(f"{damage.reason}\n"))
            if folder.lstat().st_ino != inode:  # set aside and published anew meanwhile
                raise FileNotFoundError(folder)
            folder.rename(place / "entry")
        except FileNotFoundError:
            shutil.rmtree(place)
            return None
        except OSError as error:
            if error.errno in _READ_ONLY:
                shutil.rmtree(place)
            raise
        for path in (place, places, folder.parent):
            sync(path)
        return place


def _open_root(root: Path) -> None:
    """Marks a new store, or checks the mark of an old one."""
    root.mkdir(parents=True, exist_ok=True)
    # The mark comes before anything else. So a listing from before the mark was looked for tells
    # a store that another process is making from a folder of something else.
    names = [path.name for path in root.iterdir() if not path.name.startswith(f".{_MARKER}.")]
    marker = root / _MARKER
    try:
        data = marker.read_bytes()
    except FileNotFoundError:
        if names:
            raise StoreError(
                f"{root}: expected a store or an empty folder, got {sorted(names)[:5]} and no "
                f"{_MARKER}; choose another folder"
            ) from None
        write_atomic(marker, canonical_json({"format": FORMAT}).encode())
        return
    if data.strip() != canonical_json({"format": FORMAT}).encode():
        raise StoreError(
            f"{marker}: expected a store of format {FORMAT}, got {data[:80]!r}; use the version "
            "of this program that made it, or choose another folder"
        )


def _check_kind(kind: str) -> None:
    if not _KIND.fullmatch(kind) or kind in RESERVED_KINDS:
        raise StoreError(
            f"expected a kind of a-z, 0-9 and _ other than {sorted(RESERVED_KINDS)}, got {kind!r}"
        )


def _record_json(record: Mapping[str, JSON], **added: JSON) -> bytes:
    """Returns the readable bytes of a record with what the store adds to it."""
    added["schema_version"] = SCHEMA_VERSION
    if taken := sorted(added.keys() & record.keys()):
        raise StoreError(f"expected a record without {taken}, which the store adds; remove them")
    try:
        plain = json.loads(canonical_json({**record, **added}))
    except TypeError as error:
        raise StoreError(f"record: {error}") from error
    return f"{json.dumps(plain, indent=2, ensure_ascii=False)}\n".encode()


def _read_record(folder: Path, data: bytes | None = None) -> Mapping[str, JSON]:
    try:
        record = parse_json((folder / _RECORD).read_bytes() if data is None else data)
    except ValueError as error:
        raise DamagedError(f"{folder / _RECORD}: {error}") from error
    if not isinstance(record, Mapping):
        raise DamagedError(f"{folder / _RECORD}: expected an object, got {record!r}")
    return record


def _rename(source: Path, target: Path) -> bool:
    """Renames a folder and brings that to the disk; returns False if the target is taken."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            return False
        raise
    sync(target.parent)
    return True


def _mkdir(path: Path) -> bool:
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def _remove_if_free(lock: Path, folder: Path | None = None) -> list[Path]:
    """Removes what nobody holds: a lock's file, and the folder that it is for."""
    try:
        held = try_lock(lock)
    except PermissionError:  # another user's
        return []
    if held is None:
        return []
    if not held.sure:  # somebody may live
        return []
    if folder is None:
        held.release()
        return [lock]
    _remove(folder, held)
    return [] if os.path.lexists(folder) else [folder, lock]


def _remove(folder: Path, lock: Lock) -> None:
    """Removes a folder of tmp/ with its lock; where that is interrupted, `clean_tmp` finds both."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        if os.path.lexists(folder):
            lock.leave()
        else:
            lock.release()


def _names(folder: Path) -> list[str]:
    """Returns the sorted names in a folder; none if it is not there, or is no folder."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read_failure(folder: Path, kind: str, digest: str) -> Failure:
    if not folder.is_dir():
        raise DamagedError(f"{folder}: expected a folder with the record of a failed attempt")
    try:
        text = (folder / _TRACEBACK).read_text(encoding="utf-8", errors="replace")
        record = _read_record(folder)
    except (FileNotFoundError, IsADirectoryError) as error:
        if not folder.exists():
            raise
        raise DamagedError(f"{error.filename}: expected the record of a failed attempt") from error
    return Failure(kind, digest, folder, record, text)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")
