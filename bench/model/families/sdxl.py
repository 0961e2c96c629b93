"""Stable Diffusion XL: two CLIP text encoders, a UNet that is told a pooled vector and sizes too, a VAE.

Text states are the penultimate ones of both encoders, side by side. The pooled vector is the second
encoder's, projected. Both encoders read the same tokens, but their tokenizers pad with different
ones. The base was trained with zeros in place of the text, so no prompt at all is zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
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

__all__ = ["StableDiffusionXL"]


@dataclass(frozen=True, eq=False)
class StableDiffusionXL(LatentUNet):
    """A base of SDXL's classes, as diffusers names them.

    Token ids are the first tokenizer's. Input embeddings are those of both tables side by side, so
    whatever moves a token moves it in both encoders.

    Attributes:
        tokenizer_2: Pads for the second text encoder.
        text_encoder_2: Gives the other half of the text states, and the pooled vector.
    """

    pipeline: ClassVar[str] = "StableDiffusionXLPipeline"
    about: ClassVar[str] = "Stable Diffusion XL"
    classes: ClassVar[Mapping[str, frozenset[tuple[str, str]]]] = {
        "tokenizer": TOKENIZERS,
        "tokenizer_2": TOKENIZERS,
        "text_encoder": frozenset({("transformers", "CLIPTextModel")}),
        "text_encoder_2": frozenset({("transformers", "CLIPTextModelWithProjection")}),
        "unet": frozenset({("diffusers", "UNet2DConditionModel")}),
        "vae": frozenset({("diffusers", "AutoencoderKL")}),
        "scheduler": SCHEDULERS,
    }
    unused: ClassVar[Mapping[str, frozenset[tuple[str, str]]]] = {
        "feature_extractor": frozenset({("transformers", "CLIPImageProcessor")}),
        "image_encoder": frozenset({("transformers", "CLIPVisionModelWithProjection")}),
    }
    options: ClassVar[Mapping[str, object]] = {"force_zeros_for_empty_prompt": True}
    tokenizers: ClassVar[tuple[str, ...]] = ("tokenizer", "tokenizer_2")
    stems: ClassVar[Mapping[str, str]] = {
        "text_encoder": "model",
        "text_encoder_2": "model",
        "unet": "diffusion_pytorch_model",
        "vae": "diffusion_pytorch_model",
    }
    edited: ClassVar[tuple[str, ...]] = ("unet", "text_encoder", "text_encoder_2")
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2")
    tokenizer_2: Any = None
    text_encoder_2: Any = None

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
        """See the base class. A VAE that overflows in half precision, as SDXL's own, is kept in float32."""
        import diffusers
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        kinds = {
            "unet": diffusers.UNet2DConditionModel,
            "vae": diffusers.AutoencoderKL,
            "text_encoder": CLIPTextModel,
            "text_encoder_2": CLIPTextModelWithProjection,
        }
        scheduler = getattr(diffusers, classes["scheduler"])
        pipe = diffusers.StableDiffusionXLPipeline(
            **{
                part: load_network(kind, folder / part, variants[part], getattr(torch, dtype))
                for part, kind in kinds.items()
            },
            **{
                part: CLIPTokenizer.from_pretrained(folder / part, local_files_only=True)
                for part in cls.tokenizers
            },
            scheduler=scheduler.from_pretrained(folder / "scheduler", local_files_only=True),
            add_watermarker=False,
        )
        if dtype == "float16" and pipe.vae.config.force_upcast:
            pipe.vae.float()
        return cls(
            tokenizer=pipe.tokenizer,
            text_encoder=pipe.text_encoder,
            unet=pipe.unet,
            vae=pipe.vae,
            scheduler_config=dict(pipe.scheduler.config),
            digest=digest,
            folder=home,
            tokenizer_2=pipe.tokenizer_2,
            text_encoder_2=pipe.text_encoder_2,
        )

    # -- text --------------------------------------------------------------------------------------

    @cached_property
    def embeddings(self) -> str:
        """See the base class: the first encoder's, whose ids are the model's."""
        return self.table_of("text_encoder")

    @cached_property
    def tables(self) -> tuple[str, str]:
        """The parameters that hold input embeddings, of each encoder."""
        return self.embeddings, self.table_of("text_encoder_2")

    def embed(self, parameter: Callable[[str], Tensor], ids_BL: Tensor) -> Tensor:
        """See the base class: of both tables, side by side."""
        ids = (ids_BL, self._for_the_second(ids_BL))
        look_up = torch.nn.functional.embedding
        parts = [look_up(i, parameter(table)) for i, table in zip(ids, self.tables, strict=True)]
        return torch.cat(parts, -1)

    def encode_ids(self, call: Call, ids_BL: Tensor, embeds_BLE: Tensor | None) -> Conditioning:
        """See the base class; each encoder finds the end of the text by its own ids."""
        ids = (ids_BL, self._for_the_second(ids_BL))
        widths = [
            network.config.hidden_size for network in (self.text_encoder, self.text_encoder_2)
        ]
        embeds = (None, None) if embeds_BLE is None else embeds_BLE.split(widths, -1)
        outs = []
        with ExitStack() as replaced:
            for part, own, given in zip(self.encoders, ids, embeds, strict=True):
                replaced.enter_context(embeddings_replaced(self.network(part), given))
                outs.append(call(part, input_ids=own, output_hidden_states=True))
        states = torch.cat([out.hidden_states[-2] for out in outs], -1)
        return Conditioning(states, pooled_BD=outs[-1].text_embeds, ids=ids)

    def of_no_prompt(self, told: Conditioning) -> Conditioning:
        """See the base class: zeros, whose token ids are still those of the empty prompt."""
        pooled = None if told.pooled_BD is None else torch.zeros_like(told.pooled_BD)
        return replace(told, states_BLD=torch.zeros_like(told.states_BLD), pooled_BD=pooled)

    def _for_the_second(self, ids_BL: Tensor) -> Tensor:
        """The ids with the second tokenizer's padding behind the end of each text; other rows of tokens as they are."""
        start, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        ended = (ids_BL == end).cumsum(1) - (ids_BL == end).long() > 0  # behind the first end
        padding = ended & (ids_BL[:, :1] == start)
        return ids_BL.masked_fill(padding, self.tokenizer_2.pad_token_id)

    # -- images ------------------------------------------------------------------------------------

    def denoise(
        self, call: Call, latents_BChw: Tensor, t_B: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """See the base class.

        ``time_ids`` [B, 6] are the original size, the corner of the crop and the target size;
        height first. Where the conditioning has none, images are said to be whole and of the size
        that is sampled.

        Raises:
            ValueError: the conditioning has no pooled vectors.
        """
        if conditioning.pooled_BD is None:
            raise ValueError(
                "expected a conditioning with pooled vectors, which this base needs beside text states, "
                "got none; encode a prompt, or keep Conditioning.pooled_BD of what was encoded"
            )
        sizes = conditioning.added.get("time_ids")
        if sizes is None:
            height, width = (side * self.latent_scale for side in latents_BChw.shape[-2:])
            whole = [height, width, 0, 0, height, width]
            sizes = conditioning.states_BLD.new_tensor(whole).expand(len(latents_BChw), 6)
        out: Tensor = call(
            "unet",
            latents_BChw,
            t_B,
            encoder_hidden_states=conditioning.states_BLD,
            added_cond_kwargs={"text_embeds": conditioning.pooled_BD, "time_ids": sizes},
        )[0]
        return out

    def decode(self, latents_BChw: Tensor) -> Tensor:
        """See the base class."""
        return super().decode(latents_BChw.to(self.vae.dtype))

    def to_latents(self, pixels_B3HW: Tensor) -> Tensor:
        """See the base class; in the denoiser's precision."""
        return super().to_latents(pixels_B3HW.to(self.vae.dtype)).to(self.dtype)

    def to_diffusers(self, weights: Mapping[str, Tensor]) -> Any:
        """A ``StableDiffusionXLPipeline`` with replaced values: a copy, free to change or save."""
        from diffusers import DDIMScheduler, StableDiffusionXLPipeline

        return StableDiffusionXLPipeline(
            **self.copies(weights),
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer_2,
            scheduler=DDIMScheduler.from_config(self.scheduler_config),
            add_watermarker=False,
        )
