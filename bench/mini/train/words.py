"""Losses that make a text tower keep words apart and in their places, as towers trained on much text do.

A tower this small, trained by the contrastive loss alone, maps all phrases of a concept to nearly
one state. Whatever a closed-form edit does to the name it then does to every synonym and
description, and nothing is left for an attack to find. These losses, on every state of a
text, stand in for the variety of real captions:

* the token that stands there can be read off its state, and so can the set of tokens so far;
* the states of one token differ little between contexts, and padding differs little between texts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["WordLosses", "shuffled"]

_SEEN = 4.0
_STEADY = 2.0


def shuffled(ids_BL: Tensor, end: int, generator: torch.Generator) -> Tensor:
    """Texts that no caption is: of every other row a piece, of the rest some words in any order.

    Args:
        ids_BL: Token ids that begin with a start token; padded with ``end``.
        end: The end token.
        generator: CPU generator.

    Returns:
        int64 [B, L].
    """
    out = torch.full_like(ids_BL, end)
    out[:, 0] = ids_BL[:, 0]
    words = (ids_BL != end).sum(1) - 1
    for row, n in enumerate(words.tolist()):
        keep = 1 + int(torch.randint(n, (1,), generator=generator))
        if row % 2:
            first = int(torch.randint(n, (1,), generator=generator))
            which = torch.arange(first, min(n, first + keep))
        else:
            which = torch.randperm(n, generator=generator)[:keep]
        out[row, 1 : 1 + len(which)] = ids_BL[row, 1 + which]
    return out


class WordLosses(nn.Module):
    """The losses and their read-outs, which are thrown away after training."""

    def __init__(self, width: int, vocabulary: int, end: int) -> None:
        super().__init__()
        self.own = nn.Linear(width, vocabulary)
        self.seen = nn.Linear(width, vocabulary)
        self.vocabulary, self.end = vocabulary, end

    def forward(self, states_BLD: Tensor, ids_BL: Tensor) -> Tensor:
        """The weighted sum, a scalar.

        Args:
            states_BLD: The tower's last states.
            ids_BL: The tokens they belong to.
        """
        own = F.cross_entropy(self.own(states_BLD).flatten(0, 1), ids_BL.flatten())
        so_far = F.one_hot(ids_BL, self.vocabulary).cumsum(1).clamp(max=1).to(states_BLD)
        seen = F.binary_cross_entropy_with_logits(self.seen(states_BLD), so_far)
        return (
            own
            + _SEEN * seen
            + _STEADY * (self._words(states_BLD, ids_BL) + self._padding(states_BLD, ids_BL))
        )

    def _words(self, states_BLD: Tensor, ids_BL: Tensor) -> Tensor:
        """Mean squared distance of a word's state from the mean state of that word in the batch."""
        word = ids_BL != self.end
        states_ND, ids_N = states_BLD[word], ids_BL[word]
        sums = states_ND.new_zeros(self.vocabulary, states_ND.shape[1]).index_add(
            0, ids_N, states_ND
        )
        count = torch.bincount(ids_N, minlength=self.vocabulary).clamp(min=1)
        return (states_ND - (sums / count[:, None])[ids_N]).square().mean()

    def _padding(self, states_BLD: Tensor, ids_BL: Tensor) -> Tensor:
        """The same for the padding behind the end token."""
        end = ids_BL == self.end
        padding = end & end.roll(1, dims=1)
        padding[:, 0] = False
        states_ND = states_BLD[padding]
        return (states_ND - states_ND.mean(0)).square().mean()
