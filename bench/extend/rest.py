"""The part of a plan that is left to compute; it loads nothing, for commands that extend nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.extend.extension import Extension
    from bench.run.plan import Plan

__all__ = ["rest_of"]


def rest_of(plan: Plan, extended: Extension | None) -> Plan:
    """The cells that no published report gives: the whole plan where none is extended."""
    return plan if extended is None else extended.rest
