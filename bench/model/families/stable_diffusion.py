"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet with cross-attention, a VAE of four or more channels.

2.x has the text encoder of OpenCLIP. Its folders hold it without its last layer, so the last states
are the penultimate ones of the whole encoder. Its tokenizer pads with the token 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from bench.core.lazy import torch
from bench.model.conditioning import Conditioning
from bench.model.families.family import Call, Dtype
from bench.model.families.latent_unet import (
    SCHEDULERS,
    TOKENIZERS,
    LatentUNet,
    embeddings_replaced,
    load_network,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["StableDiffusion"]


class StableDiffusion(LatentUNet):
    """A base of Stable Diffusion's classes, as diffusers names them."""

    pipeline: ClassVar[str] = "StableDiffusionPipeline"
    about: ClassVar[str] = "Stable Diffusion 1.x or 2.x"
    classes: ClassVar[Mapping[str, frozenset[tuple[str, str]]]] = {
        "tokenizer": TOKENIZERS,
        "text_encoder": frozenset({("transformers", "CLIPTextModel")}),
        "unet": frozenset({("diffusers", "UNet2DConditionModel")}),
        "vae": frozenset({("diffusers", "AutoencoderKL")}),
        "scheduler": SCHEDULERS,
    }
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
    edited: ClassVar[tuple[str, ...]] = ("unet", "text_encoder")

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
                part: load_network(kind, folder / part, variants[part], getattr(torch, dtype))
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

    # -- text --------------------------------------------------------------------------------------

    @cached_property
    def embeddings(self) -> str:
        """See the base class."""
        return self.table_of("text_encoder")

    def encode_ids(self, call: Call, ids_BL: Tensor, embeds_BLE: Tensor | None) -> Conditioning:
        """See the base class; the encoder still finds the end of the text by the ids."""
        with embeddings_replaced(self.text_encoder, embeds_BLE):
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

    def to_diffusers(self, weights: Mapping[str, Tensor]) -> Any:
        """A ``StableDiffusionPipeline`` with replaced values: a copy, free to change or save."""
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        return StableDiffusionPipeline(
            **self.copies(weights),
            tokenizer=self.tokenizer,
            scheduler=DDIMScheduler.from_config(self.scheduler_config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
