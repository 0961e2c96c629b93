"""The files of an edited model that lie in a hub repository: named by a commit, and no others are downloaded.

Of a pipeline, that is its ``unet`` and its ``text_encoder``; of anything else, the safetensors at the top. What is
in the hub's cache already needs no network.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final

from bench.core.errors import UsageError, in_one_line, shown
from bench.model.families.sdxl import StableDiffusionXL
from bench.model.pipeline.download import HUB_ID, fetch
from bench.model.pipeline.weights import next_names
from methods.released.files import PARTS, VARIANTS, is_there

__all__ = ["check_place", "fetched", "is_cached", "place_of"]

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_FOLDER: Final = re.compile(r"[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95}){0,7}", re.ASCII)
_PLACE: Final = re.compile(
    r"(?P<hub>[^@/\s]+/[^@/\s]+)@(?P<revision>[0-9a-f]{40})(/(?P<subfolder>.*))?"
)
_SETTINGS: Final = ("adapter_config.json", "model_index.json")


def place_of(text: str) -> dict[str, str] | None:
    """``owner/name@commit[/folder]`` as the fields of a checkpoint; ``None`` for any other text."""
    found = _PLACE.fullmatch(text)
    return None if found is None else {k: v for k, v in found.groupdict().items() if v}


def check_place(hub: object, commit: object, subfolder: object) -> None:
    """Refuses what is no place in the hub: nothing of it may become another path.

    Raises:
        UsageError: an id, a commit or a folder is not written as one.
    """
    if not isinstance(hub, str) or not HUB_ID.fullmatch(hub) or ".." in hub:
        raise UsageError(f"expected owner/name as hub, got {shown(hub)}; copy it from its page")
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise UsageError(
            f"expected the commit of {hub} as revision, 40 hex digits, got {shown(commit)}; its "
            "page lists them under `Files`, `History`"
        )
    if subfolder and not (isinstance(subfolder, str) and _FOLDER.fullmatch(subfolder)):
        raise UsageError(
            f"expected a folder of {hub} as subfolder, got {shown(subfolder)}; write it as a/b"
        )


def is_cached(hub: str, commit: str, subfolder: str) -> bool:
    """Whether the hub's cache has the folder; nothing is asked of the network."""
    from huggingface_hub import constants

    name = f"models--{hub.replace('/', '--')}"
    return Path(constants.HF_HUB_CACHE, name, "snapshots", commit, subfolder).is_dir()


@cache
def fetched(hub: str, commit: str, subfolder: str) -> str:
    """The folder in the hub's cache.

    Raises:
        UsageError: it is no place in the hub, or could not be downloaded.
    """
    check_place(hub, commit, subfolder)
    try:
        folder = _download(hub, commit, f"{subfolder}/" if subfolder else "")
    except UsageError as error:
        raise UsageError(f"{hub}: {error}") from error
    except (
        Exception
    ) as error:  # of the hub, of HTTP, of sockets: its kinds changed with each version
        raise UsageError(f"{hub}: could not be downloaded: {in_one_line(error)}") from error
    return str(folder)


def _download(hub: str, commit: str, below: str) -> Path:
    """The folder, with what is read of it; asked for in rounds, as what comes next depends on what is there."""
    stems = {part: StableDiffusionXL.stems[part] for part in PARTS}
    # A network that has settings and no weights in safetensors is one that cannot be read.
    names = {f"{below}{name}" for name in _SETTINGS}
    for part, stem in stems.items():
        names |= {f"{below}{part}/{name}" for name in ("config.json", f"{stem}.safetensors")}
    asked: set[str] = set()
    while names:
        root = fetch(hub, commit, names)
        asked |= names
        here = {part: stem for part, stem in stems.items() if (root / below / part).is_dir()}
        names = {
            f"{below}{part}/{name}"
            for part, stem in here.items()
            for name in next_names(root / below / part, stem, _inside(asked, f"{below}{part}/"))
        }
    folder = root / below
    if any(is_there(str(folder / part)) for part in PARTS):
        return folder
    # The hub's patterns know no folders: `*` stands for `a/b` too.
    deeper = f"{below}*/*"
    variants = {f"*{variant}*" for variant in VARIANTS}
    for ignored in ({deeper} | variants, {deeper}):
        root = fetch(hub, commit, {f"{below}*.safetensors", f"{below}*.index.json"}, ignored)
        if list((root / below).glob("*.safetensors")):
            return root / below
    raise UsageError(
        f"expected safetensors at the top of {below or 'the repository'} or of its unet or text_encoder, got "
        f"none; if it holds a pickle, fetch it (`hf download {hub} --revision {commit}`) and run `tvc-bench convert`"
    )


def _inside(names: set[str], folder: str) -> set[str]:
    return {name.removeprefix(folder) for name in names if name.startswith(folder)}
