"""Random values for a network that has none: for its size and speed, not for pictures."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from bench.core.rng import generator_for

__all__ = ["random_values"]

_VALUES: Final = 1_000_003  # a prime number of them, so that rows differ


def random_values(
    network: Any, *key: object, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Any:
    """The network, made on the meta device or not, with values that keep the size of what passes.

    Args:
        network: Its norms become the identity, its biases 0.
        key: The same one gives the same values.
        device: Where it is then.
        dtype: Of its values.
    """
    values = torch.randn(_VALUES, generator=generator_for("rehearsal", *key)).to(device, dtype)
    # diffusers' own `to` warns of a loss that values to come cannot have.
    nn.Module.to(network, dtype=dtype)
    network.to_empty(device=device)
    with torch.no_grad():
        for number, (name, weight) in enumerate(network.named_parameters()):
            if weight.ndim < 2:
                weight.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            _fill(weight, values.roll(number))
            weight.mul_((1 / weight[0].numel()) ** 0.5)
        for name, buffer in network.named_buffers():
            if name.endswith("position_ids"):
                buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
            else:  # of norms over batches
                buffer.fill_(1 if name.endswith("var") else 0)
    return network.eval()


def _fill(weight: Tensor, values: Tensor) -> None:
    flat = weight.view(-1)
    for at in range(0, len(flat), len(values)):
        flat[at : at + len(values)] = values[: len(flat) - at]
