"""Measures the miniature against its bars: judge, CLIP, generator, false positives, size and cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.core.rng import generator_for, seed_for
from bench.mini.captions import Wording, captions
from bench.mini.render import render
from bench.mini.scenes import Scenes, sample_scenes
from bench.mini.world import HEADS
from bench.model.sampler import Sampler
from bench.model.text_to_image import TextToImage, load_model
from bench.toolkit.clip import load_clip
from bench.toolkit.judge_net import JudgeNet, load_judge

__all__ = ["check_model", "show"]

_RENDERS = 5000
_CAPTIONS = 2000
_NAME_BARS = {"object": 0.97, "style": 0.95, "character": 0.97, "colour": 0.95}
_OTHER_BARS: dict[Wording, float] = {"synonym": 0.95, "indirect": 0.90}
_JUDGE_BAR = 0.995
_CLIP_BAR = (
    0.9  # ours: what looks through CLIP is meant to be a weaker eye than the judge, not a blind one
)
_CLIP_TEMPLATE = "something, as a {}"
_FALSE_POSITIVES = 0.005
_MEGABYTES = 40.0
_SAMPLE_SECONDS, _FORWARD_SECONDS = 10.0, 0.12
_SEED = "mini check"


@torch.no_grad()
def _predict(judge: JudgeNet, images: Tensor) -> dict[str, Tensor]:
    """Softmax probabilities [N, classes + 1] per head."""
    chunks = [judge(c) for c in images.split(256)]
    return {h: torch.cat([c[h] for c in chunks]).softmax(1) for h in HEADS}


def _accuracies(probabilities: dict[str, Tensor], scenes: Scenes) -> dict[str, tuple[float, int]]:
    """Head -> accuracy where the scene has the attribute, and how many do."""
    found = {}
    for head, names in HEADS.items():
        has = scenes.labels[head] < len(names)
        hit = probabilities[head].argmax(1) == scenes.labels[head]
        found[head] = (hit[has].float().mean().item(), int(has.sum()))
    return found


def _row(name: str, value: float, bar: float, n: int, *, at_most: bool = False) -> dict[str, Any]:
    met = value <= bar if at_most else value >= bar
    return {"name": name, "value": value, "bar": bar, "at_most": at_most, "n": n, "met": bool(met)}


def check_model(folder: Path, *, device: str = "cpu", scale: int | None = None) -> dict[str, Any]:
    """Measures everything.

    Args:
        folder: Of the miniature.
        device: A torch device.
        scale: So many captions and renders instead of the full numbers: for a quick look.

    Returns:
        ``bars``: a list of name, value, bar, at_most, n, met; ``sampler``; ``scenes``: overall
        shares for the reader.
    """
    model = load_model(str(folder), device=device)
    judge = load_judge(folder / "judge")
    renders, number = (scale or _RENDERS), (scale or _CAPTIONS)
    rows = _judge_rows(model, judge, renders) + _clip_rows(folder / "clip", renders, device)
    generator_rows, sampler = _generator_rows(model, judge, number)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6
    rows += [
        *generator_rows,
        _row("size of the folder, MB", size, _MEGABYTES, 1, at_most=True),
        *_cost_rows(model, sampler),
    ]
    return {
        "folder": str(folder),
        "sampler": sampler.model_dump(),
        "threads": torch.get_num_threads(),
        "bars": rows,
    }


def _judge_rows(model: TextToImage, judge: JudgeNet, number: int) -> list[dict[str, Any]]:
    scenes = sample_scenes(number, generator_for(_SEED, "renders"), held_out=None)
    images = render(scenes)
    with torch.no_grad():
        again = torch.cat([model.decode(model.to_latents(c)).cpu() for c in images.split(100)])
    rows = []
    for what, pictures in (("renders", images), ("VAE round trips", again)):
        probabilities = _predict(judge, pictures)
        hits = torch.stack([probabilities[h].argmax(1) == scenes.labels[h] for h in HEADS])
        worst = int(hits.float().mean(1).argmin())
        accuracy = hits[worst].float().mean().item()
        rows.append(
            _row(
                f"judge on {what}, worst head ({list(HEADS)[worst]})", accuracy, _JUDGE_BAR, number
            )
        )
    return rows


def _clip_rows(folder: Path, number: int, device: str) -> list[dict[str, Any]]:
    """Zero-shot accuracy on renders: the subject among all objects and characters, and the style."""
    clip = load_clip(str(folder), device)
    scenes = sample_scenes(number, generator_for(_SEED, "clip"), held_out=None, empty_share=0.0)
    images_NE = clip.image_features(render(scenes).to(device))
    objects = len(HEADS["object"])
    is_object = scenes.labels["object"] < objects
    subject = torch.where(is_object, scenes.labels["object"], objects + scenes.labels["character"])
    kinds = {
        "subject": ((*HEADS["object"], *HEADS["character"]), subject),
        "style": (HEADS["style"], scenes.labels["style"]),
    }
    rows = []
    for what, (names, labels) in kinds.items():
        texts_TE = clip.text_features([_CLIP_TEMPLATE.replace("{}", name) for name in names])
        hit = (images_NE @ texts_TE.T).argmax(1).cpu() == labels
        rows.append(
            _row(f"CLIP zero-shot on renders, {what}", hit.float().mean().item(), _CLIP_BAR, number)
        )
    return rows


def _generator_rows(
    model: TextToImage, judge: JudgeNet, number: int
) -> tuple[list[dict[str, Any]], Sampler]:
    sampler = Sampler()
    rows: list[dict[str, Any]] = []
    wordings: tuple[Wording, ...] = ("name", "synonym", "indirect")
    for wording in wordings:
        draw = generator_for(_SEED, wording)
        scenes = sample_scenes(number, draw, held_out=True, empty_share=0.0)
        texts = captions(scenes, draw, wording=wording, drop=0.0)
        drawn = model.sample(texts, [seed_for(_SEED, wording, i) for i in range(number)], sampler)
        images = drawn.all_finite().images_B3HW
        probabilities = _predict(judge, images)
        found = _accuracies(probabilities, scenes)
        if wording == "name":
            rows += [
                _row(f"generator, {h} by name", *_with_bar(found[h], bar))
                for h, bar in _NAME_BARS.items()
            ]
            name, rate = _worst_false_positive(probabilities, scenes)
            rows.append(
                _row(
                    f"false positives, worst concept ({name})",
                    rate,
                    _FALSE_POSITIVES,
                    number,
                    at_most=True,
                )
            )
        else:
            bar = _OTHER_BARS[wording]
            rows += [
                _row(f"generator, {h} by {wording}", *_with_bar(found[h], bar))
                for h in ("object", "style", "character")
            ]
    return rows, sampler


def _with_bar(found: tuple[float, int], bar: float) -> tuple[float, float, int]:
    return found[0], bar, found[1]


def _worst_false_positive(probabilities: dict[str, Tensor], scenes: Scenes) -> tuple[str, float]:
    """The concept whose judge fires most often on images that were asked to show another one."""
    rates = {}
    for head in ("object", "character", "style"):
        for k, name in enumerate(HEADS[head]):
            other = scenes.labels[head] != k
            rates[name] = (probabilities[head][other, k] >= 0.5).float().mean().item()
    worst = max(rates, key=lambda name: rates[name])
    return worst, rates[worst]


def _median_seconds(work: Callable[[], object], repeats: int) -> float:
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _cost_rows(model: TextToImage, sampler: Sampler) -> list[dict[str, Any]]:
    prompts, seeds = ["a red star on a blank background, as a sketch"] * 64, list(range(64))
    states = model.encode(prompts[:32])
    noisy = model.noise(seeds[:32], sampler).to(model.backbone.device)

    def forward() -> None:
        with torch.no_grad():
            model.denoise(noisy, 500, states)

    return [
        _row("64 images with the default sampler, s", _median_seconds(lambda: model.sample(prompts, seeds, sampler), 3),
             _SAMPLE_SECONDS, 3, at_most=True),
        _row("UNet forward of 32 latents, s", _median_seconds(forward, 15), _FORWARD_SECONDS, 15, at_most=True),
    ]  # fmt: skip


def show(found: dict[str, Any], console: Console) -> None:
    """Prints the bars as a table."""
    table = Table(
        "measure",
        "value",
        "bar",
        "n",
        "met",
        title=f"{found['folder']} on {found['threads']} threads",
    )
    for row in found["bars"]:
        share = not row["name"].endswith((", s", ", MB"))
        value, bar = (
            f"{100 * row[k]:.2f} %" if share else f"{row[k]:.3g}" for k in ("value", "bar")
        )
        sign = "≤" if row["at_most"] else "≥"
        table.add_row(
            row["name"],
            value,
            f"{sign} {bar}",
            str(row["n"]),
            "yes" if row["met"] else "[red]no[/red]",
        )
    console.print(table)
