"""A text-to-image model as a value: frozen networks, and the three slots an edit can fill.

``TextToImage`` is immutable. An edit makes a new one that shares the networks; its changed
parameters are laid over the networks at each call, so edited and unedited models can be used side
by side, and through autograd, without a copy.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import safe_open

from bench.core.clock import model_time
from bench.core.digest import digest_of
from bench.core.files import regular
from bench.core.lazy import no_grad, torch
from bench.core.meter import Meter
from bench.core.progress import Progress, silent
from bench.core.rng import normal_rows
from bench.model.batching import MicroBatch
from bench.model.filters import Filter, blanked_by, refused_by
from bench.model.guidance import ClassifierFree, Guidance, combine_as_sampled
from bench.model.sampler import Sampler
from bench.model.schedule import Schedule
from bench.model.slots import Slot
from bench.model.words import Words

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.model.backbone import Backbone

__all__ = ["Samples", "Status", "TextToImage", "load_model"]

Status = Literal["ok", "refused", "blanked", "error"]

_EDIT = "edit.json"
_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Images and what became of each request.

    Attributes:
        images_B3HW: float32 in [0, 1] on the CPU; black where the status is not ``ok``.
        status: One per row; ``error`` where the latents or the image are not finite.
    """

    images_B3HW: Tensor
    status: tuple[Status, ...]

    def all_finite(self) -> Samples:
        """These samples, for a caller that cannot go on without every image.

        Raises:
            FloatingPointError: an image is not finite.
        """
        if lost := self.status.count("error"):
            raise FloatingPointError(
                f"expected finite images, but {lost} of {len(self.status)} hold NaN or infinity; "
                "half precision may overflow: try float32, or a weaker edit"
            )
        return self


@dataclass(frozen=True, eq=False)
class TextToImage:
    """A model with its edits.

    Attributes:
        backbone: The unedited networks, shared.
        weights: ``component.name`` -> the value that replaces the parameter. Values rather than
            differences, because adding a difference back is not exact.
        guidance: How text branches are combined.
        filters: What refuses prompts or blanks images.
        micro: Rows worked on at once; shared by all edits of a backbone; never changes results.
        meter: Counts the images and steps that are spent through it; shared by all that is made of
            the model.
    """

    backbone: Backbone
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    guidance: Guidance = field(default_factory=ClassifierFree)
    filters: tuple[Filter, ...] = ()
    micro: MicroBatch = field(default_factory=lambda: MicroBatch(64), compare=False)
    meter: Meter = field(default_factory=Meter, compare=False, repr=False)

    # -- editing -----------------------------------------------------------------------------------

    def with_weights(self, values: Mapping[str, Tensor]) -> TextToImage:
        """The same model with more parameters replaced.

        Raises:
            ValueError: an unknown name, a wrong shape, or a value that is not finite.
        """
        known = self.backbone.parameters
        fixed = {}
        for name, value in values.items():
            if name not in known:
                raise ValueError(
                    f"no parameter {name!r} in the base model; expected component.name, e.g. unet.conv_in.weight"
                )
            if value.shape != known[name].shape:
                raise ValueError(
                    f"{name}: expected shape {tuple(known[name].shape)}, got {tuple(value.shape)}"
                )
            # A copy: the edit does not follow the caller's tensor. What overflows the base's
            # precision is not finite.
            fixed[name] = value.detach().to(known[name], copy=True)
            if not bool(torch.isfinite(fixed[name]).all()):
                raise ValueError(
                    f"{name}: the edited values are not finite; the edit diverged (lower its strength)"
                )
        return replace(self, weights={**self.weights, **fixed})

    def with_added(self, differences: Mapping[str, Tensor]) -> TextToImage:
        """The same model with differences added to its parameters, in float32.

        Raises:
            ValueError: an unknown name, a wrong shape, or a sum that is not finite.
        """
        known = self.backbone.parameters
        return self.with_weights(
            {
                name: self.parameter(name).float() + change.to(self.backbone.device).float()
                if name in known and change.shape == known[name].shape
                else change
                for name, change in differences.items()
            }
        )

    def with_guidance(self, guidance: Guidance) -> TextToImage:
        """The same model with another guidance."""
        return replace(self, guidance=guidance)

    def with_filters(self, *filters: Filter) -> TextToImage:
        """The same model with more filters."""
        return replace(self, filters=(*self.filters, *filters))

    def with_meter(self, meter: Meter) -> TextToImage:
        """The same model, and all that will be made of it, with another count of what is spent."""
        return replace(self, meter=meter)

    @property
    def slots(self) -> frozenset[Slot]:
        """The slots that are filled."""
        filled: set[Slot] = set()
        if self.weights:
            filled.add("weights")
        if not isinstance(self.guidance, ClassifierFree):
            filled.add("guidance")
        if self.filters:
            filled.add("filters")
        return frozenset(filled)

    def parameter(self, name: str) -> Tensor:
        """The current value of ``component.name``."""
        return self.weights[name] if name in self.weights else self.backbone.parameters[name]

    # -- of the base -------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        """The networks' precision."""
        return self.backbone.dtype

    @property
    def folder(self) -> Path | None:
        """The pipeline folder that the base came from, if it was loaded."""
        return self.backbone.folder

    @property
    def base_digest(self) -> str:
        """sha256 over the files of the base, 64 hexadecimal digits."""
        return self.backbone.digest

    @property
    def base_values(self) -> Mapping[str, Tensor]:
        """The unedited value of every parameter that an edit may replace, by ``component.name``."""
        return self.backbone.parameters

    @property
    def schedule(self) -> Schedule:
        """The noise schedule, and what the network predicts."""
        return self.backbone.schedule

    @property
    def words(self) -> Words:
        """The tokenizer."""
        return self.backbone.words

    @property
    def length(self) -> int:
        """L, the tokens of a prompt, the special ones included."""
        return self.backbone.length

    @property
    def vocabulary(self) -> int:
        """Rows of the table of input embeddings; the tokenizer may know fewer tokens."""
        return int(self.backbone.text_encoder.get_input_embeddings().weight.shape[0])

    def layer(self, name: str) -> nn.Module:
        """The layer ``component.name`` of the networks, to look at what goes in or out.

        Raises:
            AttributeError: there is no such layer.
        """
        part, _, path = name.partition(".")
        module: nn.Module = getattr(self.backbone, part)
        return module.get_submodule(path)

    # -- forward -----------------------------------------------------------------------------------

    def _call(self, part: str, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        prefix = part + "."
        mine = {n.removeprefix(prefix): w for n, w in self.weights.items() if n.startswith(prefix)}
        with model_time():
            return (
                torch.func.functional_call(module, mine, args, kwargs)
                if mine
                else module(*args, **kwargs)
            )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, h, w of a latent at the model's own size."""
        side = int(self.backbone.unet.config.sample_size)
        return int(self.backbone.unet.config.in_channels), side, side

    @property
    def end_of_text(self) -> int:
        """The id of the token that ends a text."""
        return self.words.end

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, int64 [B, L], padded and cut to the model's length."""
        words = self.backbone.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.backbone.length,
            return_tensors="pt",
        )
        ids: Tensor = words["input_ids"]
        return ids.to(self.backbone.device)

    def embed(self, ids_BL: Tensor) -> Tensor:
        """Input embeddings of tokens, [B, L, E]."""
        name = "text_encoder." + self._embedding_name()
        return torch.nn.functional.embedding(ids_BL, self.parameter(name))

    def _embedding_name(self) -> str:
        embedding = self.backbone.text_encoder.get_input_embeddings().weight
        names = (n for n, w in self.backbone.text_encoder.named_parameters() if w is embedding)
        return next(names)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Text states [B, L, D] of prompts."""
        return self.encode_ids(self.tokenize(prompts))

    def encode_ids(self, ids_BL: Tensor, embeds_BLE: Tensor | None = None) -> Tensor:
        """Text states [B, L, D] of token ids.

        Args:
            ids_BL: Token ids; the encoder still finds the end of the text by them.
            embeds_BLE: Used instead of the ids' own input embeddings; gradients flow to it.
        """
        encoder = self.backbone.text_encoder
        with _embeddings_replaced(encoder, embeds_BLE):
            states: Tensor = self._call("text_encoder", encoder, input_ids=ids_BL)[0]
        return states

    def denoise(self, latents_BChw: Tensor, t: Tensor | int, states_BLD: Tensor) -> Tensor:
        """The UNet's prediction [B, C, h, w], without guidance; :attr:`schedule` says of what."""
        steps = torch.as_tensor(t, device=latents_BChw.device).expand(len(latents_BChw))
        out: Tensor = self._call(
            "unet", self.backbone.unet, latents_BChw, steps, encoder_hidden_states=states_BLD
        )[0]
        return out

    def guide(
        self,
        latents_BChw: Tensor,
        t: Tensor | int,
        contexts_KBLD: Tensor,
        scale: float,
        step: int = 0,
        memory: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The guided prediction, all K branches in one UNet call.

        Args:
            latents_BChw: Noisy latents.
            t: Timestep, one for all rows or [B].
            contexts_KBLD: From ``guidance.contexts(model, states)``.
            scale: Guidance scale.
            step: Index of the sampling step.
            memory: What the previous step returned.
        """
        predicted_KBChw = self.branches(latents_BChw, t, contexts_KBLD)
        if self._combines_as_predicted:
            return self.guidance.combine(predicted_KBChw, scale, step, memory)
        noise_KBChw = self._to_noise(predicted_KBChw, latents_BChw, t)
        noise_BChw, memory = self.guidance.combine(noise_KBChw, scale, step, memory)
        return self._from_noise(noise_BChw, latents_BChw, t), memory

    def guide_as_sampled(
        self,
        latents_BChw: Tensor,
        t: Tensor | int,
        contexts_KBLD: Tensor,
        scale: float,
        steps: Sequence[int],
    ) -> Tensor:
        """The guided predictions, each as sampling would have it at a step of its own; for losses.

        Args:
            latents_BChw: Noisy latents.
            t: Timestep, one for all rows or [B].
            contexts_KBLD: From ``guidance.contexts(model, states)``.
            scale: Guidance scale.
            steps: Index of each row's sampling step; see :func:`bench.model.guidance.combine_as_sampled`.
        """
        predicted_KBChw = self.branches(latents_BChw, t, contexts_KBLD)
        if self._combines_as_predicted:
            return combine_as_sampled(self.guidance, predicted_KBChw, scale, steps)
        noise_KBChw = self._to_noise(predicted_KBChw, latents_BChw, t)
        noise_BChw = combine_as_sampled(self.guidance, noise_KBChw, scale, steps)
        return self._from_noise(noise_BChw, latents_BChw, t)

    @property
    def _combines_as_predicted(self) -> bool:
        """Whether the guidance may be handed what the network predicts, whatever that is."""
        return self.schedule.prediction == "epsilon" or self.guidance.affine

    def _to_noise(self, predicted_KBChw: Tensor, latents_BChw: Tensor, t: Tensor | int) -> Tensor:
        """The noise that predictions of all branches mean, float32 or wider."""
        wide = torch.promote_types(predicted_KBChw.dtype, torch.float32)
        to_noise = self.schedule.to_noise
        return torch.stack(
            [to_noise(p, latents_BChw, _whole(t, latents_BChw)) for p in predicted_KBChw.to(wide)]
        )

    def _from_noise(self, noise_BChw: Tensor, latents_BChw: Tensor, t: Tensor | int) -> Tensor:
        """The prediction that means this noise, in the latents' precision."""
        t_B = _whole(t, latents_BChw)
        return self.schedule.from_noise(noise_BChw, latents_BChw, t_B).to(latents_BChw.dtype)

    def branches(self, latents_BChw: Tensor, t: Tensor | int, contexts_KBLD: Tensor) -> Tensor:
        """The predictions [K, B, C, h, w] of all K branches of the guidance, in one UNet call."""
        branches, rows = contexts_KBLD.shape[:2]
        steps = torch.as_tensor(t, device=latents_BChw.device).expand(rows)
        return self.denoise(
            latents_BChw.repeat(branches, 1, 1, 1),
            steps.repeat(branches),
            contexts_KBLD.flatten(0, 1),
        ).unflatten(0, (branches, rows))

    def decode(self, latents_BChw: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] of clean latents; NaN where the decoder's output is not finite."""
        config = self.backbone.vae.config
        shift = getattr(config, "shift_factor", None) or 0.0
        with model_time():
            image: Tensor = self.backbone.vae.decode(latents_BChw / config.scaling_factor + shift)[
                0
            ]
        image = image.float()
        # Clamping would turn an infinity into a white pixel.
        return (image / 2 + 0.5).clamp(0, 1).masked_fill(~image.isfinite(), math.nan)

    def to_latents(self, images_B3HW: Tensor) -> Tensor:
        """Scaled latents (posterior mean) of images in [0, 1]."""
        config = self.backbone.vae.config
        pixels = (images_B3HW * 2 - 1).to(self.backbone.device, self.backbone.dtype)
        shift = getattr(config, "shift_factor", None) or 0.0
        with model_time(), torch.no_grad():
            mean: Tensor = self.backbone.vae.encode(pixels).latent_dist.mean
        return (mean - shift) * config.scaling_factor

    # -- sampling ----------------------------------------------------------------------------------

    def noise(self, seeds: Sequence[int], sampler: Sampler) -> Tensor:
        """Initial noise [B, C, h, w] on the CPU, one generator an image."""
        channels, height, width = self.latent_shape
        if sampler.size is not None:
            height = width = sampler.size // self.backbone.latent_scale
        return normal_rows((channels, height, width), seeds)

    @no_grad
    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampler: Sampler,
        *,
        states_BLD: Tensor | None = None,
        latents_BChw: Tensor | None = None,
        progress: Progress = silent,
    ) -> Samples:
        """Samples one image a row, in micro-batches.

        The image of a row depends on its prompt (or states), its seed (or latents) and the sampler;
        not on the other rows, nor on how many are worked on at once.

        Args:
            prompts: B prompts. Prompt filters see them, unless states are injected.
            seeds: B seeds.
            sampler: The suite's sampler.
            states_BLD: Text states to use instead of the encoded prompts.
            latents_BChw: Initial noise to use instead of the seeds'.
            progress: Told after each micro-batch.

        Raises:
            ValueError: the numbers of rows differ.
        """
        n = len(prompts)
        for what, rows in (("seeds", seeds), ("states", states_BLD), ("latents", latents_BChw)):
            if rows is not None and len(rows) != n:
                raise ValueError(
                    f"sample: {n} prompts but {len(rows)} {what}; expected one a prompt"
                )
        refused = (
            refused_by(self.filters, self, prompts)
            if states_BLD is None
            else torch.zeros(n, dtype=torch.bool)
        )
        kept = [i for i in range(n) if not refused[i]]
        channels = self.backbone.vae.config.out_channels
        side = sampler.size or self.latent_shape[1] * self.backbone.latent_scale
        images = torch.zeros(n, channels, side, side)

        def chunk(rows: slice) -> Tensor:
            which = kept[rows]
            states = (
                states_BLD[which]
                if states_BLD is not None
                else self.encode([prompts[i] for i in which])
            )
            start = (
                latents_BChw[which]
                if latents_BChw is not None
                else self.noise([seeds[i] for i in which], sampler)
            )
            out = self._sample_chunk(states, start, [seeds[i] for i in which], sampler)
            progress(rows.stop, len(kept), "sampling")
            return out

        if kept:
            with model_time():
                images[kept] = self.micro.map(len(kept), chunk)
            self.meter.spend(images=len(kept))
        broken = ~images.isfinite().flatten(1).all(1)
        images[broken] = 0  # filters look at images only
        blanked = blanked_by(self.filters, images) & ~refused & ~broken
        images[blanked] = 0
        status = tuple[Status, ...](
            "refused" if r else "error" if e else "blanked" if b else "ok"
            for r, e, b in zip(refused.tolist(), broken.tolist(), blanked.tolist(), strict=True)
        )
        return Samples(images, status)

    def _sample_chunk(
        self, states_BLD: Tensor, start_BChw: Tensor, seeds: Sequence[int], sampler: Sampler
    ) -> Tensor:
        device, dtype = self.backbone.device, self.backbone.dtype
        scheduler = sampler.scheduler(self.backbone.scheduler_config, device)
        # Noise during sampling (stochastic solvers only) comes from the image's own stream, apart
        # from its first noise.
        generators = [torch.Generator().manual_seed(seed ^ 0x5DEECE66D) for seed in seeds]
        latents = start_BChw.to(device, torch.float32) * scheduler.init_noise_sigma
        contexts = self.guidance.contexts(self, states_BLD.to(device, dtype))
        if sampler.guidance_scale == 1 and isinstance(self.guidance, ClassifierFree):
            contexts = contexts[-1:].expand(1, *contexts.shape[1:])
        memory: Tensor | None = None
        for step, t in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(latents, t).to(dtype)
            if len(contexts) == 1:
                eps = self.denoise(scaled, t, contexts[0])
            else:
                eps, memory = self.guide(scaled, t, contexts, sampler.guidance_scale, step, memory)
            latents = scheduler.step(eps.float(), t, latents, **_generator(scheduler, generators))[
                0
            ]
        # A decoder may hide what went wrong in one latent: its normalisation spreads it thin.
        finite = latents.isfinite().flatten(1).all(1)[:, None, None, None]
        return self.decode(latents.to(dtype)).masked_fill(~finite, math.nan).cpu()

    # -- in and out --------------------------------------------------------------------------------

    @property
    def digest(self) -> str:
        """sha256 of the base's digest and the edit's values."""
        sums = {name: _tensor_digest(value) for name, value in self.weights.items()}
        return digest_of({"base": self.backbone.digest, **self._slots_json(), "weights": sums})

    def _slots_json(self) -> dict[str, Any]:
        return {
            "guidance": self.guidance.identity(),
            "filters": [f.identity() for f in self.filters],
        }

    def save_edit(self, folder: Path) -> None:
        """Writes the three slots: ``weights.safetensors`` and ``edit.json``."""
        from safetensors.torch import save_file

        tensors = {n: w.detach().cpu().contiguous() for n, w in self.weights.items()}
        save_file(tensors, folder / _WEIGHTS, metadata={"base": self.backbone.digest})
        (folder / _EDIT).write_text(
            json.dumps({"base": self.backbone.digest, **self._slots_json()}, indent=1)
        )

    def load_edit(self, folder: Path) -> TextToImage:
        """This model with an edit that :meth:`save_edit` wrote.

        Raises:
            UsageError: one of the files is not there, or no regular file.
            ValueError: the edit belongs to another base, or its values do not fit.
        """
        about = json.loads(regular(folder / _EDIT).read_text())
        if about["base"] != self.backbone.digest:
            raise ValueError(
                f"{folder}: an edit of base {about['base'][:12]}, but this base is {self.backbone.digest[:12]}; "
                "load the base it was made from"
            )
        with safe_open(regular(folder / _WEIGHTS), framework="pt") as file:
            values = {name: file.get_tensor(name) for name in file.keys()}
        edited = self.with_guidance(Guidance.from_identity(about["guidance"])).with_weights(values)
        return edited.with_filters(*(Filter.from_identity(f) for f in about["filters"]))

    def to_diffusers(self) -> Any:
        """An ordinary ``StableDiffusionPipeline`` with the edited weights: a copy, free to change or save.

        Raises:
            ValueError: the edit lives in guidance or filters, which such a pipeline cannot hold.
        """
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        from bench.model.on_cpu import unsuit

        extra = sorted(self.slots - {"weights"})
        if extra:
            raise ValueError(
                f"a diffusers pipeline holds weights only, but this edit also fills: {', '.join(extra)}; exporting it "
                "would lose the edit. Use save_edit(), or apply it at call time (e.g. negative_prompt=...)"
            )
        parts = {
            name: deepcopy(getattr(self.backbone, name)) for name in ("unet", "text_encoder", "vae")
        }
        unsuit(**parts)
        with torch.no_grad():
            for name, value in self.weights.items():
                part, _, rest = name.partition(".")
                parts[part].get_parameter(rest).copy_(value)
        return StableDiffusionPipeline(
            **parts,
            tokenizer=self.backbone.tokenizer,
            scheduler=DDIMScheduler.from_config(self.backbone.scheduler_config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def load_model(
    source: str = "miniature",
    *,
    revision: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: str = "cpu",
    micro_batch: int = 64,
    compile: bool = False,
) -> TextToImage:
    """The unedited model; see :func:`bench.model.backbone.load_backbone` for the arguments and errors."""
    from bench.model.backbone import load_backbone

    backbone = load_backbone(source, revision=revision, dtype=dtype, device=device, compile=compile)
    return TextToImage(backbone, micro=MicroBatch(micro_batch))


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


def _whole(t: Tensor | int, latents_BChw: Tensor) -> Tensor:
    """int64 timesteps [B]: some solvers have times between them."""
    times = torch.as_tensor(t, dtype=torch.float32, device=latents_BChw.device)
    return times.round().long().expand(len(latents_BChw))


def _generator(scheduler: Any, generators: list[torch.Generator]) -> dict[str, Any]:
    return {"generator": generators} if "generator" in scheduler.step.__code__.co_varnames else {}


def _tensor_digest(value: Tensor) -> str:
    # Flat first: a kernel of one pixel can count as contiguous and still lie channels last.
    data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()
