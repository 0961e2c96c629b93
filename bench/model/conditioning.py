"""The text side of a prediction, as a value: one row per prompt, whatever a family's denoiser takes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bench.core.lazy import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Conditioning"]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """B rows of what a denoiser is told beside latents and timesteps.

    Shapes: B rows, L tokens, D text width.

    ``rows[index]`` takes rows by a slice, a list or a tensor, and is a conditioning too.

    Attributes:
        states_BLD: Text states.
        pooled_BD: One vector per text; ``None`` where the family has none.
        added: Further conditions by name, each [B, ...]; no text decides them.
        ids: Token ids [B, L] of each text encoder; empty where the states come from elsewhere.
    """

    states_BLD: Tensor
    pooled_BD: Tensor | None = None
    added: Mapping[str, Tensor] = field(default_factory=dict)
    ids: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        if self.states_BLD.ndim != 3:
            raise ValueError(
                f"a conditioning: expected text states [B, L, D], got {list(self.states_BLD.shape)}; "
                "index rows by a slice, a list or a tensor"
            )
        others = [*self.added.values(), *self.ids]
        others += [] if self.pooled_BD is None else [self.pooled_BD]
        if any(len(other) != len(self) for other in others):
            raise ValueError(
                f"a conditioning: expected {len(self)} rows in each part, as in its text states, got "
                f"{', '.join(str(len(other)) for other in others)}"
            )

    def __len__(self) -> int:
        return len(self.states_BLD)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> Conditioning:
        return self._each(lambda part: part[index])

    @property
    def said(self) -> tuple[Tensor, ...]:
        """The parts that the text decides, through which gradients reach it: states, and the pooled vectors if any."""
        return (self.states_BLD,) if self.pooled_BD is None else (self.states_BLD, self.pooled_BD)

    def with_said(self, said: Sequence[Tensor]) -> Conditioning:
        """The same rows with other values of :attr:`said`, in its order; no token ids say them any more."""
        states_BLD, *pooled = said
        return replace(self, states_BLD=states_BLD, pooled_BD=pooled[0] if pooled else None, ids=())

    def with_states(self, states_BLD: Tensor) -> Conditioning:
        """The same rows with other text states, which no token ids say any more."""
        return replace(self, states_BLD=states_BLD, ids=())

    def repeat(self, times: int) -> Conditioning:
        """All rows, one after the other, ``times`` times over."""
        return self._each(lambda part: part.repeat(times, *[1] * (part.ndim - 1)))

    def repeat_interleave(self, times: int) -> Conditioning:
        """Each row ``times`` times, before the next one."""
        return self._each(lambda part: part.repeat_interleave(times, 0))

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """The rows of all parts, one part after the other.

        Token ids are kept where every part has them.

        Raises:
            ValueError: there are no parts, or some lack a pooled vector or a condition that others have.
        """
        kinds = {(p.pooled_BD is None, *sorted(p.added)) for p in parts}
        if len(kinds) != 1:
            raise ValueError(
                f"expected conditionings with the same pooled vectors and conditions, got {len(kinds)} kinds"
            )
        first = parts[0]
        pooled = [p.pooled_BD for p in parts if p.pooled_BD is not None]
        alike = len({len(p.ids) for p in parts}) == 1
        return Conditioning(
            torch.cat([p.states_BLD for p in parts]),
            torch.cat(pooled) if pooled else None,
            {name: torch.cat([p.added[name] for p in parts]) for name in first.added},
            tuple(torch.cat(ids) for ids in zip(*(p.ids for p in parts), strict=True))
            if alike
            else (),
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Conditioning:
        """The same rows on a device; all but token ids in a precision, if one is given."""
        return self._each(lambda part: part.to(device, dtype if part.is_floating_point() else None))

    def detach(self) -> Conditioning:
        """The same values, without gradients."""
        return self._each(lambda part: part.detach())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        return Conditioning(
            change(self.states_BLD),
            None if self.pooled_BD is None else change(self.pooled_BD),
            {name: change(part) for name, part in self.added.items()},
            tuple(map(change, self.ids)),
        )
