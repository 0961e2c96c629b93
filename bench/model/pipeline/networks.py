"""The configurations of a base's networks, each checked by itself."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.core.errors import UsageError, shown
from bench.core.json_files import read_object
from bench.model.pipeline.configs import TextConfig, UNetConfig, VaeConfig, handed_on, validated

__all__ = ["Networks", "image_side", "read_networks"]

_CONDITIONS: Final = (
    "class_embed_type", "num_class_embeds", "encoder_hid_dim",
    "encoder_hid_dim_type", "time_cond_proj_dim",
)  # fmt: skip
"""Each asks for an input besides latents, timestep and text states."""
_VERSION: Final = re.compile(r"(\d{1,4})\.(\d{1,4})(\.\d{1,4})*(\.?(dev|a|b|rc|post)\d{1,4})?")


@dataclass(frozen=True, slots=True)
class Networks:
    """The configurations of a base's networks.

    Attributes:
        unet: Of its UNet.
        vae: Of its autoencoder.
        texts: Of each text encoder, in order.
        paths: Of their files, by part.
        latent_side: Cells of a latent's side, at the base's own size.
        handed_on: What the libraries are given of each file.
    """

    unet: UNetConfig
    vae: VaeConfig
    texts: Mapping[str, TextConfig]
    paths: Mapping[str, Path]
    latent_side: int
    handed_on: Mapping[Path, Mapping[str, Any]]

    @property
    def image_side(self) -> int:
        """Pixels of an image's side, at the base's own size."""
        return self.latent_side * _scale(self.vae)


def read_networks(folder: Path, encoders: Sequence[str]) -> Networks:
    """The configurations of a base's networks, with values that this suite can use.

    Args:
        folder: The base's.
        encoders: Its text encoders.

    Raises:
        UsageError: one has another value, or is of another class.
    """
    paths = {part: folder / part / "config.json" for part in ("unet", "vae", *encoders)}
    raw = {part: read_object(path) for part, path in paths.items()}
    _check_kind(raw["unet"], "UNet2DConditionModel", paths["unet"])
    _check_kind(raw["vae"], "AutoencoderKL", paths["vae"])
    for part, config in raw.items():
        if config.get("quantization_config") is not None:
            raise UsageError(f"{paths[part]}: quantization_config: quantised weights are not read")
    _check_conditions(raw["unet"], paths["unet"])
    unet = validated(UNetConfig, raw["unet"], paths["unet"])
    vae = validated(VaeConfig, raw["vae"], paths["vae"])
    texts = {part: validated(TextConfig, raw[part], paths[part]) for part in encoders}
    for part in encoders:
        if (model := raw[part].get("model_type", "clip_text_model")) != "clip_text_model":
            raise UsageError(
                f"{paths[part]}: model_type: expected clip_text_model, got {shown(model)}"
            )
    side, version = _side(unet.sample_size, raw["unet"], paths["unet"])
    given = {paths["vae"]: handed_on(vae), paths["unet"]: {**handed_on(unet), **version}}
    given |= {paths[part]: handed_on(text) for part, text in texts.items()}
    return Networks(unet, vae, texts, paths, side, given)


def image_side(folder: Path) -> int:
    """Pixels of an image's side, at a base's own size.

    Raises:
        UsageError: its files do not say.
    """
    return read_networks(folder, ()).image_side


def _scale(vae: VaeConfig) -> int:
    """Pixels per latent cell, along a side."""
    return int(2 ** (len(vae.block_out_channels) - 1))


def _check_kind(config: Mapping[str, Any], expected: str, path: Path) -> None:
    if (name := config.get("_class_name", expected)) != expected:
        raise UsageError(f"{path}: _class_name: expected {expected}, got {shown(name)}")


def _check_conditions(config: Mapping[str, Any], path: Path) -> None:
    for key in _CONDITIONS:
        if config.get(key) is not None:
            raise UsageError(
                f"{path}: {key}: expected null, got {shown(config[key])}; a UNet that asks for more "
                "than latents, a timestep and text states is not supported"
            )
    size = config.get("sample_size")
    if type(size) is not int:
        raise UsageError(
            f"{path}: sample_size: expected one number, the side of a square latent, got {shown(size)}"
        )


def _side(sample_size: int, config: Mapping[str, Any], path: Path) -> tuple[int, dict[str, str]]:
    """The latent's side that diffusers gives, and its version: files before 0.9 are taken to be wrong below 64."""
    told = config.get("_diffusers_version")
    if told is None:
        return sample_size, {}
    version = _VERSION.fullmatch(told) if isinstance(told, str) else None
    if version is None:
        raise UsageError(
            f"{path}: _diffusers_version: expected one such as 0.29.0, got {shown(told)}"
        )
    old = (int(version[1]), int(version[2])) < (0, 9)
    return (max(64, sample_size) if old else sample_size), {"_diffusers_version": version[0]}
