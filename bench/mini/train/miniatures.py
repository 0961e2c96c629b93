"""The miniatures: one per family of bases, each with the classes and the kind of configuration of its family.

They share the world, the tokens, the judge, the autoencoder and the CLIP. What differs is what reads
a prompt, the denoiser, and what it predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from diffusers import UNet2DConditionModel

__all__ = ["BY_NAME", "Miniature"]

_PADDING: Final = "!"
"""What OpenCLIP's tokenizers pad with: the token 0."""
_SIZE_WIDTH: Final = 16


@dataclass(frozen=True, slots=True)
class Miniature:
    """A miniature.

    Attributes:
        name: As ``base`` names it.
        new_unet: (width of text states, width of the pooled vector or 0) -> an untrained UNet.
        scheduler: Class and options of the saved scheduler.
        paddings: The token that each tokenizer pads with; ``None`` for the end of the text.
        left_out: Last layers of CLIP's text tower that its first text encoder does without.
    """

    name: str
    new_unet: Callable[[int, int], Any]
    scheduler: tuple[str, Mapping[str, Any]]
    paddings: tuple[str | None, ...] = (None,)
    left_out: int = 0

    @property
    def is_xl(self) -> bool:
        """Whether it has a second text encoder."""
        return len(self.paddings) > 1


_NOISE: Final[Mapping[str, Any]] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "steps_offset": 1,
}
"""The noise schedule of every Stable Diffusion up to XL."""
_DDIM: Final[Mapping[str, Any]] = {**_NOISE, "clip_sample": False, "set_alpha_to_one": False}
_COMMON: Final[Mapping[str, Any]] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 16,
}
_WIDTHS: Final[Mapping[str, Any]] = {
    "block_out_channels": (32, 96, 160),
    "attention_head_dim": (2, 4, 5),  # heads per block: diffusers' name is an old mistake
}
_LOOKS: Final = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")


def _up(down: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(block.replace("Down", "Up") for block in reversed(down))


def _first(text_width: int, pooled: int) -> Any:
    return UNet2DConditionModel(
        **_COMMON, **_WIDTHS, down_block_types=_LOOKS, up_block_types=_up(_LOOKS), cross_attention_dim=text_width
    )  # fmt: skip


def _second(text_width: int, pooled: int) -> Any:
    return UNet2DConditionModel(
        **_COMMON, **_WIDTHS, down_block_types=_LOOKS, up_block_types=_up(_LOOKS),
        cross_attention_dim=text_width, use_linear_projection=True, upcast_attention=True,
    )  # fmt: skip


def _xl(text_width: int, pooled: int) -> Any:
    down = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
    return UNet2DConditionModel(
        **_COMMON, block_out_channels=(32, 80, 128), attention_head_dim=(2, 4, 4),  # the folder stays below 20 MB
        down_block_types=down, up_block_types=_up(down), cross_attention_dim=text_width,
        transformer_layers_per_block=(1, 1, 2), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=_SIZE_WIDTH,
        projection_class_embeddings_input_dim=pooled + 6 * _SIZE_WIDTH,
    )  # fmt: skip


BY_NAME: Final[Mapping[str, Miniature]] = {
    one.name: one
    for one in (
        Miniature("miniature", _first, ("DDIMScheduler", _DDIM)),
        Miniature(
            "miniature-v",
            _second,
            ("DDIMScheduler", {**_DDIM, "prediction_type": "v_prediction"}),
            paddings=(_PADDING,),
            left_out=1,  # 2.x reads the penultimate states, and its folders hold no layer behind them
        ),
        Miniature(
            "miniature-xl", _xl, ("EulerDiscreteScheduler", _NOISE), paddings=(None, _PADDING)
        ),
    )
}
"""By name; the first is the one that was trained first, and whose parts the others share."""
