"""Deltas of custom diffusion (Kumari et al. 2023, arXiv 2212.04488) in their compressed form.

Plain ones hold the parameters themselves, whatever they are called. A compressed one holds, for each matrix,
``u`` [out, r] and ``v`` [r, in] whose product is to be added. It is a low-rank adapter of strength
1, written as one.
"""

from __future__ import annotations

from bench.core.errors import UsageError

__all__ = ["as_adapter"]


def as_adapter(names: dict[str, str], origin: object) -> tuple[dict[str, str], int]:
    """The names with compressed matrices as the halves of a LoRA, and how many matrices these are.

    Raises:
        UsageError: a half is alone, or whole parameters lie beside: they cannot be told apart in one file.
    """
    pairs = {n.removesuffix(".weight.u") for n in names if n.endswith(".weight.u")}
    if not pairs:
        return names, 0
    wanted = {f"{module}.weight.{half}" for module in pairs for half in "uv"}
    if odd := sorted(names.keys() ^ wanted):
        raise UsageError(
            f"expected u and v of every matrix of a compressed delta, got {odd[0]} in {origin}; "
            "give the delta that is not compressed"
        )
    halves = {"u": "lora.up", "v": "lora.down"}
    made = {f"{n[:-9]}.{halves[n[-1]]}.weight": old for n, old in names.items()}
    return made, len(pairs)
