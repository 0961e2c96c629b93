"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) merged into parameters: ``W + s alpha/r B A``.

Rank-stabilised ones (Kalajdzievski 2023, arXiv 2312.03732), which say so in their settings, have
``alpha/sqrt(r)``. Without an alpha, it is r.

Three ways of writing the same thing are read: PEFT's and diffusers' (``….to_k.lora_A.weight``),
older diffusers' (``….to_k.lora.down.weight``, ``….processor.to_k_lora.down.weight``) and kohya's
(``lora_unet_…_to_k.lora_down.weight`` with an ``alpha`` beside).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bench.errors import UsageError
from bench.model import TextToImage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["is_lora", "merged", "within"]

_HALF = re.compile(
    r"(?P<module>.+?)(?:\.lora|_lora|\.lora_linear_layer)?[._]"
    r"(?P<half>lora_A|lora_B|lora_down|lora_up|down|up)(?:\.\w+)?\.weight"
)
_DOWN = {"lora_A", "lora_down", "down"}
_KOHYA = {"lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder"}


def is_lora(names: Mapping[str, Any]) -> bool:
    """Whether a file with these names holds an adapter."""
    return any("lora" in name for name in names)


def within(known: Mapping[str, Tensor], part: str, name: str) -> str | None:
    """The base's ``component.name`` of a name in a file; ``None`` if it has none.

    Versions of transformers disagree on whether the text tower is nested in a ``text_model``.
    """
    name = name.removeprefix("base_model.model.").removeprefix(f"{part}.")
    bare = name.removeprefix("text_model.")
    tried = (f"{part}.{name}", f"{part}.{bare}", f"{part}.text_model.{bare}")
    return next((full for full in tried if full in known), None)


def merged(
    model: TextToImage,
    tensors: Mapping[str, Tensor],
    about: Mapping[str, Any],
    *,
    scale: float,
    origin: str,
) -> dict[str, Tensor]:
    """The parameters that an adapter changes, with it merged in.

    Args:
        model: What it is merged into.
        tensors: Down [r, in], up [out, r] or their convolutions, and alphas, by name.
        about: PEFT's settings; ``lora_alpha``, ``alpha_pattern`` and ``use_rslora`` are read, of a
            component or of all.
        scale: s, besides alpha/r.
        origin: For errors.

    Returns:
        float32 values by ``component.name``.

    Raises:
        UsageError: a name that is not understood or not in the model, a half without the other,
            or shapes that do not fit.
    """
    downs: dict[str, Tensor] = {}
    ups: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for name, value in tensors.items():
        if name.endswith(".alpha") and value.numel() == 1:
            alphas[_parameter(model, name.removesuffix(".alpha"), origin)] = float(value)
        elif match := _HALF.fullmatch(name):
            halves = downs if match["half"] in _DOWN else ups
            halves[_parameter(model, match["module"], origin)] = value.float()
        else:
            raise UsageError(
                f"checkpoint: expected the down, up and alpha of a LoRA, got {name} in {origin}; "
                "merge the adapter into its model and give that"
            )
    if lonely := sorted(downs.keys() ^ ups.keys()):
        raise UsageError(
            f"checkpoint: expected a down and an up half of each layer, got one for {lonely[0]} in "
            f"{origin}; the file is incomplete"
        )
    return {
        name: _merged(model, name, down, ups[name], scale * _strength(name, down, alphas, about, origin), origin)
        for name, down in downs.items()
    }  # fmt: skip


def _merged(
    model: TextToImage, name: str, down: Tensor, up: Tensor, strength: float, origin: str
) -> Tensor:
    W = model.parameter(name).float()
    flat_down, flat_up = down.flatten(1), up.flatten(1)
    rank, columns = flat_down.shape
    if flat_up.shape != (W.shape[0], rank) or columns * W.shape[0] != W.numel():
        raise UsageError(
            f"checkpoint: expected a LoRA of {name} of shape {tuple(W.shape)}, got down "
            f"{tuple(down.shape)} and up {tuple(up.shape)} in {origin}; give the model that it was "
            "made from as base"
        )
    delta = (flat_up.double() @ flat_down.double()).reshape(W.shape)
    return (W.double().cpu() + strength * delta).float()


def _strength(
    name: str, down: Tensor, alphas: Mapping[str, float], about: Mapping[str, Any], origin: str
) -> float:
    """alpha/r, or alpha/sqrt(r) of a rank-stabilised adapter."""
    part, _, path = name.partition(".")
    rank = len(down)

    def said(key: str, otherwise: Any) -> Any:
        return about.get(f"{part}.{key}", about.get(key, otherwise))

    alpha = said("lora_alpha", rank)
    module = path.removesuffix(".weight").removeprefix("text_model.")
    patterns: Mapping[str, Any] = said("alpha_pattern", None) or {}
    fits = (p for p in patterns if f".{module}".endswith(f".{_layer(p, origin)}"))
    alpha = patterns.get(next(fits, ""), alpha)
    try:
        return float(alphas.get(name, alpha)) / (rank**0.5 if said("use_rslora", False) else rank)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"checkpoint: expected a number as the alpha of {name}, got {alpha!r} in {origin}; "
            "correct the adapter's settings"
        ) from error


def _layer(pattern: str, origin: str) -> str:
    """The layer that a key of ``alpha_pattern`` names; only plain names are read."""
    plain = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if not re.fullmatch(r"[\w.]+", plain):
        raise UsageError(
            f"checkpoint: expected names of layers in alpha_pattern, got {pattern!r} in {origin}; "
            "merge the adapter into its model and give that"
        )
    return plain.removeprefix("text_model.")


def _parameter(model: TextToImage, module: str, origin: str) -> str:
    """``component.name`` of the parameter of a module in a file."""
    known = model.backbone.parameters
    for prefix, part in _KOHYA.items():
        if module.startswith(prefix):
            flat = module.removeprefix(prefix).removeprefix("text_model_")
            for name in known:
                path = name.removeprefix(f"{part}.").removeprefix("text_model.")
                if name.startswith(f"{part}.") and path.endswith(".weight"):
                    if path.removesuffix(".weight").replace(".", "_") == flat:
                        return name
            raise _foreign(module, origin)
    # Old attention processors held the four projections of a layer themselves.
    path = module.replace(".processor.", ".")
    named = [p for p in ("unet", "text_encoder") if path.startswith(f"{p}.")]
    for part in named or ("unet", "text_encoder"):
        for tail in (".weight", ".0.weight"):
            if found := within(known, part, path + tail):
                return found
    raise _foreign(module, origin)


def _foreign(module: str, origin: str) -> UsageError:
    return UsageError(
        f"checkpoint: expected a LoRA of layers of the base, got {module} in {origin}; give the "
        "model that it was made from as base, or convert the names to diffusers'"
    )
