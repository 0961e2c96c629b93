"""Every number of every spec, found through its JSON schema, and the smallest and largest that it may be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from bench.config.suite import SuiteFile, Utility
from bench.core.spec import Spec
from bench.interfaces import registry
from bench.model.sampler import Sampler

__all__ = ["Numeric", "numbers", "placed", "specs"]


@dataclass(frozen=True, slots=True)
class Numeric:
    """A number somewhere below a spec.

    Attributes:
        owner: The spec.
        field: Its field.
        place: Of the number in the field: ``scales[]``, ``span[0]``.
        low: The smallest that the schema allows; ``None``: it has no bound.
        high: The largest.
        above: It is larger than ``low``.
        below: It is smaller than ``high``.
        whole: It has no fraction.
        step: What it is a multiple of.
    """

    owner: type[BaseModel]
    field: str
    place: str
    low: float | None
    high: float | None
    above: bool
    below: bool
    whole: bool
    step: int

    @property
    def bounded(self) -> bool:
        """Whether both ends are finite."""
        return all(end is not None and math.isfinite(end) for end in (self.low, self.high))

    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest value that are allowed."""
        assert self.low is not None and self.high is not None
        if self.whole:
            return int(self.low) + self.above, int(self.high) - self.below
        low = math.nextafter(self.low, math.inf) if self.above else self.low
        return low, math.nextafter(self.high, -math.inf) if self.below else self.high

    def outside(self) -> tuple[float, ...]:
        """The values that are refused: beyond both ends, and for fractions what is no number."""
        assert self.low is not None and self.high is not None
        if self.whole:
            low, high = (int(end) for end in self.extremes())
            return low - 1, high + self.step, -(2**63), 2**64, *([high - 1] * (self.step > 1))
        least, most = self.extremes()
        beyond = (math.nextafter(least, -math.inf), math.nextafter(most, math.inf))
        return *beyond, -1e308, 1e308, math.nan, math.inf, -math.inf


def specs() -> list[type[BaseModel]]:
    """Every spec of ours that a user or a method can fill, and the suite itself."""
    registry.load()
    below = {c for c in Spec._below() if c.__module__.partition(".")[0] in _OURS}
    return sorted({Sampler, SuiteFile, Utility, *below}, key=lambda c: (
        c.__module__, c.__name__,
    ))  # fmt: skip


def numbers(cls: type[BaseModel]) -> Iterator[Numeric]:
    """The numbers of a spec, those in tuples, mappings and parts too."""
    schema = cls.model_json_schema()
    for field, below in schema.get("properties", {}).items():
        yield from _below(cls, field, field, below, schema.get("$defs", {}))


def placed(one: Numeric, value: float) -> Any:
    """The field's value with the number in its place."""
    if one.place.endswith("[]"):
        return [value]
    if one.place.endswith("]"):
        pair = [0.1, 0.9]
        pair[int(one.place[-2])] = value
        return pair
    return {one.place.partition(".")[2]: value} if "." in one.place else value


_OURS = {"attacks", "bench", "methods", "tvc"}


def _below(
    cls: type[BaseModel], field: str, place: str, node: dict[str, Any], parts: dict[str, Any]
) -> Iterator[Numeric]:
    if "$ref" in node:
        node = parts[node["$ref"].rpartition("/")[2]]
    if node.get("type") in ("integer", "number") and "enum" not in node and "const" not in node:
        yield Numeric(
            cls, field, place,
            low=node.get("minimum", node.get("exclusiveMinimum")),
            high=node.get("maximum", node.get("exclusiveMaximum")),
            above="minimum" not in node, below="maximum" not in node,
            whole=node["type"] == "integer", step=node.get("multipleOf", 1),
        )  # fmt: skip
    for inner in (*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
        yield from _below(cls, field, place, inner, parts)
    for index, inner in enumerate(node.get("prefixItems", ())):
        yield from _below(cls, field, f"{place}[{index}]", inner, parts)
    for key, name in (("items", "[]"), ("additionalProperties", "{}")):
        if isinstance(inner := node.get(key), dict):
            yield from _below(cls, field, place + name, inner, parts)
    for name, inner in node.get("properties", {}).items():
        yield from _below(cls, field, f"{place}.{name}", inner, parts)
