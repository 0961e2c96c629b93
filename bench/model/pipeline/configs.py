"""The configurations of a base's parts, and the values that they may have.

Every option of diffusers' ``UNet2DConditionModel`` and ``AutoencoderKL`` is here. The defaults are those of the
classes, for old files leave many keys out. An option that no Stable Diffusion sets may have its default alone. So what
a configuration asks for is known without building the network. To build it would import torch and diffusers, which
takes several times as long as a whole plan. A key that is not named here is not handed to the libraries
(:func:`handed_on`): nothing that was not checked can make them fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from bench.core.errors import UsageError, from_pydantic, shown
from bench.core.json_files import read_object
from bench.model.schedule import Prediction

__all__ = [
    "SchedulerConfig", "TextConfig", "UNetConfig", "VaeConfig", "check_scheduler", "handed_on", "validated",
]  # fmt: skip

_Width = Annotated[int, Field(ge=1, le=2**16)]
_Count = Annotated[int, Field(ge=1, le=128)]
_Share = Annotated[float, Field(ge=0, lt=1)]
_Number = Annotated[float, Field(ge=-1000, le=1000)]
_One = Annotated[float, Field(ge=1, le=1)]
_Id = Annotated[int, Field(ge=-1, lt=2**24)]
_Precision = Literal["float64", "float32", "float16", "bfloat16"] | None
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
    num_attention_heads: None = None  # diffusers takes it by the other name alone
    cross_attention_dim: _Width = 1280
    norm_num_groups: _Width = 32
    norm_eps: _Share = 1e-5
    dropout: _Share = 0.0
    conv_in_kernel: Literal[1, 3, 5, 7] = 3
    act_fn: _Activation = "silu"
    flip_sin_to_cos: bool = True
    freq_shift: _Number = 0
    center_input_sample: bool = False
    use_linear_projection: bool = False
    upcast_attention: bool | None = False
    addition_embed_type: Literal["text_time"] | None = None
    addition_time_embed_dim: _Width | None = None
    projection_class_embeddings_input_dim: _Width | None = None
    # What no Stable Diffusion sets: some of it needs other inputs, or other weights.
    addition_embed_type_num_heads: _Count = 64  # of another kind of added embedding
    attention_type: Literal["default"] = "default"
    class_embed_type: None = None
    class_embeddings_concat: Literal[False] = False
    conv_out_kernel: Literal[3] = 3
    cross_attention_norm: None = None
    downsample_padding: Literal[1] = 1
    dual_cross_attention: Literal[False] = False
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    mid_block_only_cross_attention: Literal[False] | None = None
    mid_block_scale_factor: _One = 1
    num_class_embeds: None = None
    only_cross_attention: Literal[False] = False
    resnet_out_scale_factor: _One = 1.0
    resnet_skip_time_act: Literal[False] = False
    resnet_time_scale_shift: Literal["default"] = "default"
    reverse_transformer_layers_per_block: None = None
    time_cond_proj_dim: None = None
    time_embedding_act_fn: None = None
    time_embedding_dim: None = None
    time_embedding_type: Literal["positional"] = "positional"
    timestep_post_act: None = None


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
    sample_size: _Width = 32
    force_upcast: bool | None = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
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
    eos_token_id: Annotated[int, Field(ge=0, lt=2**24)] = 49407
    bos_token_id: _Id | None = 49406
    pad_token_id: _Id | None = 1
    projection_dim: _Width = 512
    initializer_range: _Share = 0.02
    initializer_factor: Annotated[float, Field(ge=0, le=1000)] = 1.0
    dtype: _Precision = None
    torch_dtype: _Precision = None


class SchedulerConfig(_Config):
    """Of a noise schedule, and the options that an exported pipeline keeps: those of a ``DDIMScheduler``.

    How else somebody liked to sample is the suite's to say (:func:`bench.model.sampler.noise_schedule`).
    """

    num_train_timesteps: Annotated[int, Field(ge=1, le=10_000)] = 1000
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 0.0001
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    prediction_type: str = "epsilon"
    trained_betas: list[Annotated[float, Field(gt=0, lt=1)]] | None = None
    rescale_betas_zero_snr: bool = False
    clip_sample: bool = True
    clip_sample_range: _Number = 1.0
    dynamic_thresholding_ratio: _Number = 0.995
    sample_max_value: _Number = 1.0
    set_alpha_to_one: bool = True
    steps_offset: Annotated[int, Field(ge=0, le=1000)] = 0
    thresholding: bool = False
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"


_Model = TypeVar("_Model", bound=BaseModel)


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


def handed_on(config: _Config) -> dict[str, Any]:
    """The keys that a file gave and that were checked, for the libraries; it leaves all others out."""
    return config.model_dump(include=config.model_fields_set)


def check_scheduler(path: Path) -> SchedulerConfig:
    """The noise schedule of a base, which this suite can use.

    Raises:
        UsageError: another prediction type, or a noise schedule that is none.
    """
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
    return config
