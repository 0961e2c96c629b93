"""Zero-shot classification with a CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020).

A judge for any concept that can be named, and a weak one: it decides between texts, and its answer
depends on which. The alternatives are therefore part of its identity.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.core.errors import UsageError
from bench.core.lazy import torch
from bench.core.spec import PathText, weights_digest
from bench.core.templates import Template
from bench.interfaces import Concept, Judge
from bench.toolkit.clip import check_source, clip_files, load_clip

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ClipZeroShot"]

_ANYTHING = "something"


class ClipZeroShot(Judge):
    """The probability of the concept's text among its alternatives.

    Attributes:
        clip: A source of :func:`bench.toolkit.clip.load_clip`; empty: the miniature's.
        alternatives: Texts that the concept competes with; empty: the concept's neighbours, which
            are the likeliest confusions, and "something", so that there is one even without
            neighbours.
        template: What is said of the concept and of each alternative; ``{}`` stands for the text.
    """

    name: ClassVar[str] = "clip_zero_shot"
    clip: PathText = ""
    alternatives: tuple[str, ...] = ()
    template: Template = "{}"

    def files(self) -> tuple[Path, ...]:
        """The files of its CLIP."""
        return clip_files(self.clip)

    def check_base(self, folder: Path | None) -> None:
        """Refuses another base than the miniature where no CLIP is given."""
        check_source(self.clip, folder, at=(self.name, "clip"))

    @property
    def network(self) -> str:
        """Its weights: a template or alternatives are other questions to the same eyes."""
        return weights_digest(self.files(), self.clip)

    def check_concept(self, concept: Concept) -> None:
        """Refuses a concept that has no alternatives; it sees whatever has a name."""
        try:
            self.texts(concept)
        except ValueError as error:
            raise UsageError(str(error)) from error

    def texts(self, concept: Concept) -> tuple[str, ...]:
        """Returns the texts that the images are compared with, the concept first.

        Raises:
            ValueError: the concept's only alternative is itself.
        """
        others = self.alternatives or (*concept.neighbours, _ANYTHING)
        unique = dict.fromkeys((concept.text, *others))
        if len(unique) == 1:
            raise ValueError(
                f"{self.name}: expected alternatives to {concept.text!r}, got only itself"
            )
        return tuple(self.template.replace("{}", text) for text in unique)

    def scores(self, images_B3HW: Tensor, concept: Concept) -> Tensor:
        """The probability of the concept.

        Args:
            images_B3HW: float32 in [0, 1].
            concept: Its text is what CLIP is asked for.

        Returns:
            float32 [B, 1].

        Raises:
            ValueError: the concept's only alternative is itself.
        """
        texts = self.texts(concept)
        clip = load_clip(self.clip, str(images_B3HW.device))
        images_BE = clip.image_features(images_B3HW)
        texts_TE = clip.known_features(texts)
        logits_BT = clip.logit_scale * images_BE @ texts_TE.T
        return torch.softmax(logits_BT, dim=-1)[:, :1]
