"""What the configurations of a base's parts say, checked against what this suite can use.

The defaults are those of diffusers' and transformers' classes, for old files leave many keys out.
Keys that are not named here are left to those classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.base_json import read_object
from bench.base_layers import unet_tensors, vae_tensors
from bench.errors import UsageError, from_pydantic, shown
from bench.weight_files import Tensor

__all__ = ["Sizes", "check_index", "check_scheduler", "check_sizes", "check_tokenizer"]

_PIPELINE: Final = "StableDiffusionPipeline"
_SCHEDULERS: Final = frozenset(
    {
        "DDIMScheduler", "DDPMScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
        "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler",
        "LMSDiscreteScheduler", "PNDMScheduler", "UniPCMultistepScheduler",
    }
)  # fmt: skip
_CLASSES: Final[Mapping[str, frozenset[tuple[str, str]]]] = {
    "tokenizer": frozenset(
        {("transformers", "CLIPTokenizer"), ("transformers", "CLIPTokenizerFast")}
    ),
    "text_encoder": frozenset({("transformers", "CLIPTextModel")}),
    "unet": frozenset({("diffusers", "UNet2DConditionModel")}),
    "vae": frozenset({("diffusers", "AutoencoderKL")}),
    "scheduler": frozenset(("diffusers", name) for name in _SCHEDULERS),
    # These are never loaded; they are part of what was published.
    "safety_checker": frozenset({("stable_diffusion", "StableDiffusionSafetyChecker")}),
    "feature_extractor": frozenset(
        {("transformers", "CLIPImageProcessor"), ("transformers", "CLIPFeatureExtractor")}
    ),
    "image_encoder": frozenset({("transformers", "CLIPVisionModelWithProjection")}),
}
_CONDITIONS: Final = (
    "addition_embed_type", "class_embed_type", "num_class_embeds", "encoder_hid_dim",
    "encoder_hid_dim_type", "time_cond_proj_dim",
)  # fmt: skip
"""Each asks for an input besides latents, timestep and text states."""
_CHANNELS: Final = {8: "an image to edit", 9: "inpainting", 5: "a depth map", 7: "upscaling"}

_Width = Annotated[int, Field(ge=1, le=2**16)]
_Count = Annotated[int, Field(ge=1, le=128)]
_Share = Annotated[float, Field(ge=0, lt=1)]
_Activation = Literal["silu", "swish", "mish", "gelu", "relu"]
_Item = TypeVar("_Item")
_Blocks = Annotated[list[_Item], Field(min_length=1, max_length=8)]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a base's networks take and give.

    Attributes:
        latent_channels: Channels of a latent.
        latent_side: Cells of its side, at the base's own size.
        image_side: Pixels of an image's side.
        context_width: Numbers of a text state.
        context_length: Tokens of a prompt, the special ones included.
        words: Rows of the text encoder's table of tokens.
    """

    latent_channels: int
    latent_side: int
    image_side: int
    context_width: int
    context_length: int
    words: int


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _UNet(_Config):
    sample_size: Annotated[int, Field(ge=1, le=4096)]
    in_channels: _Width = 4
    out_channels: _Width = 4
    down_block_types: _Blocks[Literal["CrossAttnDownBlock2D", "DownBlock2D"]] = [
        *["CrossAttnDownBlock2D"] * 3,
        "DownBlock2D",
    ]
    mid_block_type: Literal["UNetMidBlock2DCrossAttn"] | None = "UNetMidBlock2DCrossAttn"
    up_block_types: _Blocks[Literal["CrossAttnUpBlock2D", "UpBlock2D"]] = [
        "UpBlock2D",
        *["CrossAttnUpBlock2D"] * 3,
    ]
    block_out_channels: _Blocks[_Width] = [320, 640, 1280, 1280]
    layers_per_block: _Count | _Blocks[_Count] = 2
    transformer_layers_per_block: _Count | _Blocks[_Count] = 1
    attention_head_dim: _Count | _Blocks[_Count] = 8
    num_attention_heads: _Count | _Blocks[_Count] | None = None
    cross_attention_dim: _Width = 1280
    norm_num_groups: _Width = 32
    norm_eps: _Share = 1e-5
    dropout: _Share = 0.0
    conv_in_kernel: _Count = 3
    act_fn: _Activation = "silu"
    flip_sin_to_cos: bool = True
    freq_shift: Annotated[float, Field(ge=-1000, le=1000)] = 0
    use_linear_projection: bool = False


class _Vae(_Config):
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


class _Text(_Config):
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


class _Scheduler(_Config):
    num_train_timesteps: Annotated[int, Field(ge=1, le=10_000)] = 1000
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 0.0001
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    beta_schedule: str = "linear"
    prediction_type: str = "epsilon"
    trained_betas: list[Annotated[float, Field(gt=0, lt=1)]] | None = None


def check_index(index: Mapping[str, Any], parts: Sequence[str], path: Path) -> dict[str, str]:
    """The class of each part, of those that are known.

    Raises:
        UsageError: another pipeline, another class, or a part that a Stable Diffusion has not.
    """
    name = index.get("_class_name")
    if name != _PIPELINE:
        raise UsageError(
            f"{path}: _class_name: expected {_PIPELINE} (Stable Diffusion 1.x or 2.x), got {shown(name)}"
        )
    classes = {}
    for part, pair in index.items():
        if part.startswith("_") or part == "requires_safety_checker" or pair == [None, None]:
            continue
        if part not in _CLASSES:
            raise UsageError(f"{path}: {shown(part)}: no part of a {_PIPELINE}")
        match pair:
            case [str(library), str(kind)] if (library, kind) in _CLASSES[part]:
                classes[part] = kind
            case _:
                known = sorted(_CLASSES[part])
                expected = ", ".join(f"[{library}, {kind}]" for library, kind in known)
                raise UsageError(f"{path}: {part}: expected {expected}, got {shown(pair)}")
    if missing := [part for part in parts if part not in classes]:
        raise UsageError(
            f"{path.parent} lacks {', '.join(missing)}; expected a Stable Diffusion pipeline"
        )
    return {part: classes[part] for part in parts}


def check_scheduler(folder: Path) -> str:
    """The prediction type of a base, which this suite can use.

    Raises:
        UsageError: another prediction type, or a noise schedule that is none.
    """
    path = folder / "scheduler_config.json"
    config = _validated(_Scheduler, read_object(path), path)
    if config.prediction_type != "epsilon":
        raise UsageError(
            f"{path}: prediction_type: expected epsilon, got {shown(config.prediction_type)}; "
            "a base that predicts anything but noise is not supported yet"
        )
    betas = config.trained_betas
    if betas is not None and len(betas) != config.num_train_timesteps:
        raise UsageError(
            f"{path}: trained_betas: expected {config.num_train_timesteps} numbers, got {len(betas)}"
        )
    return config.prediction_type


def check_sizes(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]]) -> Sizes:
    """The sizes of a base whose networks fit each other, and whose files fit their configurations.

    Args:
        folder: The base's.
        tensors: Of each network, by name.

    Raises:
        UsageError: one does not, or the UNet asks for inputs that this suite does not give.
    """
    paths = {part: folder / part / "config.json" for part in ("unet", "vae", "text_encoder")}
    raw = {part: read_object(path) for part, path in paths.items()}
    _check_kind(raw["unet"], "UNet2DConditionModel", paths["unet"])
    _check_kind(raw["vae"], "AutoencoderKL", paths["vae"])
    for part, config in raw.items():
        if config.get("quantization_config") is not None:
            raise UsageError(f"{paths[part]}: quantization_config: quantised weights are not read")
    _check_conditions(raw["unet"], paths["unet"])
    unet = _validated(_UNet, raw["unet"], paths["unet"])
    vae = _validated(_Vae, raw["vae"], paths["vae"])
    text = _validated(_Text, raw["text_encoder"], paths["text_encoder"])
    if (model := raw["text_encoder"].get("model_type", "clip_text_model")) != "clip_text_model":
        raise UsageError(
            f"{paths['text_encoder']}: model_type: expected clip_text_model, got {shown(model)}"
        )
    for key in ("in_channels", "out_channels"):
        if (count := getattr(unet, key)) != vae.latent_channels:
            why = f" (a UNet for {_CHANNELS[count]})" if count in _CHANNELS else ""
            raise UsageError(
                f"{paths['unet']}: {key}: expected the VAE's {vae.latent_channels}, got {count}{why}"
            )
    if unet.cross_attention_dim != text.hidden_size:
        raise UsageError(
            f"{paths['unet']}: cross_attention_dim: expected the width of the text encoder's states, "
            f"{text.hidden_size}, got {unet.cross_attention_dim}"
        )
    _check_text(text, tensors["text_encoder"], paths["text_encoder"])
    _check_unet(unet, tensors["unet"], paths["unet"])
    _check_vae(vae, tensors["vae"], paths["vae"])
    side = _side(unet.sample_size, raw["unet"])
    return Sizes(
        latent_channels=vae.latent_channels,
        latent_side=side,
        image_side=side * 2 ** (len(vae.block_out_channels) - 1),
        context_width=text.hidden_size,
        context_length=text.max_position_embeddings,
        words=text.vocab_size,
    )


def check_tokenizer(folder: Path, sizes: Sizes) -> None:
    """Refuses a tokenizer that is not complete, or that has more words than the text encoder.

    Raises:
        UsageError: in one line.
    """
    names = ("tokenizer.json", "vocab.json")
    whole, words = (folder / name for name in names)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (folder / name).exists():
            read_object(folder / name)
    ids: list[Any] = []
    if whole.exists():
        data = read_object(whole)
        model, added = data.get("model"), data.get("added_tokens", [])
        if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
            raise UsageError(f"{whole}: model.vocab: expected the number of each token, got none")
        if not isinstance(added, list) or not all(isinstance(one, dict) for one in added):
            raise UsageError(f"{whole}: added_tokens: expected a list of objects")
        ids = [*model["vocab"].values(), *(one.get("id") for one in added)]
    if words.exists():
        ids += read_object(words).values()
    if not whole.exists() and not (words.exists() and (folder / "merges.txt").exists()):
        raise UsageError(
            f"{folder} is incomplete: expected {whole.name}, or vocab.json and merges.txt"
        )
    if odd := [one for one in ids if type(one) is not int or not 0 <= one < sizes.words]:
        raise UsageError(
            f"{folder}: expected token numbers below {sizes.words}, the rows of the text encoder's "
            f"table, got {shown(odd[0])}"
        )


# -- helpers -----------------------------------------------------------------------------------

_Model = TypeVar("_Model", bound=_Config)


def _validated(kind: type[_Model], data: Mapping[str, Any], path: Path) -> _Model:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{path}: {from_pydantic(error, kind)}") from error


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


def _check_text(text: _Text, tensors: Mapping[str, Tensor], path: Path) -> None:
    if text.hidden_size % text.num_attention_heads:
        raise UsageError(
            f"{path}: hidden_size: expected a multiple of the {text.num_attention_heads} heads, "
            f"got {text.hidden_size}"
        )
    width = text.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.token_embedding.weight": (text.vocab_size, width),
        "embeddings.position_embedding.weight": (text.max_position_embeddings, width),
        "final_layer_norm.weight": (width,),
        "final_layer_norm.bias": (width,),
    }
    inner = text.intermediate_size
    for layer in range(text.num_hidden_layers):
        prefix = f"encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{prefix}.self_attn.{name}.weight"] = (width, width)
            shapes[f"{prefix}.self_attn.{name}.bias"] = (width,)
        for name in ("layer_norm1", "layer_norm2"):
            shapes[f"{prefix}.{name}.weight"] = shapes[f"{prefix}.{name}.bias"] = (width,)
        shapes[f"{prefix}.mlp.fc1.weight"], shapes[f"{prefix}.mlp.fc1.bias"] = (
            (inner, width),
            (inner,),
        )
        shapes[f"{prefix}.mlp.fc2.weight"], shapes[f"{prefix}.mlp.fc2.bias"] = (
            (width, inner),
            (width,),
        )
    # transformers 4 wrote every name below text_model.
    plain = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    _check_shapes(shapes, plain, path)


def _check_unet(unet: _UNet, tensors: Mapping[str, Tensor], path: Path) -> None:
    widths = unet.block_out_channels
    _check_lengths(
        len(widths),
        path,
        {
            "down_block_types": unet.down_block_types,
            "up_block_types": unet.up_block_types,
            "layers_per_block": unet.layers_per_block,
            "transformer_layers_per_block": unet.transformer_layers_per_block,
            "attention_head_dim": unet.attention_head_dim,
            "num_attention_heads": unet.num_attention_heads,
        },
    )
    _check_groups(widths, unet.norm_num_groups, path)
    names = unet_tensors(
        unet.down_block_types, unet.up_block_types, unet.mid_block_type, unet.layers_per_block,
        unet.transformer_layers_per_block,
    )  # fmt: skip
    _check_names(names, tensors, path)
    kernel = (unet.conv_in_kernel, unet.conv_in_kernel)
    shapes: dict[str, tuple[int, ...]] = {
        "conv_in.weight": (widths[0], unet.in_channels, *kernel),
        "time_embedding.linear_1.weight": (4 * widths[0], widths[0]),
    }
    for block, width in enumerate(widths):
        before = widths[max(0, block - 1)]
        shapes[f"down_blocks.{block}.resnets.0.conv1.weight"] = (width, before, 3, 3)
    _check_shapes(shapes, tensors, path)


def _check_vae(vae: _Vae, tensors: Mapping[str, Tensor], path: Path) -> None:
    widths = vae.block_out_channels
    kinds = {"down_block_types": vae.down_block_types, "up_block_types": vae.up_block_types}
    _check_lengths(len(widths), path, kinds)
    _check_groups(widths, vae.norm_num_groups, path)
    _check_names(vae_tensors(len(widths), vae.layers_per_block), tensors, path)
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.conv_in.weight": (widths[0], vae.in_channels, 3, 3),
        "decoder.conv_in.weight": (widths[-1], vae.latent_channels, 3, 3),
        "decoder.conv_out.weight": (vae.out_channels, widths[0], 3, 3),
    }
    for block, width in enumerate(widths):
        before = widths[max(0, block - 1)]
        shapes[f"encoder.down_blocks.{block}.resnets.0.conv1.weight"] = (width, before, 3, 3)
    _check_shapes(shapes, tensors, path)


def _check_lengths(blocks: int, path: Path, fields: Mapping[str, Any]) -> None:
    for key, value in fields.items():
        if isinstance(value, list) and len(value) != blocks:
            raise UsageError(
                f"{path}: {key}: expected {blocks} items, as block_out_channels has, got {len(value)}"
            )


def _check_groups(widths: Sequence[int], groups: int, path: Path) -> None:
    if odd := [width for width in widths if width % groups]:
        raise UsageError(
            f"{path}: norm_num_groups: expected a divisor of {odd[0]} in block_out_channels, got {groups}"
        )


def _check_names(names: Iterable[str], tensors: Mapping[str, Tensor], path: Path) -> None:
    for name in names:  # it ends at the first, however many layers the file asks for
        if name not in tensors:
            raise UsageError(f"{path.parent}: the weights lack {name}, which {path.name} asks for")


def _check_shapes(
    shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], path: Path
) -> None:
    _check_names(shapes, tensors, path)
    for name, shape in shapes.items():
        if (found := tensors[name].shape) != shape:
            raise UsageError(
                f"{path.parent}: {name} has the shape {found}, and {path.name} asks for {shape}"
            )


def _side(sample_size: int, config: Mapping[str, Any]) -> int:
    """The latent's side that diffusers gives: it takes files before version 0.9 to be wrong below 64."""
    version = re.match(r"0\.(\d+)\.", str(config.get("_diffusers_version", "")))
    old = version is not None and int(version[1]) < 9
    return max(64, sample_size) if old else sample_size
