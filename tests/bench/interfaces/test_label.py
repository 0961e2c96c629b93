"""A spec's label: short enough for a table, and no two different specs of a suite share one."""

from __future__ import annotations

import pytest

from methods.few_shot import FewShot
from methods.uce import UCE
from tvc.method import TaskVectorErasure


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        (FewShot.preset("mini"), "few_shot[mini]"),
        (FewShot.preset("mini", lr=0.5), "few_shot[mini](lr=0.5)"),
        (FewShot(), "few_shot[repo-2024]"),
        (TaskVectorErasure.preset("mini", alpha=2.0), "task_vector[mini](alpha=2.0)"),
        (TaskVectorErasure(alpha=2.0), "task_vector[mini](alpha=2.0)"),
    ],
)
def test_it_names_the_nearest_preset(spec: FewShot | TaskVectorErasure, label: str) -> None:
    assert spec.label == label


def test_what_is_nearer_to_the_defaults_names_no_preset() -> None:
    class Plain(UCE):
        name = "plain_test_method"
        presets = {"far": {"lam": 0.1, "erase_scale": 9.0, "preserve_scale": 0.3}}  # noqa: RUF012

    assert Plain().label == "plain_test_method"
    assert Plain(lam=0.9).label == "plain_test_method(lam=0.9)"
    assert Plain(lam=0.1, erase_scale=9.0).label == "plain_test_method[far](preserve_scale=None)"
