"""The page of a measurement: what it ran on, and a table for each question; the prose is in ``page.md.j2``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from bench.report.template import template
from bench.tables.text import markdown_text

__all__ = ["page"]

_KEEPS: Final = {
    "results": "the same results",
    "attack": "the same attack, rounded",
    "less": "another attack: fewer prompts tried",
}


def page(found: Mapping[str, Any]) -> str:
    """Markdown of what :func:`bench.perf.run.measure_speed` found."""
    machine = found["machine"]
    return template("bench.perf", "page.md.j2").render(
        quick=found["quick"],
        machine=machine,
        about=_table(("machine", ""), ((key, value) for key, value in machine.items())),
        models=found["models"],
        sections=_SECTIONS,
    )


def _throughput(rows: Iterable[Mapping[str, Any]]) -> str:
    return _table(
        (
            "attack", "prompts/h one at a time, float32", "batched in", "prompts/h batched", "ratio",
            "work one at a time / batched", "same finds", "taken for the concept one at a time", "batched",
            "memory one at a time, MiB", "memory batched, MiB",
        ),
        (
            (
                r["attack"],
                f"{r['reference']['prompts_per_hour']:.0f}",
                r["dtype"],
                f"{r['batched']['prompts_per_hour']:.0f}",
                f"{r['ratio']:.2f}",
                f"{r['work_ratio']:.3f}",
                f"{r['same_finds']} of {r['compared']}",
                _taken(r["reference"]),
                _taken(r["batched"]),
                _memory(r["reference"]),
                _memory(r["batched"]),
            )
            for r in rows
        ),
    )  # fmt: skip


def _taken(figures: Mapping[str, Any]) -> str:
    """Finds that the surrogate takes for the concept, of those it was shown; empty where it saw none."""
    shown = figures["looked_at"]
    return f"{figures['taken_for_the_concept']} of {shown}" if shown else ""


def _breakdown(rows: Iterable[Mapping[str, Any]]) -> str:
    return _table(
        ("variant", "what it keeps", "prompts/h", "ratio to the start", "memory, MiB"),
        (
            (
                r["variant"],
                _KEEPS[r["keeps"]],
                f"{r['prompts_per_hour']:.0f}",
                f"{r['ratio']:.2f}",
                _memory(r),
            )
            for r in rows
        ),
    )


def _compilation(rows: Iterable[Mapping[str, Any]]) -> str:
    return _table(
        ("rows", "dtype", "plain, ms", "compiled, ms", "ratio", "compiling, s", "difference"),
        (
            (r["rows"], r["dtype"], r["skipped"], "", "", "", "")
            if "skipped" in r
            else (
                r["rows"],
                r["dtype"],
                f"{1e3 * r['plain_s']:.1f}",
                f"{1e3 * r['compiled_s']:.1f}",
                f"{r['ratio']:.2f}",
                f"{r['compile_s']:.0f}",
                f"{r['relative_difference']:.1e}",
            )
            for r in rows
        ),
    )


def _utilisation(rows: Iterable[Mapping[str, Any]]) -> str:
    return _table(
        (
            "work",
            "dtype",
            "rows",
            "kernels",
            "GFLOP",
            "seconds",
            "GFLOP/s",
            "matmul GFLOP/s",
            "share",
        ),
        (
            (
                r["what"],
                r["dtype"],
                r["rows"],
                _named(r),
                f"{r['gflop']:.1f}",
                f"{r['seconds']:.3f}",
                f"{r['gflop_per_second']:.1f}",
                f"{r['matmul_gflop_per_second']:.1f}",
                f"{100 * r['share_of_matmul']:.0f} %",
            )
            for r in rows
        ),
    )


def _kernels(rows: Iterable[Mapping[str, Any]]) -> str:
    return _table(
        ("work", "dtype", "rows", "kernels", "ms", "share of the peak"),
        (
            (
                r["what"],
                r["dtype"],
                r["rows"],
                _named(r),
                r.get("skipped") or f"{1e3 * r['seconds']:.1f}",
                f"{100 * r['share_of_matmul']:.1f} %" if "share_of_matmul" in r else "",
            )
            for r in rows
        ),
    )


def _named(row: Mapping[str, Any]) -> str:
    """The kernels of a row; figures of an earlier version name none."""
    return " ".join(row.get("kernels", {}).values())


def _memory(figures: Mapping[str, Any]) -> str:
    return f"{figures['peak_mb']:.0f} (+{figures['added_mb']:.0f})"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(markdown_text(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


_SECTIONS: Final = {
    "throughput": ("Batched against one at a time", _throughput),
    "breakdown": ("Where the speed-up comes from", _breakdown),
    "compilation": ("Compilation", _compilation),
    "kernels": ("Kernels", _kernels),
    "utilisation": ("Share of the measured matrix peak", _utilisation),
}
