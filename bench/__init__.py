"""Adversarial robustness benchmark for concept erasure in text-to-image diffusion models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.api import attack, concepts, erase, evaluate, judge
    from bench.model.text_to_image import load_model

__all__ = ["attack", "concepts", "erase", "evaluate", "judge", "load_model"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Loads the API when it is first used, so that importing a part of the package stays quick."""
    if name == "load_model":
        from bench.model.text_to_image import load_model

        return load_model
    if name in __all__:
        from bench import api

        return getattr(api, name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")
