from __future__ import annotations

from typing import Any

from bench.run.provenance import Origins

OLD = {"commit": "a", "versions": {"torch": "2.14.0"}}
NEW = {"commit": "b", "versions": {"torch": "2.15.0"}}


def test_cells_are_counted_by_what_computed_them_and_looks_are_told_once() -> None:
    records: list[dict[str, Any]] = [
        {"provenance": NEW, "self_check": {"image_spread": 0.5}},
        {"provenance": OLD},
        {"provenance": dict(reversed(NEW.items())), "self_check": {"image_spread": 0.5}},
        {"provenance": NEW},
        {"provenance": NEW, "self_check": {"image_spread": 0.6}},
        {"title": "of another program"},
    ]
    origins = Origins()
    for record in records:
        origins.add(record)
    looks = [{"image_spread": 0.5}, {"image_spread": 0.6}]
    assert origins.as_json() == [
        {**NEW, "cells": 4, "self_checks": looks},
        {**OLD, "cells": 1, "self_checks": []},
    ]
