"""Commands on the miniatures: train, check, bases (tries every plug-in on each) and carriers."""

from __future__ import annotations

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Final, Literal

from cyclopts import Parameter

from bench.cli.output import out, print_json
from bench.cli.request import device_of
from bench.cli.words import Device, Json
from bench.core.files import regular

__all__ = ["bases", "carriers", "check", "train"]

Base = Annotated[
    Literal["miniature", "miniature-v", "miniature-xl"],
    Parameter(help="Which miniature: Stable Diffusion 1.x, 2.x or XL in small."),
]

_MEASURED: Final = ("star", "zorbo", "watercolour", "heart", "brakk", "sketch")
"""The concepts of mini-quick and mini-full, and those of mini-dev."""


def train(*, work: Path = Path(".train"), out_: Annotated[Path | None, Parameter(name="--out")] = None, seed: int = 0,
          device: Device = "auto", base: Base = "miniature") -> int:  # fmt: skip
    """Rebuilds a miniature from a seed; resumes where it was stopped."""
    from bench.core.shipped import model_folder
    from bench.mini.train.build import build

    logging.getLogger("bench").setLevel(logging.INFO)
    build(work, out_ or model_folder(base), seed=seed, device=device_of(device), base=base)
    return 0


def check(
    *,
    folder: Path | None = None,
    base: Base = "miniature",
    json_: Json = False,
    device: Device = "auto",
    quick: Annotated[
        int | None, Parameter(help="Use so many captions and renders instead of the full numbers.")
    ] = None,
    card: Annotated[
        Path | None, Parameter(help="Write the model card too, with the notes in this file.")
    ] = None,
) -> int:
    """Measures a miniature against its bars and its cost."""
    from bench.core.shipped import model_folder
    from bench.mini.card import write_card
    from bench.mini.check import check_model
    from bench.mini.check import show as show_check

    folder = folder or model_folder(base)
    notes = "" if card is None else regular(card).read_text(encoding="utf-8")  # not after the work
    found = check_model(folder, device=device_of(device), scale=quick)
    if card is not None:
        write_card(folder, found, notes)
    if json_:
        print_json(found)
    else:
        show_check(found, out)
    return 0 if all(row["met"] for row in found["bars"]) else 1


def bases(*, page: Path = Path("docs/bases.md"), device: Device = "auto") -> int:
    """Tries every method and attack on each miniature and keeps the answers in a page.

    Where a miniature is not trained, one with random values stands in for it: the same classes and shapes.
    """
    from bench.core.pages import kept_in
    from bench.core.shipped import MINIATURES, model_folder
    from bench.mini.on_bases import table, try_on
    from bench.mini.train.build import untrained
    from bench.model.text_to_image import load_model

    kept_in(page, "mini bases", "")  # not after the work
    with TemporaryDirectory(prefix="tvc-bench-bases-") as made:
        folders = {
            base: there
            if (there := model_folder(base)).is_dir()
            else untrained(Path(made) / base, base)
            for base in MINIATURES
        }
        models = {
            base: load_model(str(folder), device=device_of(device))
            for base, folder in folders.items()
        }
        rows = []
        for row in try_on(models):
            rows.append(row)
            out.print(f"{row.kind} {row.name} on {row.base}: {row.said}")
    page.write_text(kept_in(page, "mini bases", table(rows)), encoding="utf-8")
    return 0


def carriers(
    *,
    page: Path = Path("docs/validity.md"),
    device: Device = "auto",
    images: Annotated[int, Parameter(help="Images per concept and place.")] = 24,
) -> int:
    """Measures which words' text states carry a concept of the miniature, and keeps the table in a page."""
    from bench.api import concepts
    from bench.core.pages import kept_in
    from bench.judges.mini import MiniJudge
    from bench.mini.carriers import carried, table
    from bench.model.text_to_image import load_model

    kept_in(page, "mini carriers", "")  # not after the work
    model = load_model("miniature", device=device_of(device))
    known = concepts(model)
    rows = []
    for row in carried(
        model,
        [known[name] for name in _MEASURED],
        MiniJudge(),
        images=images,
    ):
        rows.append(row)
        out.print(
            f"{row.concept}: {100 * row.shown['own words']:.0f} % without its own words' states"
        )
    page.write_text(kept_in(page, "mini carriers", table(rows)), encoding="utf-8")
    return 0
