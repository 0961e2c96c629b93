"""The files of an edited model: which are read, what identifies them, what their headers say.

Only regular files are opened, only safetensors are read, nothing is unpickled. Headers are read by
themselves; a value is read when it is asked for, and checked to be finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from bench.core.digest import digest_of
from bench.core.errors import UsageError, shown
from bench.core.files import expanded, regular
from bench.core.headers import TensorInfo, read_header, unreadable
from bench.core.json_files import object_in, read_object
from bench.core.spec import content

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "PARTS",
    "SAID",
    "VARIANTS",
    "Network",
    "content_of",
    "files_of",
    "is_there",
    "networks",
    "weights_in",
]

PARTS = ("unet", "text_encoder", "text_encoder_2")
SAID = "unet or text_encoder"
"""How errors speak of them: most bases have no second text encoder."""
_PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
_CONVERT = (
    "it can run code when it is read: run `tvc-bench convert`, which lets none run, or convert it where that "
    "is no harm, with save_pretrained(..., safe_serialization=True); and give the .safetensors"
)
VARIANTS = (".fp16.", ".bf16.", ".non_ema.")
_LARGEST_SETTINGS = 2**20


@dataclass(frozen=True)
class Network:
    """One network's files, as far as they are known before a value is read.

    Attributes:
        part: ``unet``, ``text_encoder``, ``text_encoder_2``; empty where the names must tell.
        origin: What the user gave, for errors.
        tensors: By name.
        metadata: Of the headers.
        about: Settings of an adapter, as PEFT writes them.
    """

    part: str
    origin: str
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    about: Mapping[str, Any]
    _paths: Mapping[str, Path] = field(repr=False)
    _opened: dict[Path, Any] = field(default_factory=dict, repr=False)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the tensors, by name."""
        return {name: info.shape for name, info in self.tensors.items()}

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that hold the tensors."""
        return tuple(dict.fromkeys(self._paths.values()))

    @property
    def size(self) -> int:
        """Bytes of all values."""
        return sum(info.size for info in self.tensors.values())

    def value(self, name: str) -> Tensor:
        """A tensor, in the file's precision.

        Raises:
            UsageError: it has values that are not finite, or the file is no longer what it was.
        """
        path = self._paths[name]
        try:
            if path not in self._opened:
                self._opened[path] = safe_open(path, framework="pt")
            value: Tensor = self._opened[path].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise unreadable(path, f"{error}; fetch it again") from error
        if tuple(value.shape) != self.tensors[name].shape or not value.is_floating_point():
            raise UsageError(f"expected {path} as it was, got another: it has changed; start again")
        if not bool(value.isfinite().all()):
            raise UsageError(
                f"expected finite numbers, got others in {name} of {path}; the file is damaged, or "
                "its training diverged"
            )
        return value


def is_there(path: str) -> bool:
    """Whether anything lies at a path, if only a link to nothing."""
    where = expanded(path)
    try:
        return where.is_symlink() or where.exists()
    except (OSError, ValueError):
        return False


# -- which files ---------------------------------------------------------------------------------


def files_of(path: str) -> dict[str, list[Path]]:
    """The files to read, by component; under "" where their names must tell.

    Raises:
        UsageError: there are none, or one of the networks is pickled or lacks its weights.
    """
    where = expanded(path)
    try:
        return _files(where, path)
    except (OSError, ValueError) as error:  # ValueError: a null byte; UsageErrors are ValueErrors
        if isinstance(error, UsageError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"expected a file or a folder, got {path}: {reason}") from error


def _files(where: Path, path: str) -> dict[str, list[Path]]:
    if not where.is_dir():
        return {"": [_file(where, path)]}
    parts = {part: weights_in(where / part) for part in PARTS if _has(where, part)}
    found = parts or {"": weights_in(where)}
    # A network that cannot be read may be the one that was edited: the other alone is half an edit.
    unread = [where / part for part, files in found.items() if not files]
    pickled = [p for folder in unread for p in sorted(folder.rglob("*")) if p.suffix in _PICKLED]
    pickled += [where / f"{part}{end}" for part in PARTS for end in sorted(_PICKLED)]
    readable = next((part for part, files in found.items() if files), "")
    instead = f"; or give {where / readable}, if that alone was edited" if readable else ""
    if there := [p.relative_to(where) for p in pickled if p.is_file()]:
        raise UsageError(
            f"expected safetensors, got the pickle {there[0]} in {path}; {_CONVERT}{instead}"
        )
    if unread:
        wanted = f"{path}, its unet or its text_encoder" if unread == [where] else str(unread[0])
        hint = instead or "; give the folder of a diffusers pipeline or of one of these"
        raise UsageError(f"expected safetensors in {wanted}, got none{hint}")
    for files in found.values():
        for file in files:
            regular(_named(file))
        _all_shards(files[0].parent, files)
    return found


def _all_shards(folder: Path, files: Sequence[Path]) -> None:
    """Refuses a network of several files, some of which are not there: the rest may pass for a part of it."""
    there = {file.name for file in files}
    for index in sorted(folder.glob("*.safetensors.index.json")):
        shards = read_object(index, _LARGEST_SETTINGS).get("weight_map")
        wanted = set(map(str, shards.values())) if isinstance(shards, dict) else set()
        if there & wanted and (lost := sorted(wanted - there)):
            raise UsageError(
                f"expected every file that {index} names, got none called {shown(lost[0])}; fetch it"
            )


def _file(where: Path, path: str) -> Path:
    if not is_there(path):
        hub = path.count("/") == 1 and path[0] not in "~./"
        fetch = (
            f"give `hub: {path}` and its `revision`, or fetch it first (`hf download {path} "
            "--local-dir DIR`)"
            if hub
            else "fetch it first"
        )
        raise UsageError(
            f"expected a file or a folder, got {path}, which is not there; nothing is downloaded for "
            f"a path: {fetch}"
        )
    if where.suffix in _PICKLED and where.is_file():
        raise UsageError(f"expected safetensors, got the pickle {path}; {_CONVERT}")
    regular(_named(where))
    if where.suffix != ".safetensors":
        raise UsageError(f"expected a .safetensors file or a folder, got {path}; convert it")
    return where


def _has(where: Path, part: str) -> bool:
    """Whether a folder has a network's folder, which may not be a link to nothing."""
    folder = where / part
    if folder.is_symlink() and not folder.exists():
        raise UsageError(f"expected a folder, got {folder}, a link to nothing; restore it")
    return folder.is_dir()


def _named(path: Path) -> Path:
    """The path, if its name can be written down."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"expected names in UTF-8, got {str(path)!a}; rename the file") from error
    return path


def weights_in(folder: Path) -> list[Path]:
    """The safetensors of a folder; a copy in another precision only where there is no other."""
    files = sorted(folder.glob("*.safetensors"))
    return [f for f in files if not any(v in f.name for v in VARIANTS)] or files


def content_of(files: Mapping[str, Sequence[Path]], digest: Callable[[Path], str] = content) -> str:
    """sha256 of a file, or of what the files of a folder are called and hold.

    Args:
        files: Of :func:`files_of`.
        digest: Of one file; the default remembers those that have not changed since.
    """
    read = [(part, p) for part, paths in files.items() for p in (*paths, *_settings(paths[0]))]
    for _, path in read:
        regular(path)
    if len(read) == 1 and not read[0][0]:
        return digest(read[0][1])
    return digest_of({f"{part}/{p.name}": digest(p) for part, p in read})


# -- what they say -------------------------------------------------------------------------------


def networks(files: Mapping[str, Sequence[Path]], origin: str) -> list[Network]:
    """The contents of the files by network, from their headers and settings.

    Raises:
        UsageError: one cannot be read, a name is there twice, or a tensor is of no real numbers.
    """
    return [_network(part, paths, origin) for part, paths in files.items()]


def _network(part: str, paths: Sequence[Path], origin: str) -> Network:
    tensors: dict[str, TensorInfo] = {}
    places: dict[str, Path] = {}
    metadata: dict[str, str] = {}
    about: dict[str, Any] = {}
    for path in paths:
        header = read_header(path)
        try:
            with safe_open(path, framework="pt"):  # which has checks of its own
                pass
        except (SafetensorError, OSError) as error:
            raise unreadable(path, f"{error}; fetch it again") from error
        if twice := sorted(header.tensors.keys() & tensors.keys()):
            raise UsageError(
                f"expected each name once, got {twice[0]} again in {path}; remove one of the files"
            )
        tensors |= header.tensors
        places |= dict.fromkeys(header.tensors, path)
        metadata |= header.metadata
        if (text := header.metadata.get("lora_adapter_metadata")) is not None:
            with _about_the_lora():
                about |= object_in(text.encode(errors="replace"), path)
    for path in _settings(paths[0]):
        with _about_the_lora():
            about |= read_object(path, _LARGEST_SETTINGS)
    return Network(part, origin, tensors, metadata, about, places)


def _settings(weights: Path) -> list[Path]:
    """PEFT's own settings, which hold the strength of its adapter."""
    beside = weights.with_name("adapter_config.json")
    there = weights.name == "adapter_model.safetensors" and is_there(str(beside))
    return [regular(beside)] if there else []


@contextmanager
def _about_the_lora() -> Iterator[None]:
    """Says of what an unreadable JSON text is."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"the settings about the LoRA in {error}; correct them") from error
