"""A base model as it lies on the disk: found, checked and named by its digest, without loading a network.

What a run could not use is refused here, when the plan is made, each with its own reason. Nothing in
the folder is executed: classes are named by an allow-list, before any library sees the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from bench.core.digest import digest_of
from bench.core.errors import UsageError, in_one_line, shown
from bench.core.files import bounded, expanded, regular
from bench.core.json_files import read_object
from bench.core.shipped import MINIATURES, model_folder
from bench.core.weight_files import scan
from bench.model.families.family import Family
from bench.model.pipeline.configs import check_scheduler, handed_on
from bench.model.pipeline.download import HUB_ID, download
from bench.model.pipeline.index import check_index
from bench.model.pipeline.layers import in_new_words
from bench.model.pipeline.networks import read_networks
from bench.model.pipeline.sizes import Sizes, check_sizes
from bench.model.pipeline.tokenizer import check_tokenizer
from bench.model.pipeline.weights import find_weights

__all__ = [
    "BaseFiles", "inspect_base", "local_folder", "looks_local", "nothing_else",
]  # fmt: skip

_SUMS: Final = "SHA256SUMS"
_MAX_SUMS: Final = 2**20


@dataclass(frozen=True, slots=True)
class BaseFiles:
    """A base model that was found fit, from its files alone.

    Attributes:
        source: As it was asked for.
        folder: Where it lies.
        files: Those that are loaded, and no others that lie beside.
        digest: sha256 over these files; the loaded :class:`~bench.model.families.family.Family` has the same.
        family: What handles it.
        classes: The class of each part.
        variants: Of each network, the precision in its file names (``fp16``); ``None`` for plain ones.
        prediction_type: What the UNet predicts: ``epsilon`` or ``v_prediction``.
        sizes: Of its networks.
        handed_on: Of files of settings, the keys that were checked: the libraries are given no others.
    """

    source: str
    folder: Path
    files: tuple[Path, ...]
    digest: str
    family: type[Family]
    classes: Mapping[str, str]
    variants: Mapping[str, str | None]
    prediction_type: str
    sizes: Sizes
    handed_on: Mapping[Path, Mapping[str, Any]]


def looks_local(source: str) -> bool:
    """Whether a base is a path by its first letter, and never a hub id."""
    return source.startswith((".", "/", "~"))


def local_folder(source: str) -> Path | None:
    """The folder that a base names, if it is there; ``miniature`` and its like are shipped.

    Raises:
        UsageError: there can be no such folder: an unknown user, a name that is too long.
    """
    if source in MINIATURES:
        folder = model_folder(source)
        if not folder.is_dir():
            raise UsageError(
                f"base {shown(source)}: is not trained; `tvc-bench mini train --base {source}` makes it"
            )
        return folder
    try:
        folder = expanded(source)
        return folder if folder.is_dir() else None
    except (OSError, UsageError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no user has that home folder"
        raise UsageError(f"base {shown(source)}: expected a folder: {reason}") from error


def inspect_base(source: str, *, commit: str | None = None) -> BaseFiles:
    """Finds a base model and checks its files.

    Args:
        source: ``miniature``, a local diffusers folder, or a hub id (which needs ``commit``; what is
            not there yet is downloaded).
        commit: Of the hub repository.

    Raises:
        UsageError: in one line, why no run can use it.
    """
    folder = local_folder(source) or _downloaded(source, commit)
    with _told(source):
        return _inspected(source, folder)


def _downloaded(source: str, commit: str | None) -> Path:
    named = f"base {shown(source)}"
    if looks_local(source):
        raise UsageError(f"{named}: no such folder")
    if commit is None:
        raise UsageError(
            f"{named}: no such folder; a hub id needs a revision (a commit), e.g. "
            f"base: CompVis/stable-diffusion-v1-4, revision: <40 hex digits>"
        )
    if not HUB_ID.fullmatch(source):
        raise UsageError(f"{named}: no such folder, and no hub id (owner/name)")
    try:
        return download(source, commit)
    except UsageError as error:
        raise UsageError(f"{named}: {error}") from error
    except (
        Exception
    ) as error:  # of the hub, of HTTP, of sockets: its kinds changed with each version
        raise UsageError(f"{named}: could not be downloaded: {in_one_line(error)}") from error


@contextmanager
def _told(source: str) -> Iterator[None]:
    """Says of which base an error is."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"base {shown(source)}: {error}") from error
    except OSError as error:
        place, reason = error.filename or "its folder", error.strerror or type(error).__name__
        raise UsageError(f"base {shown(source)}: {place}: {reason}") from error


def _inspected(source: str, folder: Path) -> BaseFiles:
    index_file = folder / "model_index.json"
    if not index_file.exists() and not index_file.is_symlink():
        raise UsageError(f"{folder} has no model_index.json; expected a diffusers pipeline folder")
    if (folder / _SUMS).is_file():
        _check_sums(folder)
    index = read_object(index_file)
    family, classes = check_index(index, index_file)
    if missing := [part for part in classes if not (folder / part).is_dir()]:
        raise UsageError(
            f"{folder} lacks {', '.join(missing)}; expected a pipeline of {family.about}"
        )
    scheduler = folder / "scheduler" / "scheduler_config.json"
    schedule = check_scheduler(scheduler)
    weights = {part: find_weights(folder / part, stem) for part, stem in family.stems.items()}
    networks = read_networks(folder, family.encoders)
    # diffusers gives new names to what lies in one file alone.
    tensors = {
        part: in_new_words(found.tensors) if len(found.files) == 1 else found.tensors
        for part, found in weights.items()
    }
    sizes = check_sizes(networks, tensors)
    tokenizers = {part: check_tokenizer(folder / part, sizes.words) for part in family.tokenizers}
    first, *others = family.tokenizers
    for part in others:
        if tokenizers[part].words != tokenizers[first].words:
            raise UsageError(
                f"{folder / part}: expected the tokens of {first}, got others; text encoders that "
                "read different tokens are not supported"
            )
    files = [
        scheduler,
        *(file for part in family.tokenizers for file in tokenizers[part].files),
        *(folder / part / "config.json" for part in family.stems),
        *(file for found in weights.values() for file in found.files),
    ]
    sums = {path.relative_to(folder).as_posix(): scan(regular(path)).sha256 for path in files}
    if read_object(scheduler).get("_class_name", classes["scheduler"]) != classes["scheduler"]:
        # What its file leaves out, the class that the index names fills in.
        sums["scheduler"] = classes["scheduler"]
    return BaseFiles(
        source=source,
        folder=folder,
        files=tuple(files),
        digest=digest_of(sums),
        family=family,
        classes=classes,
        variants={part: found.variant for part, found in weights.items()},
        prediction_type=schedule.prediction_type,
        sizes=sizes,
        handed_on={
            scheduler: handed_on(schedule),
            **networks.handed_on,
            **{path: data for one in tokenizers.values() for path, data in one.handed_on.items()},
        },
    )


@contextmanager
def nothing_else(files: BaseFiles) -> Iterator[Path]:
    """A folder of a base's files, for as long as it is loaded: libraries can read no others.

    Settings are what inspection checked of them, the rest are links. A key that no class of a base has could only trip
    a library up.

    Raises:
        OSError: it cannot be made.
    """
    with TemporaryDirectory(prefix="tvc-bench-base-") as made:
        for path in files.files:
            link = Path(made) / path.relative_to(files.folder)
            link.parent.mkdir(exist_ok=True)
            if (checked := files.handed_on.get(path)) is None:
                link.symlink_to(path.resolve())
            else:
                link.write_text(json.dumps(checked))
        yield Path(made)


def _check_sums(folder: Path) -> None:
    """Refuses a folder whose ``SHA256SUMS`` do not match."""
    sums = folder / _SUMS
    try:
        lines = bounded(sums, _MAX_SUMS).decode().splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{sums}: expected UTF-8, got other bytes") from error
    for line in lines:
        digest, _, name = line.partition("  ")
        if (path := _below(folder, name)) is None:
            raise UsageError(f"{sums} names {shown(name)}, which is not a file of that folder")
        if scan(path).sha256 != digest:
            raise UsageError(
                f"{path} is damaged: its SHA-256 is not the one in {_SUMS}; restore the file"
            )


def _below(folder: Path, name: str) -> Path | None:
    """The file of that name, if it lies in the folder.

    A link inside the folder may lead out of it: the caches of the hub are made of such links.
    """
    if not name.isprintable() or ".." in Path(name).parts or Path(name).is_absolute():
        return None
    try:
        return path if (path := folder / name).is_file() else None
    except OSError:
        return None
