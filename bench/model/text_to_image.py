"""A text-to-image model as a value: frozen networks, and the four slots an edit can fill.

``TextToImage`` is immutable. An edit makes a new one that shares the networks. Its changed
parameters are laid over the networks at each call. So edited and unedited models can be used side
by side, and through autograd, without a copy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.core.clock import model_time
from bench.core.lazy import no_grad, torch
from bench.core.meter import Meter
from bench.core.progress import Progress, silent
from bench.model.batching import MicroBatch
from bench.model.conditioning import Conditioning
from bench.model.edit_files import Edit
from bench.model.filters import Filter, refused_by
from bench.model.fitting import fitted
from bench.model.guidance import ClassifierFree, Guidance, combine_as_sampled
from bench.model.hooked_pipeline import attach_hooks
from bench.model.hooks import Hook
from bench.model.networks import Networks
from bench.model.replacing import replacing
from bench.model.sampler import Sampler
from bench.model.samples import Samples
from bench.model.schedule import whole_steps
from bench.model.slots import Slot
from bench.model.trajectory import run_through

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TextToImage", "load_model"]


@dataclass(frozen=True, eq=False)
class TextToImage(Networks):
    """A model with its edits.

    Attributes:
        guidance: How text branches are combined.
        filters: Refuse prompts or blank images.
        micro: Rows worked on at once; shared by all edits of a backbone; never changes results.
        meter: Counts the images and steps that are spent through it; shared by all that is made of
            the model.
    """

    guidance: Guidance = field(default_factory=ClassifierFree)
    filters: tuple[Filter, ...] = ()
    micro: MicroBatch = field(default_factory=lambda: MicroBatch(64), compare=False)
    meter: Meter = field(default_factory=Meter, compare=False, repr=False)

    # -- editing -----------------------------------------------------------------------------------

    def with_weights(self, values: Mapping[str, Tensor]) -> TextToImage:
        """The same model with more parameters replaced; the meter notes the share that its precision rounds away.

        Raises:
            ValueError: an unknown name, a wrong shape, or a value that is not finite.
        """
        held, lost = replacing(values, self)
        if lost:
            self.meter.note(rounded_away=round(lost, 4))
        return replace(self, weights={**self.weights, **held})

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

    def with_hook(self, hook: Hook, tensors: Mapping[str, Tensor]) -> TextToImage:
        """The same model with a hook more, after those that it has.

        Args:
            hook: The rule.
            tensors: What it reads, by name; kept in the base's precision, but for whole numbers.

        Raises:
            ValueError: it hooks no layer, or one that there is not, or a value is not finite.
        """
        return replace(self, hooks=(*self.hooks, fitted(hook, tensors, self)))

    @property
    def unedited(self) -> TextToImage:
        """The base model; it shares the networks, so it costs no memory."""
        return replace(self, weights={}, guidance=ClassifierFree(), filters=(), hooks=())

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
        if self.hooks:
            filled.add("hooks")
        return frozenset(filled)

    # -- guided predictions ------------------------------------------------------------------------

    def guide(
        self,
        latents_BChw: Tensor,
        t: Tensor | int,
        contexts: Sequence[Conditioning],
        scale: float,
        step: int = 0,
        memory: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The guided prediction, all K branches in one UNet call.

        Args:
            latents_BChw: Noisy latents.
            t: Timestep, one for all rows or [B].
            contexts: Of K branches, from ``guidance.contexts(model, conditioning)``.
            scale: Guidance scale.
            step: Index of the sampling step.
            memory: What the previous step returned; ``None`` at the first.
        """
        if memory is None:
            memory = self.guidance.start(self, contexts[-1])
        predicted_KBChw = self.branches(latents_BChw, t, contexts)
        if self._combines_as_predicted:
            return self.guidance.combine(predicted_KBChw, scale, step, memory)
        noise_KBChw = self._to_noise(predicted_KBChw, latents_BChw, t)
        noise_BChw, memory = self.guidance.combine(noise_KBChw, scale, step, memory)
        return self._from_noise(noise_BChw, latents_BChw, t), memory

    def guide_as_sampled(
        self,
        latents_BChw: Tensor,
        t: Tensor | int,
        contexts: Sequence[Conditioning],
        scale: float,
        steps: Sequence[int],
    ) -> Tensor:
        """The guided predictions, each as sampling would have it at a step of its own; for losses.

        Args:
            latents_BChw: Noisy latents.
            t: Timestep, one for all rows or [B].
            contexts: Of K branches, from ``guidance.contexts(model, conditioning)``.
            scale: Guidance scale.
            steps: Index of each row's sampling step; see :func:`bench.model.guidance.combine_as_sampled`.
        """
        memory = self.guidance.start(self, contexts[-1])
        predicted_KBChw = self.branches(latents_BChw, t, contexts)
        if self._combines_as_predicted:
            return combine_as_sampled(self.guidance, predicted_KBChw, scale, steps, memory)
        noise_KBChw = self._to_noise(predicted_KBChw, latents_BChw, t)
        noise_BChw = combine_as_sampled(self.guidance, noise_KBChw, scale, steps, memory)
        return self._from_noise(noise_BChw, latents_BChw, t)

    @property
    def _combines_as_predicted(self) -> bool:
        """Whether the guidance may be handed what the network predicts, whatever that is."""
        return self.schedule.prediction == "epsilon" or self.guidance.affine

    def _to_noise(self, predicted_KBChw: Tensor, latents_BChw: Tensor, t: Tensor | int) -> Tensor:
        """The noise that predictions of all branches mean, float32 or wider."""
        wide = torch.promote_types(predicted_KBChw.dtype, torch.float32)
        to_noise, t_B = self.schedule.to_noise, whole_steps(t, latents_BChw)
        return torch.stack([to_noise(p, latents_BChw, t_B) for p in predicted_KBChw.to(wide)])

    def _from_noise(self, noise_BChw: Tensor, latents_BChw: Tensor, t: Tensor | int) -> Tensor:
        """The prediction that means this noise, in the latents' precision."""
        t_B = whole_steps(t, latents_BChw)
        return self.schedule.from_noise(noise_BChw, latents_BChw, t_B).to(latents_BChw.dtype)

    def branches(
        self, latents_BChw: Tensor, t: Tensor | int, contexts: Sequence[Conditioning]
    ) -> Tensor:
        """The predictions [K, B, C, h, w] of all K branches of the guidance, in one UNet call."""
        branches, rows = len(contexts), len(contexts[0])
        steps = torch.as_tensor(t, device=latents_BChw.device).expand(rows)
        return self.denoise(
            latents_BChw.repeat(branches, 1, 1, 1),
            steps.repeat(branches),
            Conditioning.cat(contexts),
            branches=branches,
        ).unflatten(0, (branches, rows))

    # -- sampling ----------------------------------------------------------------------------------

    @no_grad
    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampler: Sampler,
        *,
        conditioning: Conditioning | None = None,
        latents_BChw: Tensor | None = None,
        start: int = 0,
        progress: Progress = silent,
    ) -> Samples:
        """Samples one image per row, in micro-batches.

        The image of a row depends on its prompt (or conditioning), its seed (or latents) and the
        sampler. It depends neither on the other rows nor on how many are worked on at once.

        Args:
            prompts: B prompts. Prompt filters see them, unless a conditioning is injected.
            seeds: B seeds.
            sampler: The suite's sampler.
            conditioning: Used instead of the encoded prompts, a row each.
            latents_BChw: Initial noise to use instead of the seeds'.
            start: How many of the sampler's steps the latents have behind them: then they are noisy latents at
                the time of the next.
            progress: Told after each micro-batch.

        Raises:
            ValueError: the numbers of rows differ, or a start has no latents or is none of the steps.
        """
        n = len(prompts)
        for what, rows in (("seeds", seeds), ("states", conditioning), ("latents", latents_BChw)):
            if rows is not None and len(rows) != n:
                raise ValueError(f"sample: {n} prompts but {len(rows)} {what}; expected one each")
        if start and latents_BChw is None:
            raise ValueError(f"sample: expected the latents to start step {start} with, got none")
        refused = (
            refused_by(self.filters, self, prompts)
            if conditioning is None
            else torch.zeros(n, dtype=torch.bool)
        )
        kept = [i for i in range(n) if not refused[i]]
        side = sampler.size or self.latent_shape[1] * self.backbone.latent_scale
        images = torch.zeros(n, self.backbone.image_channels, side, side)

        def chunk(rows: slice) -> Tensor:
            which = kept[rows]
            told = (
                conditioning[which]
                if conditioning is not None
                else self.encode([prompts[i] for i in which])
            )
            mine = [seeds[i] for i in which]
            first = self.noise(mine, sampler) if latents_BChw is None else latents_BChw[which]
            latents = self.clean_latents(told, first, mine, sampler, first=start)
            # A decoder may hide what went wrong in one latent: its normalisation spreads it thin.
            finite = latents.isfinite().flatten(1).all(1)[:, None, None, None]
            ready = latents.to(self.dtype)
            drawn = self.micro.decoding.map(len(ready), lambda some: self.decode(ready[some]).cpu())
            out = drawn.masked_fill(~finite.cpu(), math.nan)
            progress(rows.stop, len(kept), "sampling")
            return out

        if kept:
            with model_time():
                images[kept] = self.micro.map(len(kept), chunk)
            self.meter.spend(images=len(kept))
        return Samples.of(images, refused, self.filters)

    def clean_latents(
        self,
        conditioning: Conditioning,
        start_BChw: Tensor,
        seeds: Sequence[int],
        sampler: Sampler,
        *,
        first: int = 0,
        last: int | None = None,
    ) -> Tensor:
        """The latents that sampling ends with, through the model's own guidance; gradients go through all steps.

        Filters play no part, and nothing is counted. See :func:`bench.model.trajectory.run_through`.

        Args:
            conditioning: B rows.
            start_BChw: Initial noise of standard deviation 1; see ``first``.
            seeds: One per row: stochastic solvers draw further noise from it.
            sampler: Which steps.
            first: Index of the first step that is taken; ``start_BChw`` is then noisy latents at its time.
            last: Index of the step to stop before; the latents are then noisy, at its time.

        Returns:
            float32 [B, C, h, w] on the model's device.
        """
        device, dtype, scale = self.device, self.dtype, sampler.guidance_scale
        contexts = self.guidance.contexts(self, conditioning.to(device, dtype))
        alone = scale == 1 and isinstance(self.guidance, ClassifierFree)

        def predict(
            scaled: Tensor, t: Tensor, step: int, memory: Tensor | None
        ) -> tuple[Tensor, Tensor | None]:
            if alone:
                return self.denoise(scaled.to(dtype), t, contexts[-1]), memory
            return self.guide(scaled.to(dtype), t, contexts, scale, step, memory)

        scheduler = sampler.scheduler(self.backbone.scheduler_config, device)
        return run_through(scheduler, predict, start_BChw.to(device), seeds, first, last)

    # -- in and out --------------------------------------------------------------------------------

    @property
    def edit(self) -> Edit:
        """The filled slots, as they are stored."""
        return Edit(self.base_digest, self.weights, self.guidance, self.filters, self.hooks)

    @property
    def digest(self) -> str:
        """sha256 of the base's digest and the edit's values, 64 hexadecimal digits."""
        return self.edit.digest

    def save_edit(self, folder: Path) -> None:
        """Writes the slots: ``weights.safetensors``, ``edit.json``, and ``hooks.safetensors`` if there are hooks."""
        self.edit.write(folder)

    def load_edit(self, folder: Path) -> TextToImage:
        """This model with an edit that :meth:`save_edit` wrote.

        Raises:
            UsageError: one of the files is not there, or no regular file.
            ValueError: the edit belongs to another base, or its values do not fit.
        """
        edit = Edit.read(folder, self.base_digest)
        edited = self.with_guidance(edit.guidance).with_weights(edit.weights)
        for one in edit.hooks:
            edited = edited.with_hook(one.hook, one.tensors)
        return edited.with_filters(*edit.filters)

    def to_diffusers(self) -> Any:
        """An ordinary diffusers pipeline with the edited weights and the hooks: a copy, free to change or save.

        Its ``save_pretrained`` keeps weights alone. Of an edit with hooks keep what :meth:`save_edit`
        writes too: :func:`bench.model.hooked_pipeline.load_hooks` puts them into a loaded pipeline.

        Raises:
            ValueError: the edit lives in guidance or filters, which such a pipeline cannot hold.
        """
        if extra := sorted(self.slots - {"weights", "hooks"}):
            raise ValueError(
                f"a diffusers pipeline holds weights and hooks only, but this edit also fills: {', '.join(extra)}; "
                "exporting it would lose the edit. Use save_edit(), or apply it at call time (e.g. negative_prompt=...)"
            )
        pipeline = self.backbone.to_diffusers(self.weights)
        return attach_hooks(pipeline, self.hooks) if self.hooks else pipeline


def load_model(
    source: str = "miniature",
    *,
    revision: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: str = "cpu",
    micro_batch: int = 64,
    compile: bool = False,
    kernels: str = "auto",
) -> TextToImage:
    """The unedited model; see :func:`bench.model.backbone.load_backbone` for the arguments and errors."""
    from bench.model.backbone import load_backbone

    backbone = load_backbone(
        source, revision=revision, dtype=dtype, device=device, compile=compile, kernels=kernels
    )
    return TextToImage(backbone, micro=MicroBatch(micro_batch))
