"""A set metric that looks through Inception, and on the miniature through its judge."""

from __future__ import annotations

from pathlib import Path

from bench.core.errors import UsageError
from bench.core.spec import runtime
from bench.interfaces import Features, SetMetric
from bench.toolkit.features import JudgeFeatures
from bench.toolkit.inception import InceptionFeatures, Resize

__all__ = ["InceptionMetric"]


class InceptionMetric(SetMetric):
    """Base of FID, KID, and precision with recall.

    Attributes:
        inception: A safetensors file of :mod:`bench.toolkit.inception`; empty: the miniature's judge.
        resize: How images reach Inception's size.
    """

    inception: str = runtime("")
    resize: Resize = "clean"

    def features(self) -> Features:
        """Inception's, or those of the miniature's judge."""
        if not self.inception:
            return JudgeFeatures()
        return InceptionFeatures(weights=self.inception, resize=self.resize)

    def check_base(self, folder: Path | None) -> None:
        """Refuses features that do not suit the base; the field to change is named."""
        try:
            self.features().check_base(folder)
        except UsageError as error:
            raise error.below(self.name, "inception") from error
        super().check_base(folder)
