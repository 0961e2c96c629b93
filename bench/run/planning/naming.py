"""The names of plug-ins in tables."""

from __future__ import annotations

from collections.abc import Sequence

from bench.core.spec import Spec

__all__ = ["table_name"]


def table_name(spec: Spec, among: Sequence[Spec]) -> str:
    """A plug-in's name in tables: its own, or its label where the suite has several of its kind.

    Args:
        spec: An attack, a judge or a metric.
        among: All of its sort in the suite.
    """
    several = sum(other.name == spec.name for other in among) > 1
    return spec.own_name or (spec.label if several else spec.name)
