"""Stable Diffusion 1.x: one CLIP text encoder, a UNet with cross-attention, a VAE of four or more channels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from bench.core.errors import UsageError, in_one_line, shown
from bench.core.lazy import torch
from bench.model.conditioning import Conditioning
from bench.model.families.family import Call, Dtype, Family
from bench.model.families.roles import Role

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["StableDiffusion"]

_TEXT_LAYER: Final = re.compile(r"text_encoder\.(?:.*\.)?layers\.(\d+)\.")


class StableDiffusion(Family):
    """A base of Stable Diffusion's classes, as diffusers names them."""

    pipeline: ClassVar[str] = "StableDiffusionPipeline"
    about: ClassVar[str] = "Stable Diffusion 1.x or 2.x"
    classes: ClassVar[Mapping[str, frozenset[tuple[str, str]]]] = {
        "tokenizer": frozenset(
            {("transformers", "CLIPTokenizer"), ("transformers", "CLIPTokenizerFast")}
        ),
        "text_encoder": frozenset({("transformers", "CLIPTextModel")}),
        "unet": frozenset({("diffusers", "UNet2DConditionModel")}),
        "vae": frozenset({("diffusers", "AutoencoderKL")}),
        "scheduler": frozenset(
            ("diffusers", f"{name}Scheduler")
            for name in (
                "DDIM", "DDPM", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep",
                "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete",
                "KDPM2Discrete", "LMSDiscrete", "PNDM", "UniPCMultistep",
            )
        ),
    }  # fmt: skip
    unused: ClassVar[Mapping[str, frozenset[tuple[str, str]]]] = {
        "safety_checker": frozenset({("stable_diffusion", "StableDiffusionSafetyChecker")}),
        "feature_extractor": frozenset(
            ("transformers", f"CLIP{kind}")
            for kind in (
                "FeatureExtractor", "ImageProcessor", "ImageProcessorFast", "ImageProcessorPil",
            )
        ),
        "image_encoder": frozenset({("transformers", "CLIPVisionModelWithProjection")}),
    }  # fmt: skip
    stems: ClassVar[Mapping[str, str]] = {
        "text_encoder": "model",
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
    }
    denoiser: ClassVar[str] = "unet"
    edited: ClassVar[tuple[str, ...]] = ("unet", "text_encoder")
    roles: ClassVar[frozenset[Role]] = frozenset(Role)

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        classes: Mapping[str, str],
        variants: Mapping[str, str | None],
        dtype: Dtype,
        digest: str,
        home: Path,
    ) -> Self:
        """See the base class. Each part is of a class that the inspection allowed; nothing in the folder names one."""
        import diffusers
        from transformers import CLIPTextModel, CLIPTokenizer

        kinds = {
            "unet": diffusers.UNet2DConditionModel,
            "vae": diffusers.AutoencoderKL,
            "text_encoder": CLIPTextModel,
        }
        scheduler = getattr(diffusers, classes["scheduler"])
        # The pipeline mends what old configurations say.
        pipe = diffusers.StableDiffusionPipeline(
            **{
                part: _network(kind, folder / part, variants[part], getattr(torch, dtype))
                for part, kind in kinds.items()
            },
            tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
            scheduler=scheduler.from_pretrained(folder / "scheduler", local_files_only=True),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        return cls(
            tokenizer=pipe.tokenizer,
            text_encoder=pipe.text_encoder,
            unet=pipe.unet,
            vae=pipe.vae,
            scheduler_config=dict(pipe.scheduler.config),
            digest=digest,
            folder=home,
        )

    def settle(self, device: str) -> None:
        """See the base class."""
        from bench.model.on_cpu import suit_cpu

        for module in (self.unet, self.vae):
            module.to(device=device, memory_format=torch.channels_last)
        self.text_encoder.to(device)
        suit_cpu(self.unet, self.vae, self.text_encoder)

    @classmethod
    def roles_of(cls, parameter: str) -> frozenset[Role]:
        """See the base class."""
        part, _, name = parameter.partition(".")
        match part:
            case "unet":
                return frozenset(_roles_in_unet(name))
            case "text_encoder":
                return frozenset(_roles_in_text_encoder(name))
            case _:
                return frozenset()

    @classmethod
    def text_layer(cls, parameter: str) -> int:
        """See the base class."""
        found = _TEXT_LAYER.match(parameter)
        return int(found[1]) if found else -1

    # -- text --------------------------------------------------------------------------------------

    @property
    def length(self) -> int:
        """See the base class."""
        return int(self.text_encoder.config.max_position_embeddings)

    @cached_property
    def embeddings(self) -> str:
        """See the base class."""
        table = self.text_encoder.get_input_embeddings().weight
        names = (n for n, w in self.text_encoder.named_parameters() if w is table)
        return f"text_encoder.{next(names)}"

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """See the base class."""
        words = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        ids: Tensor = words["input_ids"]
        return ids.to(self.device)

    def encode_ids(self, call: Call, ids_BL: Tensor, embeds_BLE: Tensor | None) -> Conditioning:
        """See the base class; the encoder still finds the end of the text by the ids."""
        with _embeddings_replaced(self.text_encoder, embeds_BLE):
            states: Tensor = call("text_encoder", input_ids=ids_BL)[0]
        return Conditioning(states, ids=(ids_BL,))

    # -- images ------------------------------------------------------------------------------------

    def denoise(
        self, call: Call, latents_BChw: Tensor, t_B: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """See the base class; its UNet is told the text states and nothing else."""
        states_BLD = conditioning.states_BLD
        out: Tensor = call("unet", latents_BChw, t_B, encoder_hidden_states=states_BLD)[0]
        return out

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """See the base class."""
        side = int(self.unet.config.sample_size)
        return int(self.unet.config.in_channels), side, side

    @property
    def latent_scale(self) -> int:
        """See the base class."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def decode(self, latents_BChw: Tensor) -> Tensor:
        """See the base class."""
        config = self.vae.config
        shift = getattr(config, "shift_factor", None) or 0.0
        image: Tensor = self.vae.decode(latents_BChw / config.scaling_factor + shift)[0]
        return image

    def to_latents(self, pixels_B3HW: Tensor) -> Tensor:
        """See the base class."""
        config = self.vae.config
        shift = getattr(config, "shift_factor", None) or 0.0
        mean: Tensor = self.vae.encode(pixels_B3HW).latent_dist.mean
        return (mean - shift) * config.scaling_factor

    def to_diffusers(self, weights: Mapping[str, Tensor]) -> Any:
        """A ``StableDiffusionPipeline`` with replaced values: a copy, free to change or save."""
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        from bench.model.on_cpu import unsuit

        parts = {name: deepcopy(getattr(self, name)) for name in self.stems}
        unsuit(**parts)
        with torch.no_grad():
            for name, value in weights.items():
                part, _, rest = name.partition(".")
                parts[part].get_parameter(rest).copy_(value)
        return StableDiffusionPipeline(
            **parts,
            tokenizer=self.tokenizer,
            scheduler=DDIMScheduler.from_config(self.scheduler_config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def _roles_in_unet(name: str) -> Iterator[Role]:
    yield Role.DENOISER
    *_, layer, kind = name.split(".")
    if "norm" in layer:
        yield Role.NORM
    elif layer.startswith("conv"):  # conv_in, conv1, conv_shortcut, a sampler's conv
        yield Role.CONVOLUTION
    if ".attn1." in name:
        yield Role.SELF_ATTENTION
    if ".attn2." in name:
        yield Role.CROSS_ATTENTION
        if layer in ("to_k", "to_v") and kind == "weight":
            yield Role.TEXT_KEYS_AND_VALUES
    if ".ff." in name:
        yield Role.FEED_FORWARD
        if name.endswith(".ff.net.2.weight"):
            yield Role.FEED_FORWARD_OUT
    if name.startswith("time_embedding."):
        yield Role.TIME_EMBEDDING
    if name.startswith(("conv_norm_out.", "conv_out.")):
        yield Role.OUTPUT


def _roles_in_text_encoder(name: str) -> Iterator[Role]:
    yield Role.TEXT_ENCODER
    if ".self_attn." in name:
        yield Role.TEXT_SELF_ATTENTION
    if ".mlp." in name:
        yield Role.TEXT_FEED_FORWARD


@contextmanager
def _embeddings_replaced(encoder: Any, embeds_BLE: Tensor | None) -> Iterator[None]:
    """Makes the encoder's embedding table return ``embeds_BLE``: no version of transformers takes them directly."""
    if embeds_BLE is None:
        yield
        return
    handle = encoder.get_input_embeddings().register_forward_hook(
        lambda module, args, out: embeds_BLE
    )
    try:
        yield
    finally:
        handle.remove()


def _network(kind: Any, folder: Path, variant: str | None, dtype: torch.dtype) -> Any:
    network, told = kind.from_pretrained(
        folder,
        dtype=dtype,
        variant=variant,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    # The libraries fill in random numbers where the files have none.
    for wrong, reason in (("missing_keys", "lack"), ("mismatched_keys", "have another shape of")):
        if names := sorted(map(str, told.get(wrong) or ())):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UsageError(f"{folder}: the weights {reason} {shown(names[0])}{more}")
    if told.get("error_msgs"):
        raise UsageError(f"{folder}: {in_one_line(ValueError(told['error_msgs'][0]))}")
    return network
