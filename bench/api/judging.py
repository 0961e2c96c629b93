"""Judges images of any origin, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from bench.api.calls import concept_of, spec_of
from bench.core.errors import UsageError
from bench.core.lazy import torch
from bench.interfaces import Concept, Judge
from bench.model.text_to_image import TextToImage

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

__all__ = ["judge"]

Images: TypeAlias = "Tensor | Sequence[Any]"
"""float [B, 3, H, W] in [0, 1]; or images of Pillow, arrays [H, W, 3] of bytes, or paths, of one size."""


def judge(
    images: Images,
    concept: str | Concept,
    judges: Sequence[str | dict[str, Any] | Judge] = ("mini_judge",),
    *,
    model: TextToImage | None = None,
) -> pd.DataFrame:
    """Scores of images, whoever made them.

    Args:
        images: See :data:`Images`.
        concept: What to look for: a full concept, or a name. A name is looked up in the folder of ``model``.
        judges: Registered names, ``{name: {field: value}}``, or objects.
        model: Where the concept is known, and on whose device the judges look.

    Returns:
        A row per image, judge and label: ``image`` (its index), ``judge``, ``label``, ``score``,
        ``threshold``, ``counts``, ``shown``. A label that counts decides; an image is shown if one of
        these reaches the threshold.

    Raises:
        UsageError: no images, images of two sizes or out of range, an unknown judge, or one that
            cannot see the concept.
    """
    import pandas as pd

    pixels = _pixels(images)
    if model is not None:
        pixels = pixels.to(model.device)
        known = concept_of(model, concept)
    else:
        known = concept if isinstance(concept, Concept) else Concept(text=concept)
    rows: list[dict[str, Any]] = []
    for entry in judges:
        spec = spec_of("judge", entry)
        if not isinstance(spec, Judge):
            raise UsageError(f"judges: expected judges, got {spec.kind} {spec.name}")
        spec.check_base(model.folder if model is not None else None)
        spec.check_concept(known)
        labels, counted = spec.labels(known), spec.counts(known)
        scores = spec.scores(pixels, known).float().cpu()
        shown = scores[:, [labels.index(label) for label in counted]].amax(1) >= spec.threshold
        rows += [
            {"image": i, "judge": spec.label, "label": label, "score": float(scores[i, k]),
             "threshold": spec.threshold, "counts": label in counted, "shown": bool(shown[i])}
            for i in range(len(pixels))
            for k, label in enumerate(labels)
        ]  # fmt: skip
    return pd.DataFrame(rows)


def _pixels(images: Images) -> Tensor:
    if isinstance(images, torch.Tensor):
        if images.ndim != 4 or images.shape[1] != 3 or not len(images):
            raise UsageError(f"images: expected a tensor [B, 3, H, W], got {list(images.shape)}")
        pixels = images.detach().float()
    else:
        each = [_one(image) for image in images]
        if not each:
            raise UsageError("images: expected at least one, got none")
        if sizes := sorted({tuple(image.shape[1:]) for image in each} - {tuple(each[0].shape[1:])}):
            raise UsageError(
                f"images: expected one size, got {list(each[0].shape[1:])} and {list(sizes[0])}; scale them first"
            )
        pixels = torch.stack(each)
    if not bool(pixels.isfinite().all()) or float(pixels.min()) < 0 or float(pixels.max()) > 1:
        raise UsageError(
            f"images: expected values in [0, 1], got {float(pixels.min()):g} to {float(pixels.max()):g}"
        )
    return (pixels * 255).round() / 255  # as a run judges them: what could be stored


def _one(image: Any) -> Tensor:
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    if isinstance(image, str | Path):
        try:
            with Image.open(image) as opened:
                image = opened.convert("RGB")
        except (OSError, UnidentifiedImageError) as error:
            raise UsageError(f"{image}: not a readable image ({error})") from error
    array = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise UsageError(
            f"images: expected bytes [H, W, 3], got {array.dtype} {list(array.shape)}; or give a tensor in [0, 1]"
        )
    return torch.from_numpy(array.copy()).movedim(2, 0).float() / 255
