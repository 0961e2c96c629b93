"""An edit's hooks in a plain diffusers pipeline: what ``save_edit`` wrote, installed for as long as it lives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bench.core.lazy import torch
from bench.model.conditioning import Conditioning
from bench.model.edit_files import read_hooks
from bench.model.hooks import Fitted, Pass

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["attach_hooks", "load_hooks"]

_ENCODERS: Final = ("text_encoder", "text_encoder_2")
_REMEMBERED: Final = 64
"""Texts whose token ids are remembered: a pipeline hands its denoiser states alone."""


def load_hooks(pipe: Any, folder: Path) -> Any:
    """The pipeline itself, with the hooks of an edit's folder in its networks.

    Gates that read token ids find them by the text states: a state that the pipeline did not encode
    itself, or changed afterwards, has none. Layers hold floating-point numbers in the pipeline's precision.

    Args:
        pipe: A pipeline of diffusers of the class that the edit was made on.
        folder: What :meth:`bench.model.text_to_image.TextToImage.save_edit` wrote.

    Raises:
        UsageError: a file is not there, or no regular file.
        ValueError: a hook's class is not known here, or the pipeline has no such network.
        AttributeError: a network has no such layer.
    """
    return attach_hooks(pipe, read_hooks(folder))


def attach_hooks(pipe: Any, hooks: Sequence[Fitted]) -> Any:
    """The pipeline itself, with hooks in its networks; see :func:`load_hooks`."""
    parts = {layer.partition(".")[0] for one in hooks for layer in one.layers}
    for part in sorted(parts):
        if not isinstance(getattr(pipe, part, None), torch.nn.Module):
            raise ValueError(f"expected a pipeline with a {part}, got a {type(pipe).__name__}")
    denoiser = next(iter(parts - set(_ENCODERS)), None)
    texts = [_Texts(pipe, part) for part in _ENCODERS if getattr(pipe, part, None) is not None]
    for text in texts:
        encoder = getattr(pipe, text.part)
        if denoiser is not None:
            encoder.register_forward_hook(text.remember, with_kwargs=True)
        _around(encoder, _suited(hooks, encoder), partial(_of_text, text.part))
    if denoiser is not None:
        network = getattr(pipe, denoiser)
        _around(network, _suited(hooks, network), partial(_of_denoiser, pipe, denoiser, texts))
    return pipe


class _Texts:
    """The states and token ids that a text encoder gave last, row by row."""

    def __init__(self, pipe: Any, part: str) -> None:
        self.part = part
        self._tokenizer = getattr(pipe, part.replace("text_encoder", "tokenizer"))
        self._rows: list[tuple[Tensor, Tensor]] = []

    def remember(
        self, encoder: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any], out: Any
    ) -> None:
        """A forward hook: keeps what came in and went out."""
        ids_BL = args[0] if args else named["input_ids"]
        inner = getattr(out, "hidden_states", None)
        states_BLD = out.last_hidden_state if inner is None else inner[-2]
        rows = list(zip(states_BLD.detach(), ids_BL, strict=True))
        self._rows = (self._rows + rows)[-_REMEMBERED:]

    @property
    def width(self) -> int:
        """Numbers of a state."""
        return self._rows[0][0].shape[-1] if self._rows else 0

    def ids_of(self, states_RLD: Tensor) -> Tensor | None:
        """The token ids [R, L] of states; ``None`` where one is not remembered."""
        found = []
        for states in states_RLD.detach():
            of = [i for s, i in self._rows if torch.equal(s.to(states), states)]
            if not of and not states.any():
                of = [self._empty(len(states)).to(states.device)]
            if not of:
                return None
            found.append(of[-1])
        return torch.stack(found)

    def _empty(self, length: int) -> Tensor:
        """The ids of the empty prompt, which zeros stand for in some pipelines."""
        words = self._tokenizer("", padding="max_length", max_length=length, return_tensors="pt")
        ids: Tensor = words["input_ids"]
        return ids[0]


def _suited(hooks: Sequence[Fitted], network: nn.Module) -> list[Fitted]:
    """The hooks with their tensors where a network is, in its precision."""
    like = next(network.parameters())

    def moved(value: Tensor) -> Tensor:
        return value.to(like.device, like.dtype if value.is_floating_point() else None)

    return [Fitted(one.hook, {n: moved(v) for n, v in one.tensors.items()}) for one in hooks]


def _around(network: nn.Module, hooks: Sequence[Fitted], told: Any) -> None:
    """Has hooks installed at the beginning of each call of a network, and taken out at its end."""
    handles: list[Any] = []

    def before(module: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        about = told(args, named)
        for one in reversed(hooks):
            handles.extend(one.install(module, about))

    def after(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        while handles:
            handles.pop().remove()

    network.register_forward_pre_hook(before, with_kwargs=True)
    network.register_forward_hook(after, always_call=True)


def _of_text(part: str, args: tuple[Any, ...], named: Mapping[str, Any]) -> Pass:
    return Pass(part, ids=(args[0] if args else named["input_ids"],))


def _of_denoiser(
    pipe: Any, part: str, texts: Sequence[_Texts], args: tuple[Any, ...], named: Mapping[str, Any]
) -> Pass:
    given = dict(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False))
    given |= named
    states_RLD = given["encoder_hidden_states"]
    t_R = torch.as_tensor(given["timestep"], device=states_RLD.device).expand(len(states_RLD))
    ids, first = [], 0
    for text in texts:
        found = text.ids_of(states_RLD[..., first : first + text.width]) if text.width else None
        first += text.width
        if found is not None:
            ids.append(found)
    known = tuple(ids) if len(ids) == len(texts) else ()
    added = given.get("added_cond_kwargs") or {}
    told = Conditioning(
        states_RLD,
        added.get("text_embeds"),
        {name: value for name, value in added.items() if name != "text_embeds"},
        known,
    )
    branches = 2 if getattr(pipe, "do_classifier_free_guidance", False) else 1
    return Pass(part, known, told, t_R, branches)
