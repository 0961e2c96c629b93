"""Commands on checkpoints: convert makes safetensors of what people hold, compare says what a file changes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import Parameter

from bench.cli.output import out, print_json
from bench.cli.words import Json
from bench.core.errors import UsageError
from bench.core.json_files import read_object

if TYPE_CHECKING:
    from methods.checkpoint import Checkpoint
    from methods.released.changes import Change

__all__ = ["compare", "convert"]

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
    compared = None if folder is None else _Compared.of(target, folder)
    if json_:
        print_json(asdict(told) | ({} if compared is None else compared.as_json()))
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
    if compared is not None:
        compared.show()
    return 0


def compare(what: Annotated[str, Parameter(help="A file, a folder, or owner/name@commit[/folder] of the hub.")],
            *, base: Base = None, revision: Revision = None, json_: Json = False) -> int:  # fmt: skip
    """Says what an edited model changes of its base: which parameters, of which part, by how much."""
    compared = _Compared.of(what, _folder(base or "miniature", revision))
    if json_:
        print_json(compared.as_json())
    else:
        compared.show()
    return 0


@dataclass(frozen=True)
class _Compared:
    """A checkpoint beside its base.

    Attributes:
        what: The checkpoint, as it was asked for.
        sha256: Of its content.
        holds: The number of parameters that it holds of each network, in words.
        changes: A row per part that it changes.
        warnings: What the plan would say.
    """

    what: str
    sha256: str
    holds: str
    changes: list[Change]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, what: str, folder: Path) -> _Compared:
        """Compares them.

        Raises:
            UsageError: one is not what was expected, or they do not suit each other.
        """
        from methods.released.base import Base as Known

        known = Known.of_folder(folder)
        if known is None:
            raise UsageError(f"expected a base in safetensors, got {folder}; convert it")
        spec = _checkpoint(what)
        holds, changes = spec.compared(known)
        return cls(what, spec.sha256, holds, changes, spec.remarks(folder))

    def as_json(self) -> dict[str, Any]:
        """For machines; JSON knows no infinity."""
        rows = [asdict(row) for row in self.changes]
        for row in rows:
            row["per_cent"] = row["per_cent"] if math.isfinite(row["per_cent"]) else None
        return {"sha256": self.sha256, "holds": self.holds, "changes": rows}

    def show(self) -> None:
        """Prints a line per part."""
        for line in self.warnings:
            out.print(f"warning: {line}", soft_wrap=True)
        out.print(f"{self.what} holds {self.holds}, and changes:", soft_wrap=True)
        for row in self.changes:
            out.print(f"  {row.part:32} {row.per_cent:8.3g} %  ({row.changed} of {row.total})")
        if not self.changes:
            acts = "forward pass" in self.holds
            out.print("  no parameter" if acts else "  nothing: it is the base itself")


def _checkpoint(what: str) -> Checkpoint:
    from bench.interfaces import registry
    from methods.checkpoint import Checkpoint
    from methods.released.hub import place_of

    place = place_of(what) or {"path": what}
    return cast("Checkpoint", registry.build("method", {Checkpoint.name: place}))


def _folder(base: str, revision: str | None) -> Path:
    from bench.model.pipeline.inspect import inspect_base

    return inspect_base(base, commit=revision).folder


def _layers(folder: Path) -> int:
    """Layers per block of a base's UNet."""
    said = read_object(folder / "unet" / "config.json").get("layers_per_block", 2)
    if not isinstance(said, int):
        raise UsageError(
            f"expected a whole number of layers_per_block in {folder / 'unet'}, got {said!r}; give "
            "another base"
        )
    return said
