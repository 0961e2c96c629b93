"""A field enters a digest as it is declared."""

from __future__ import annotations

from typing import ClassVar

from bench.core.spec import Spec, added, applied, runtime


class Old(Spec):
    """A spec as it was when results were stored."""

    name: ClassVar[str] = "thing"
    steps: int = 3


class New(Old):
    """The same spec with a field of each kind more."""

    rounds: int = added(0, ge=0)
    texts: dict[str, tuple[str, ...]] = added({})
    rows_at_once: int = runtime(8)
    threshold: float = applied(0.5)


def test_a_field_that_came_later_keeps_the_digest_as_long_as_it_holds_its_default() -> None:
    assert New().digest == Old().digest
    assert New(rounds=0, texts={}, steps=4).digest == Old(steps=4).digest


def test_at_another_value_it_counts() -> None:
    assert New(rounds=1).digest != New().digest
    assert New(rounds=1).identity()["fields"] == {"steps": 3, "rounds": 1}
    assert New(texts={"style": ("a",)}).digest != New(texts={"style": ("b",)}).digest


def test_speed_and_thresholds_never_count() -> None:
    assert New(rows_at_once=1, threshold=0.9).digest == New().digest


def test_an_identity_without_the_field_is_read_back() -> None:
    identity = New(steps=5).identity()
    assert "rounds" not in identity["fields"]
    assert New(**identity["fields"]) == New(steps=5)
