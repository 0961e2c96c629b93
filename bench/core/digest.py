"""Digests of values, files and folders, and how bytes reach the disk for good.

A value is the sha256 of its canonical JSON: sorted keys, no whitespace, UTF-8 and only plain JSON
types. So two processes (or two years) that mean the same thing write the same bytes. `1`,
`1.0` and `true` are three different values; a tuple and a list of the same items are one.

A folder is sealed by its manifest, which names every file with its size and sha256.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from bench.core.errors import shown
from bench.core.files import only_regular

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
Stamp: TypeAlias = Mapping[str, tuple[int, int, int, int]]

MANIFEST = "manifest.json"
# One for all: `json.dumps` makes one at each call.
_written = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
_SMALL = 2**20
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


class StoreError(ValueError):
    """A store was asked for something it cannot do, or holds something it does not expect."""


class DamagedError(StoreError):
    """A folder is not what its manifest says; the message is the reason."""


@dataclass(frozen=True, slots=True)
class FileInfo:
    """The line of a manifest on one file."""

    sha256: str
    size: int


def canonical_json(value: object) -> str:
    """Writes a value as the one JSON text that stands for it.

    Args:
        value: None, a bool, int, finite float or str, or a list, tuple or string-keyed mapping of
            these. Subclasses of the scalars (`numpy.float64`, enums) are refused: convert them.

    Returns:
        JSON with sorted keys and no whitespace; characters beyond ASCII are kept as they are.

    Raises:
        TypeError: naming the path (`$.attack.budgets[2]`) of what is not JSON: another type, a key
            that is not a string, NaN, an infinity, or a lone surrogate.
    """
    return _written(_plain(value, "$"))


def digest_of(value: object) -> str:
    """Returns the sha256 of a value's canonical JSON: 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def digest_of_parts(parts: Mapping[str, str]) -> str:
    """Returns what `digest_of` gives for a mapping, of whose values the canonical JSON is known already.

    Args:
        parts: the keys and the canonical JSON of their values: what many mappings share is written once.
    """
    pairs = (f"{_written(key)}:{parts[key]}" for key in sorted(parts))
    return hashlib.sha256(f"{{{','.join(pairs)}}}".encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file's bytes: 64 hexadecimal digits.

    Raises:
        UsageError: if it is a folder, a FIFO, a device or a socket.
        OSError: if it is not there or cannot be read.
    """
    with only_regular(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(data: bytes) -> JSON:
    """Reads JSON as strictly as `canonical_json` writes it.

    Raises:
        ValueError: if the bytes are not JSON in UTF-8 or nest too deeply to be read. So it is if they
            name a key twice, or hold NaN, an infinity or half a surrogate pair.
    """
    try:
        value: JSON = _read(data.decode())
        if b"\\u" in data:  # an escape may be half a pair; nothing else can be
            _plain(value, "$")
    except RecursionError as error:
        raise ValueError("expected JSON, got a text that nests too deeply") from error
    except TypeError as error:
        raise ValueError(str(error)) from error
    return value


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file so that a reader, or a crash, meets the old content or the new, never a part.

    Args:
        path: the file to create or to replace; its folder must exist.
        data: the whole content.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(8)}.tmp")
    try:
        write_synced(temporary, data)
        temporary.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
    sync(path.parent)


def write_synced(path: Path, data: bytes) -> None:
    """Creates a new file and returns once its content is on the disk."""
    try:
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say which file met it
        raise


def sync(path: Path) -> None:
    """Returns once a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal(folder: Path, **about: str) -> Stamp:
    """Writes the manifest of a folder and returns once everything in it is on the disk.

    Whatever wrote them, all files get the mode that the umask gives a new file, told by the folder's
    own. A library may make its files readable for their owner alone.

    Args:
        folder: what to seal; from now on nothing in it may change.
        **about: what the manifest says besides the files.

    Returns:
        The stamp with which `unseal` recognises the files without hashing them.

    Raises:
        StoreError: if something in it is a link or a device, or is not plainly named.
    """
    files = {}
    mode = stat.S_IMODE(folder.lstat().st_mode)
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(mode)
    for name, status in _walk(folder).items():
        if not _FILE_NAME.fullmatch(name) or name == MANIFEST:
            raise StoreError(
                f"expected file names of letters, digits and ._- (not first) besides "
                f"{MANIFEST}, got {name!r}"
            )
        (folder / name).chmod(mode & 0o666)
        sync(folder / name)
        files[name] = asdict(FileInfo(file_sha256(folder / name), status.st_size))
    write_synced(folder / MANIFEST, canonical_json({**about, "files": files}).encode())
    for path in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync(path)
    return _stamp(folder)


def unseal(
    folder: Path, trusted: Stamp, *, kept: dict[str, bytes] | None = None, **about: str
) -> tuple[dict[str, FileInfo], Stamp]:
    """Compares a sealed folder with its manifest.

    Args:
        folder: what to check.
        trusted: an earlier stamp; if inode, size and times of every file are still the same, the
            files are not hashed again. Give an empty one to hash in any case.
        kept: takes the bytes of the small files that are hashed, by name, so that who uses them reads
            no file twice; `None`: nobody wants them.
        **about: what the manifest must say besides the files.

    Returns:
        The files by POSIX name, without the manifest, and the stamp.

    Raises:
        DamagedError: with the first difference.
        FileNotFoundError: if the folder vanishes meanwhile.
    """
    stamp = _stamp(folder)
    if MANIFEST not in stamp:
        raise DamagedError(f"missing files: {[MANIFEST]}")
    files = _manifest_files(_bytes(f"{folder}/{MANIFEST}", stamp[MANIFEST][1]), about)
    if missing := sorted(files.keys() - stamp.keys()):
        raise DamagedError(f"missing files: {missing}")
    if extra := sorted(stamp.keys() - files.keys() - {MANIFEST}):
        raise DamagedError(f"files that the manifest does not name: {extra}")
    for name, info in files.items():
        if (size := stamp[name][1]) != info.size:
            raise DamagedError(f"{name}: expected {info.size} bytes, got {size}")
    if stamp != trusted:
        for name, info in files.items():
            sha256, data = _seen(f"{folder}/{name}", info.size)
            if sha256 != info.sha256:
                raise DamagedError(f"{name}: expected sha256 {info.sha256}, got {sha256}")
            if kept is not None and data is not None:
                kept[name] = data
    return files, stamp


def _seen(path: str, size: int) -> tuple[str, bytes | None]:
    """The sha256 of a file that was just seen to be a regular one of this size, and the bytes of a small one."""
    if size <= _SMALL:
        data = _bytes(path, size)
        return hashlib.sha256(data).hexdigest(), data
    with io.FileIO(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), None


def _bytes(path: str, size: int) -> bytes:
    """The bytes of a file that was just seen to have so many, by one read: a store has tens of thousands of these."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        data = os.read(descriptor, size + 1)
        while len(data) <= size and (more := os.read(descriptor, size + 1)):
            data += more  # interrupted, or on a file system that gives less at once
        return data
    finally:
        os.close(descriptor)


def _manifest_files(data: bytes, about: Mapping[str, str]) -> dict[str, FileInfo]:
    try:
        match parse_json(data):
            case {"files": dict(files), **rest} if rest == about:
                return {name: FileInfo(**info) for name, info in files.items()}
    except (ValueError, TypeError) as error:
        raise DamagedError(f"{MANIFEST}: {error}") from error
    raise DamagedError(f"{MANIFEST}: expected the files of {dict(about)}, got {data[:200]!r}")


def _stamp(folder: Path) -> Stamp:
    return {
        name: (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for name, status in _walk(folder).items()
    }


def _walk(folder: Path) -> dict[str, os.stat_result]:
    """Returns the status of every file below a folder by POSIX name; no links, no devices."""
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise DamagedError("expected a folder, got a file or a link")
    return dict(_walk_below(folder, ""))


def _walk_below(folder: Path, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(folder) as there:
        paths = sorted(there, key=lambda path: path.name)
    for path in paths:
        # Not the stat of the listing: on some systems it lacks the inode.
        status = os.lstat(path.path)
        if stat.S_ISDIR(status.st_mode):
            yield from _walk_below(Path(path.path), f"{prefix}{path.name}/")
        elif stat.S_ISREG(status.st_mode):
            yield prefix + path.name, status
        else:
            raise DamagedError(f"{prefix}{path.name}: expected a file, got a link or a device")


def _plain(value: object, path: str) -> JSON:
    """Copies a value into dicts, lists and scalars; raises the TypeError of `canonical_json`."""
    if value is None or type(value) is bool or type(value) is int:
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise TypeError(f"{path}: expected a finite number, got {value}; use None or a status")
        return value
    if type(value) is str:
        return _text(value, path)
    if type(value) is list or type(value) is tuple:
        return [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if type(key) is not str:
                raise TypeError(f"{path}: expected keys of type str, got {key!r}")
        return {_text(key, path): _plain(item, f"{path}.{key}") for key, item in value.items()}
    raise TypeError(
        f"{path}: expected None, bool, int, float, str, list, tuple or a mapping, got "
        f"{type(value).__module__}.{type(value).__qualname__}; convert it first"
    )


def _text(text: str, path: str) -> str:
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        place = path if len(path) <= 200 else f"{path[:197]}..."
        raise TypeError(f"{place}: expected text, got a lone surrogate in {shown(text)}") from error
    return text


def _unique(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("expected each key once in a JSON object, got one twice")
    return result


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"expected finite numbers in JSON, got {text}")
    return number


# One for all, as `_written`.
_read = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite
).decode
