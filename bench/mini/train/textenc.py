"""The text tower of a CLIP as the frozen ``CLIPTextModel`` of a pipeline."""

from __future__ import annotations

from typing import Any

from transformers import CLIPTextModel

__all__ = ["text_tower"]


def text_tower(clip: Any) -> Any:
    """A ``CLIPTextModel`` with the weights of ``clip``'s text tower, in evaluation mode and frozen."""
    tower = CLIPTextModel(clip.config.text_config)
    ours = {
        name: weight for name, weight in clip.state_dict().items() if name.startswith("text_model.")
    }
    own = tower.state_dict()
    renamed = {n: ours[n] if n in ours else ours["text_model." + n] for n in own}
    tower.load_state_dict(renamed)
    return tower.eval().requires_grad_(requires_grad=False)
