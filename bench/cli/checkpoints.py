"""Commands on checkpoints: convert makes safetensors of what people hold, compare says what a file changes."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast

from cyclopts import Parameter

from bench.cli.output import out, print_json
from bench.cli.words import Json
from bench.core.errors import UsageError
from bench.core.json_files import read_object

if TYPE_CHECKING:
    from methods.checkpoint import Checkpoint

__all__ = ["compare", "convert"]

_OF_HUB: Final = re.compile(
    r"(?P<hub>[^@/]+/[^@/]+)@(?P<revision>[0-9a-f]{40})(/(?P<subfolder>.*))?"
)

Base = Annotated[
    str | None, Parameter(help="The base: miniature, a folder, or a hub id with --revision.")
]
Revision = Annotated[str | None, Parameter(help="The commit of a base from the hub.")]


def convert(source: Annotated[str, Parameter(help="A .pt, .pth, .bin or .ckpt of tensors, safetensors, or a folder.")],
            target: Annotated[str, Parameter(help="The file to write, *.safetensors; it may not be there.")],
            *, base: Base = None, revision: Revision = None, json_: Json = False) -> int:  # fmt: skip
    """Makes one safetensors file of a checkpoint, and says what it did; no code of the file runs."""
    from methods.released.convert.convert import convert as converted

    folder = None if base is None else _folder(base, revision)
    told = converted(source, target, layers=None if folder is None else _layers(folder))
    if json_:
        print_json(asdict(told))
        return 0
    said = {
        "read": [told.source],
        "flattened": told.flattened,
        "stripped": told.stripped,
        "renamed": told.renamed,
        "left out": told.left_out,
        "wrote": [f"{told.target}: {told.tensors} tensors, {told.size / 2**20:.1f} MiB"],
        "sha256": [told.sha256],
    }
    for word, phrases in said.items():
        if phrases:
            out.print(f"{word:10} {'; '.join(phrases)}", soft_wrap=True)
    return 0


def _checkpoint(what: str) -> Checkpoint:
    from bench.interfaces import registry
    from methods.checkpoint import Checkpoint

    place = found.groupdict("") if (found := _OF_HUB.fullmatch(what)) else {"path": what}
    return cast("Checkpoint", registry.build("method", {Checkpoint.name: place}))


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _folder(base: str, revision: str | None) -> Path:
    from bench.model.pipeline.inspect import inspect_base

    return inspect_base(base, revision=revision).folder


def _layers(folder: Path) -> int:
    """Layers per block of a base's UNet."""
    said = read_object(folder / "unet" / "config.json").get("layers_per_block", 2)
    if not isinstance(said, int):
        raise UsageError(
            f"expected a whole number of layers_per_block in {folder / 'unet'}, got {said!r}; give "
            "another base"
        )
    return said


def compare(what: Annotated[str, Parameter(help="A file, a folder, or owner/name@commit[/folder] of the hub.")],
            *, base: Base = None, revision: Revision = None, json_: Json = False) -> int:  # fmt: skip
    """Says what an edited model changes of its base: which parameters, of which part, by how much."""
    from methods.released.base import Base as Compared

    folder = _folder(base or "miniature", revision)
    spec = _checkpoint(what)
    spec.check_base(folder)
    known = Compared.of_folder(folder)
    if known is None:
        raise UsageError(f"expected a base in safetensors, got {folder}; convert it")
    holds, rows = spec.compared(known)
    if json_:
        shares = [{**asdict(row), "per_cent": _finite(row.per_cent)} for row in rows]
        print_json({"what": what, "sha256": spec.sha256, "holds": holds, "changes": shares})
        return 0
    for line in spec.remarks(folder):
        out.print(f"warning: {line}", soft_wrap=True)
    out.print(f"{what}: {holds}", soft_wrap=True)
    for row in rows:
        out.print(f"{row.part:32} {row.per_cent:8.3g} %  {row.changed} of {row.total}")
    return 0
