"""The common part of families whose denoiser is a UNet on the latents of an ``AutoencoderKL``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from bench.core.errors import UsageError, in_one_line, shown
from bench.core.lazy import torch
from bench.model.families.family import Family
from bench.model.families.roles import Role

if TYPE_CHECKING:
    from torch import Tensor

    from bench.model.kernels.choice import Kernels

__all__ = ["SCHEDULERS", "TOKENIZERS", "LatentUNet", "embeddings_replaced", "load_network"]

TOKENIZERS: Final = frozenset(
    {("transformers", "CLIPTokenizer"), ("transformers", "CLIPTokenizerFast")}
)
SCHEDULERS: Final = frozenset(
    ("diffusers", f"{name}Scheduler")
    for name in (
        "DDIM", "DDPM", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep",
        "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete",
        "KDPM2Discrete", "LMSDiscrete", "PNDM", "UniPCMultistep",
    )
)  # fmt: skip
_TEXT_LAYER: Final = re.compile(r"text_encoder(?:_2)?\.(?:.*\.)?layers\.(\d+)\.")


class LatentUNet(Family):
    """A family of CLIP text encoders, a UNet with cross-attention and a VAE, as diffusers names them."""

    denoiser: ClassVar[str] = "unet"
    roles: ClassVar[frozenset[Role]] = frozenset(Role)

    def settle(self, device: str) -> None:
        """See the base class.

        Channels come last on a CPU. On a GPU they come first until :meth:`use` is told otherwise.
        On an H100 a gradient step reached 28.5 % of the peak so, and 26.5 % with channels last. A
        forward pass reached 33 and 30 % (SD-1.4's size, bfloat16; measured once, November 2026).
        """
        from bench.model.on_cpu import suit_cpu

        on_gpu = torch.device(device).type == "cuda"
        layout = torch.contiguous_format if on_gpu else torch.channels_last
        for module in (self.unet, self.vae):
            module.to(device=device, memory_format=layout)
        texts = [getattr(self, part) for part in self.encoders]
        for text in texts:
            text.to(device)
        suit_cpu(self.unet, self.vae, *texts)

    def use(self, kernels: Kernels) -> None:
        """See the base class."""
        from bench.model.kernels.in_use import use_kernels

        use_kernels(kernels, self.unet, self.vae)

    @property
    def kernels(self) -> Kernels:
        """See the base class."""
        from bench.model.kernels.in_use import kernels_of

        return kernels_of(self.unet)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """See the base class: ids of the tokenizer that plug-ins use first."""
        words = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        )
        ids: Tensor = words["input_ids"]
        return ids.to(self.device)

    @classmethod
    def roles_of(cls, parameter: str) -> frozenset[Role]:
        """See the base class."""
        part, _, name = parameter.partition(".")
        if part == "unet":
            return frozenset(_roles_in_unet(name))
        return frozenset(_roles_in_text_encoder(name) if part in cls.encoders else ())

    @classmethod
    def text_layer(cls, parameter: str) -> int:
        """See the base class."""
        found = _TEXT_LAYER.match(parameter)
        return int(found[1]) if found else -1

    @property
    def length(self) -> int:
        """See the base class."""
        return int(self.text_encoder.config.max_position_embeddings)

    def table_of(self, encoder: str) -> str:
        """The parameter that holds the input embeddings of a text encoder."""
        network = self.network(encoder)
        table = network.get_input_embeddings().weight  # type: ignore[operator]  # of transformers
        names = (n for n, w in network.named_parameters() if w is table)
        return f"{encoder}.{next(names)}"

    # -- images ------------------------------------------------------------------------------------

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

    # -- out ---------------------------------------------------------------------------------------

    def copies(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Copies of the networks by name, with replaced values, computed as their libraries do."""
        from bench.model.kernels.in_use import as_written
        from bench.model.on_cpu import unsuit

        parts = {name: deepcopy(getattr(self, name)) for name in self.stems}
        as_written(parts["unet"], parts["vae"])
        unsuit(parts["unet"], parts["vae"], *(parts[name] for name in self.encoders))
        with torch.no_grad():
            for name, value in weights.items():
                part, _, rest = name.partition(".")
                parts[part].get_parameter(rest).copy_(value)
        return parts


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
            if layer == "to_v":
                yield Role.TEXT_VALUES
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
def embeddings_replaced(encoder: Any, embeds_BLE: Tensor | None) -> Iterator[None]:
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


def load_network(kind: Any, folder: Path, variant: str | None, dtype: torch.dtype) -> Any:
    """A network of a class from a folder.

    Args:
        kind: The class, of diffusers or transformers.
        folder: Holds its configuration and its weights.
        variant: The precision in the file names.
        dtype: What it is loaded in.

    Raises:
        UsageError: the weights are not those that the configuration asks for.
        Exception: whatever the libraries raise over files.
    """
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
