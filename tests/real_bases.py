"""Tries every method and attack on a base of the real size with random weights, a line per plug-in.

python -m tests.real_bases {sd,sd2,sdxl} FOLDER [--side 256] [--device cpu] [--dtype float32] [--skip NAME ...]

The configuration is the published one of Stable Diffusion 1.4, 2.1 or XL; images may be smaller than theirs,
which changes no network. Each plug-in takes one step of each kind (its fields of ``quick``). One edit is exported
to a pipeline of diffusers, which draws with it. FOLDER keeps the base and the answers. What was tried is not
tried again: a command that was killed for its memory goes on with the next.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch

from bench.core.shipped import clip_folder
from bench.interfaces import Concept, Erasure, Judge, Rng, registry
from bench.mini.on_bases import what_comes_of
from bench.model.text_to_image import TextToImage, load_model
from bench.rehearse.bases import write_base, write_words
from bench.rehearse.shapes import REAL, BaseFamily

WORDS = ["a red star", "a photo of a church", "nothing"]


def base_in(folder: Path, family: BaseFamily, side: int) -> Path:
    """The base of the published configuration; written where it is not there."""
    base = folder / "base"
    if not base.exists():
        words = write_words(folder / "words", WORDS)
        write_base(folder / "part", family, words, real_size=True)
        config = folder / "part" / "unet" / "config.json"
        fields = json.loads(config.read_text())
        scale = 2 ** (len(REAL[family].vae["block_out_channels"]) - 1)
        config.write_text(json.dumps({**fields, "sample_size": side // scale}))
        shutil.copytree(clip_folder(), folder / "part" / "clip")  # so its CLIP is the miniature's
        (folder / "part").rename(base)
    return base


def exported(model: TextToImage) -> str:
    """Edits, exports to diffusers, and draws with what came out."""
    edit = cast(Erasure, registry.build("method", {"uce": {}}))
    edited = edit(model, [Concept(text="star")], rng=Rng(("real size",)))
    pipe = edited.to_diffusers()
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe("a red star", num_inference_steps=1, output_type="pt").images
    return "works" if bool(drawn.isfinite().all()) else "not finite"


def trials(model: TextToImage) -> Iterator[tuple[str, str, Callable[[], str]]]:
    """Kind, name and what to do, of everything that is tried."""
    judge = cast(Judge, registry.build("judge", {"clip_zero_shot": {"clip": str(clip_folder())}}))
    yield "export", "uce", lambda: exported(model)
    for kind in ("method", "attack"):
        for name in registry.names(kind):
            yield (
                kind,
                name,
                lambda kind=kind, name=name: what_comes_of(kind, name, model, judge),  # type: ignore[misc]
            )


def peak_mb(device: str) -> float:
    """The most memory so far: of the GPU, or of the process."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(given: argparse.Namespace) -> None:
    """Tries what is not tried yet, and prints a table of all."""
    given.folder.mkdir(parents=True, exist_ok=True)
    log = given.folder / f"{given.family}.jsonl"
    base = base_in(given.folder, given.family, given.side)
    model = load_model(str(base), device=given.device, dtype=given.dtype)
    known = {(row["kind"], row["name"]) for row in rows_of(log)}
    for kind, name, trial in trials(model):
        if (kind, name) in known or name in given.skip:
            continue
        _note(log, kind, name, "killed")  # until it is known better
        if given.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        try:
            said = trial()
        except (RuntimeError, MemoryError) as error:
            said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        seconds = time.perf_counter() - began
        _note(log, kind, name, said, seconds=round(seconds, 1), mb=round(peak_mb(given.device)))
        say(f"{kind} {name}: {said}, {seconds:.0f} s, {peak_mb(given.device):.0f} MB")
    say("| | plug-in | answer | seconds | peak, MB |\n|---|---|---|--:|--:|")
    for row in rows_of(log):
        say("| {kind} | `{name}` | {said} | {seconds} | {mb} |".format(**row))


def say(line: str) -> None:
    """Prints at once: whoever waits sees how far it is."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def rows_of(log: Path) -> list[dict[str, Any]]:
    """The last answer of each plug-in."""
    lines = log.read_text().splitlines() if log.exists() else []
    rows = [json.loads(line) for line in lines]
    return list({(row["kind"], row["name"]): row for row in rows}.values())


def _note(
    log: Path, kind: str, name: str, said: str, *, seconds: float | str = "", mb: float | str = ""
) -> None:
    with log.open("a") as out:
        out.write(json.dumps(dict(kind=kind, name=name, said=said, seconds=seconds, mb=mb)) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=list(REAL))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--skip", nargs="*", default=[])
    main(parser.parse_args())
