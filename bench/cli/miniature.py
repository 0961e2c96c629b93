"""Commands on the miniature: train makes it, check measures it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from bench.cli.output import out, print_json
from bench.cli.request import device_of
from bench.cli.words import Device, Json
from bench.core.files import regular

__all__ = ["check", "train"]


def train(*, work: Path = Path(".train"), out_: Annotated[Path | None, Parameter(name="--out")] = None, seed: int = 0,
          device: Device = "auto") -> int:  # fmt: skip
    """Rebuilds the miniature from a seed; resumes where it was stopped."""
    from bench.core.shipped import model_folder
    from bench.mini.train.build import build

    logging.getLogger("bench").setLevel(logging.INFO)
    build(work, out_ or model_folder(), seed=seed, device=device_of(device))
    return 0


def check(*, folder: Path | None = None, json_: Json = False, device: Device = "auto", quick: Annotated[
    int | None, Parameter(help="Use so many captions and renders instead of the full numbers.")] = None,
          card: Annotated[Path | None, Parameter(help="Write the model card too, with the notes in this file.")] = None,
          ) -> int:  # fmt: skip
    """Measures the miniature against its bars and its cost."""
    from bench.core.shipped import model_folder
    from bench.mini.card import write_card
    from bench.mini.check import check_model
    from bench.mini.check import show as show_check

    folder = folder or model_folder()
    notes = "" if card is None else regular(card).read_text(encoding="utf-8")  # not after the work
    found = check_model(folder, device=device_of(device), scale=quick)
    if card is not None:
        write_card(folder, found, notes)
    if json_:
        print_json(found)
    else:
        show_check(found, out)
    return 0 if all(row["met"] for row in found["bars"]) else 1
