"""A model that is in memory as a method: what somebody edited by any means, laid over the suite's base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from pydantic import Field, PrivateAttr

from bench.core.digest import digest_of
from bench.core.errors import UsageError
from bench.core.lazy import torch
from bench.interfaces import Concept, Context, Erasure, Slot
from bench.model.edit_files import tensor_digest
from bench.model.text_to_image import TextToImage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GivenModel", "Model", "is_pipeline", "model_of"]

Model: TypeAlias = "TextToImage | Any"
"""A model from :func:`bench.load_model`, or a diffusers pipeline in memory."""
_PARTS: Final = ("unet", "text_encoder")
_SECOND: Final = "text_encoder_2"


def is_pipeline(thing: object) -> bool:
    """Whether it is a diffusers pipeline, or anything else with these networks."""
    return all(hasattr(getattr(thing, part, None), "state_dict") for part in _PARTS)


def model_of(given: Model, base: TextToImage | None) -> TextToImage:
    """The model itself; of a pipeline, its weights laid over its base.

    Args:
        given: See :data:`Model`. A pipeline with the base's own values is the base.
        base: What the pipeline was made from; a model needs none.

    Raises:
        UsageError: a pipeline without its base or of another one, or neither of the two.
    """
    if isinstance(given, TextToImage):
        return given
    if not is_pipeline(given):
        raise UsageError(
            f"model: expected a model or a diffusers pipeline, got a {type(given).__name__}"
        )
    if base is None:
        raise UsageError(
            "model: expected the base of the pipeline beside it, got none; give base=load_model(...)"
        )
    return GivenModel.of_pipeline(given).laid_over(base)


class GivenModel(Erasure):
    """The edit that a model in memory holds; the concepts play no part.

    Of a pipeline the weights of its UNet and text encoders count. Its scheduler, safety checker and
    autoencoder do not: the suite owns the sampler, and a checker is a method of its own
    (``output_filter``).

    Attributes:
        sha256: Of the edit, or of the pipeline's weights. Required.
    """

    name: ClassVar[str] = "given"
    slots: ClassVar[frozenset[Slot]] = frozenset({"weights", "guidance", "filters", "hooks"})
    needs: ClassVar[tuple[str, ...]] = ("sha256",)
    sha256: str = Field("", pattern="^([0-9a-f]{64})?$")
    _edited: TextToImage | None = PrivateAttr(None)
    _values: Mapping[str, Tensor] = PrivateAttr(default_factory=dict)

    @classmethod
    def of_model(cls, model: TextToImage) -> GivenModel:
        """From an edited model of this project.

        Raises:
            UsageError: it holds no edit.
        """
        if not model.slots:
            raise UsageError(
                "expected an edited model, got the unedited base; give `none` for that"
            )
        made = cls(sha256=model.digest)
        made._edited = model
        return made

    @classmethod
    def of_pipeline(cls, pipeline: Any) -> GivenModel:
        """From a ``StableDiffusionPipeline`` or a ``StableDiffusionXLPipeline`` in memory.

        Raises:
            UsageError: its networks are not there, or have hooks.
        """
        if not is_pipeline(pipeline):
            raise UsageError(
                f"expected a pipeline with a unet and a text_encoder, got a {type(pipeline).__name__}"
            )
        if any(getattr(pipeline, part)._forward_pre_hooks for part in _PARTS):
            raise UsageError(
                "expected a pipeline without hooks in its networks, got one with some, which are no weights; "
                "give the edited model"
            )
        parts = (*_PARTS, *([_SECOND] if getattr(pipeline, _SECOND, None) is not None else []))
        values = {
            f"{part}.{name}": value.detach()
            for part in parts
            for name, value in getattr(pipeline, part).state_dict().items()
            if not name.endswith("position_ids")  # a table, no parameter
        }
        made = cls(sha256=digest_of({n: tensor_digest(v) for n, v in sorted(values.items())}))
        made._values = values
        return made

    def ways_around(self) -> tuple[str, ...]:
        """See the base class: what its hooks tell of."""
        hooks = () if self._edited is None else self._edited.hooks
        return tuple(way for one in hooks for way in one.hook.bypassed_by)

    def parameters(self, model: TextToImage) -> list[str]:
        """Every parameter of the UNet and the text encoders."""
        return list(model.base_values)

    def erase(self, model: TextToImage, concepts: Sequence[Concept], ctx: Context) -> TextToImage:
        """The base with the given edit.

        Raises:
            UsageError: it is of another base, or nothing of it differs from the base.
        """
        if self._edited is not None:
            if self._edited.base_digest != model.base_digest:
                raise UsageError(
                    f"{self.label}: expected an edit of base {model.base_digest[:12]}, got one of "
                    f"{self._edited.base_digest[:12]}; evaluate it on a suite with its base"
                )
            edited = model.with_guidance(self._edited.guidance).with_weights(self._edited.weights)
            for one in self._edited.hooks:
                edited = edited.with_hook(one.hook, one.tensors)
            return edited.with_filters(*self._edited.filters)
        if not self._values:
            raise UsageError(f"{self.label}: expected the model in memory, got its record alone")
        edited = self.laid_over(model)
        if not edited.slots:
            raise UsageError(
                f"{self.label}: expected an edited pipeline, got the values of the base; nothing was erased"
            )
        return edited

    def laid_over(self, base: TextToImage) -> TextToImage:
        """The base with the values in which the pipeline differs from it.

        Raises:
            UsageError: the pipeline's networks are not those of the base.
        """
        changed = {name: value.float() for name, value in self._differing(base)}
        return base.with_weights(changed) if changed else base

    def _differing(self, model: TextToImage) -> list[tuple[str, Tensor]]:
        base = model.base_values
        if foreign := sorted(base.keys() ^ self._values.keys()):
            where = "the base" if foreign[0] in base else "the pipeline"
            raise UsageError(
                f"{self.label}: expected the networks of the base, got others: {len(foreign)} parameters are in one "
                f"alone, e.g. {foreign[0]}, of {where}; give its own base (base:)"
            )
        found = []
        for name, value in self._values.items():
            if value.shape != base[name].shape:
                raise UsageError(
                    f"{self.label}: {name}: expected the shape {tuple(base[name].shape)}, got {tuple(value.shape)}; "
                    "give its own base (base:)"
                )
            # In the pipeline's precision: rounding is no edit.
            if not torch.equal(base[name].to(value.dtype).cpu(), value.cpu()):
                found.append((name, value))
        return found
