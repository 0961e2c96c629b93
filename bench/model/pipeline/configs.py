"""The configurations of a base's parts, and the values that they may have.

The defaults are those of diffusers' and transformers' classes, for old files leave many keys out.
Keys that are not named here are left to those classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from bench.core.errors import UsageError, from_pydantic, shown
from bench.core.json_files import read_object
from bench.model.schedule import Prediction

__all__ = ["TextConfig", "UNetConfig", "VaeConfig", "check_scheduler", "validated"]

_Width = Annotated[int, Field(ge=1, le=2**16)]
_Count = Annotated[int, Field(ge=1, le=128)]
_Share = Annotated[float, Field(ge=0, lt=1)]
_Activation = Literal["silu", "swish", "mish", "gelu", "relu"]
_Item = TypeVar("_Item")
_Blocks = Annotated[list[_Item], Field(min_length=1, max_length=8)]
_ONE, _EACH = "for all blocks", "block by block"
_PerBlock = Annotated[
    Annotated[_Count, Tag(_ONE)] | Annotated[_Blocks[_Count], Tag(_EACH)],
    Discriminator(lambda value: _EACH if isinstance(value, list) else _ONE),
]
"""A number for all blocks, or a list of one for each: what is wrong is said of what was meant."""


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class UNetConfig(_Config):
    """Of a ``UNet2DConditionModel``."""

    sample_size: Annotated[int, Field(ge=1, le=4096)]
    in_channels: _Width = 4
    out_channels: _Width = 4
    down_block_types: _Blocks[Literal["CrossAttnDownBlock2D", "DownBlock2D"]] = [
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ]
    mid_block_type: Literal["UNetMidBlock2DCrossAttn"] | None = "UNetMidBlock2DCrossAttn"
    up_block_types: _Blocks[Literal["CrossAttnUpBlock2D", "UpBlock2D"]] = [
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    ]
    block_out_channels: _Blocks[_Width] = [320, 640, 1280, 1280]
    layers_per_block: _PerBlock = 2
    transformer_layers_per_block: _PerBlock = 1
    attention_head_dim: _PerBlock = 8
    num_attention_heads: _PerBlock | None = None
    cross_attention_dim: _Width = 1280
    norm_num_groups: _Width = 32
    norm_eps: _Share = 1e-5
    dropout: _Share = 0.0
    conv_in_kernel: _Count = 3
    act_fn: _Activation = "silu"
    flip_sin_to_cos: bool = True
    freq_shift: Annotated[float, Field(ge=-1000, le=1000)] = 0
    use_linear_projection: bool = False
    addition_embed_type: Literal["text_time"] | None = None
    addition_time_embed_dim: _Width | None = None
    projection_class_embeddings_input_dim: _Width | None = None


class VaeConfig(_Config):
    """Of an ``AutoencoderKL``."""

    latent_channels: _Width = 4
    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    down_block_types: _Blocks[Literal["DownEncoderBlock2D"]] = ["DownEncoderBlock2D"]
    up_block_types: _Blocks[Literal["UpDecoderBlock2D"]] = ["UpDecoderBlock2D"]
    block_out_channels: _Blocks[_Width] = [64]
    layers_per_block: _Count = 1
    norm_num_groups: _Width = 32
    act_fn: _Activation = "silu"
    scaling_factor: Annotated[float, Field(gt=0, lt=1e6)] = 0.18215
    shift_factor: Annotated[float, Field(gt=-1e6, lt=1e6)] | None = None
    latents_mean: None = None
    latents_std: None = None


class TextConfig(_Config):
    """Of a ``CLIPTextModel``, or of a ``CLIPTextModelWithProjection``."""

    hidden_size: _Width = 512
    intermediate_size: _Width = 2048
    num_hidden_layers: _Count = 12
    num_attention_heads: _Count = 8
    max_position_embeddings: Annotated[int, Field(ge=3, le=4096)] = 77
    vocab_size: Annotated[int, Field(ge=3, le=2**24)] = 49408
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: _Share = 1e-5
    attention_dropout: _Share = 0.0
    eos_token_id: Annotated[int, Field(ge=0, lt=2**24)] | None = 49407
    projection_dim: _Width = 512


class SchedulerConfig(_Config):
    """Of a noise schedule."""

    num_train_timesteps: Annotated[int, Field(ge=1, le=10_000)] = 1000
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 0.0001
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    beta_schedule: str = "linear"
    prediction_type: str = "epsilon"
    trained_betas: list[Annotated[float, Field(gt=0, lt=1)]] | None = None


_Model = TypeVar("_Model", bound=_Config)


def validated(kind: type[_Model], data: Mapping[str, Any], path: Path) -> _Model:
    """The data of a file as a configuration.

    Raises:
        UsageError: with the first key that is wrong.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        told = from_pydantic(error, kind)
        at = tuple(place for place in told.at if place not in (_ONE, _EACH))
        raise UsageError(f"{path}: {UsageError(told.message, at=at)}") from error


def check_scheduler(folder: Path) -> str:
    """The prediction type of a base, which this suite can use.

    Raises:
        UsageError: another prediction type, or a noise schedule that is none.
    """
    path = folder / "scheduler_config.json"
    config = validated(SchedulerConfig, read_object(path), path)
    if config.prediction_type not in get_args(Prediction):
        known = " or ".join(get_args(Prediction))
        raise UsageError(
            f"{path}: prediction_type: expected {known}, got {shown(config.prediction_type)}; "
            "a base that predicts anything else is not supported"
        )
    betas = config.trained_betas
    if betas is not None and len(betas) != config.num_train_timesteps:
        raise UsageError(
            f"{path}: trained_betas: expected {config.num_train_timesteps} numbers, got {len(betas)}"
        )
    return config.prediction_type
