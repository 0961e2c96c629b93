"""A rehearsal runs every kind of cell, says what fails, and leaves nothing that counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from bench.cli.main import main
from bench.config.suite import SUITES, load_suite, read_suite, suite_names
from bench.core.errors import UsageError
from bench.interfaces import Concept, Context, Erasure
from bench.leaderboard.add import add_run
from bench.model.text_to_image import TextToImage
from bench.rehearse.rehearsal import Rehearsal, rehearse
from bench.run.loading import Runtime
from bench.run.plan import make_plan

SUITE = """\
name: small
protocol: small@1
base: CompVis/stable-diffusion-v1-4
revision: 133a221b8aa7292a167afc5127cb63fb5005638b
concepts_file: {concepts}
concepts: [church]
sampler: {{steps: 50, guidance_scale: 7.5, size: 512}}
methods: [none, destroyed, "uce: {{preset: repo-2023}}"]
attacks: [prompts, "random_tokens: {{tries: 9}}", "seed_search: {{tries: 9}}"]
judges: [{{imagenet_classifier: {{weights: ./nowhere/resnet-50}}}}]
surrogate: {{clip_zero_shot: {{clip: ./nowhere/clip, alternatives: [tench, something]}}}}
metrics: [accuracy, {{clip_score: {{clip: ./nowhere/clip}}}}]
goals: 40
seeds: 7
repeats: 3
""".replace('"uce: {{preset: repo-2023}}"', "{{uce: {{preset: repo-2023}}}}").replace(
    '"random_tokens: {{tries: 9}}", "seed_search: {{tries: 9}}"',
    "{{random_tokens: {{tries: 9}}}}, {{seed_search: {{tries: 9}}}}",
)


class FailsToErase(Erasure):
    """A method with a mistake in it."""

    name: ClassVar[str] = "fails_to_erase"

    def erase(self, model: TextToImage, concepts: list[Concept], ctx: Context) -> TextToImage:  # type: ignore[override]  # the mistake is elsewhere
        """Raises."""
        raise RuntimeError("shapes [3, 4] and [5]\ndo not match")


class LooksFirst(Erasure):
    """A method that looks at the base's images first, as Task Vectors do."""

    name: ClassVar[str] = "looks_first"

    def erase(self, model: TextToImage, concepts: list[Concept], ctx: Context) -> TextToImage:  # type: ignore[override]  # it never gets so far
        """Raises."""
        raise ValueError("church: the base cannot draw it: 0 of 8 images show it")


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    text = SUITE.format(concepts=SUITES / "concepts" / "imagenette.json")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Rehearsal]:
    """The small suite, rehearsed: the folder of all, and what came of it."""
    folder = tmp_path_factory.mktemp("small")
    return folder, rehearse(str(written(folder)), folder / "out", runtime=Runtime("cpu"))


def test_every_kind_of_cell_is_tried(done: tuple[Path, Rehearsal]) -> None:
    _, found = done
    assert found.passed and not found.failures
    assert {(k.stage, k.of) for k in found.cases} == {
        ("reference", "unedited"),
        *(("edit", m) for m in ("none", "destroyed", "uce[repo-2023]")),
        *(("utility", m) for m in ("none", "destroyed", "uce[repo-2023]")),
        *(("attack", a) for a in ("prompts", "random_tokens(tries=9)", "seed_search(tries=9)")),
        *(("trial", a) for a in ("prompts", "random_tokens(tries=9)", "seed_search(tries=9)")),
        *(("score", s) for s in ("imagenet_classifier", "accuracy", "clip_score")),
        ("report", "tables, plots and pages"),
    }
    assert all(kind.fate == "passed" for kind in found.cases)
    assert all(kind.peak_mb > 0 for kind in found.cases if kind.stage != "report")
    assert [line for line in found.notes if "stand-in" in line] == [
        f"./nowhere/{what} is not here; a stand-in took its place" for what in ("resnet-50", "clip")
    ]
    # 1 reference; per edit 1, a utility cell with 2 scores, and 3 attacks of 3 cells.
    assert found.whole == 1 + 3 * 3 * (1 + 3 + 3 * 3)
    assert found.hours is None


def test_nothing_is_written_elsewhere(done: tuple[Path, Rehearsal]) -> None:
    folder, _ = done
    assert sorted(path.name for path in folder.iterdir()) == ["out", "small.yaml"]
    assert {path.name for path in (folder / "out").iterdir()} == {
        "base", "networks", "store", "report",
    }  # fmt: skip


def test_a_report_of_random_weights_says_so_and_is_never_entered(
    done: tuple[Path, Rehearsal], tmp_path: Path
) -> None:
    folder, _ = done
    report = folder / "out" / "report"
    about = json.loads((report / "provenance.json").read_text())
    assert about["command"].startswith("tvc-bench rehearse ")
    assert "protocol" not in about
    page = (report / "README.md").read_text()
    assert page.startswith("# ") and "rehearsal-small" in page.splitlines()[0]
    assert "> **PARTIAL**" in page
    home = tmp_path / "results"
    (home / "leaderboard").mkdir(parents=True)
    report.rename(home / "small")
    try:
        for suite in (None, folder / "small.yaml"):
            with pytest.raises(
                UsageError, match=r"expected a (whole|final|run)|PARTIAL|expected a run"
            ):
                add_run(home / "small", home / "leaderboard", suite=suite)
    finally:
        (home / "small").rename(report)
    assert not list((home / "leaderboard").rglob("*.json"))


def test_a_finished_look_does_not_let_a_rehearsal_onto_the_board(
    done: tuple[Path, Rehearsal], tmp_path: Path
) -> None:
    """Somebody makes the report look final: its base is still none that a shipped suite has."""
    from bench.leaderboard.protocol import protocol_of, shipped_as
    from bench.model.pipeline.inspect import inspect_base

    folder, _ = done
    base = inspect_base(str(folder / "out" / "base"))
    suite = load_suite("mini-quick")
    plan = make_plan(suite, base.digest)
    with pytest.raises(UsageError, match="expected the protocol of a shipped suite"):
        shipped_as(protocol_of(plan))


def test_missing_weights_stop_a_plan_in_one_line_and_a_rehearsal_not_at_all(tmp_path: Path) -> None:
    suite = load_suite(written(tmp_path))
    with pytest.raises(UsageError, match=r"resnet-50, which is none") as caught:
        make_plan(suite, "0" * 64)
    assert "\n" not in str(caught.value)
    found = rehearse(
        str(written(tmp_path)), tmp_path / "out", only=["uce*", "prompts"], runtime=Runtime("cpu")
    )
    assert found.passed
    assert {kind.of for kind in found.cases if kind.stage in ("edit", "attack")} == {
        "uce[repo-2023]", "prompts",
    }  # fmt: skip


def test_a_failure_is_one_line_and_names_its_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = __name__
    methods = f'[none, destroyed, "{here}:FailsToErase", "{here}:LooksFirst"]'
    path = written(tmp_path, ("[none, destroyed, {uce: {preset: repo-2023}}]", methods))
    words = ["rehearse", str(path), "--only", "fails*", "--only", "looks*", "--only", "prompts"]
    with pytest.raises(SystemExit) as end:
        main([*words, "--device", "cpu"])
    assert end.value.code == 2, "it names code"
    assert "--allow-code" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main([*words, "--device", "cpu", "--allow-code"])
    out = capsys.readouterr().out
    assert end.value.code == 1
    (line,) = [line for line in out.splitlines() if line.startswith("failed: ")]
    assert line.startswith(
        "failed: edit fails_to_erase / church: RuntimeError: shapes [3, 4] and [5]"
    )
    assert any(line.startswith("blocked") and "prompts" in line for line in out.splitlines())
    assert "note: edit looks_first: church: the base cannot draw it" in out
    assert "rehearsal of" in out and "failed (1)" in out


def test_the_command_tells_machines_and_keeps_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = written(tmp_path), tmp_path / "kept"
    words = ["rehearse", str(path), "--only", "none", "--only", "prompts", "--device", "cpu"]
    with pytest.raises(SystemExit) as end:
        main([*words, "--json", "--out", str(out)])
    assert end.value.code == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["passed"] is True and told["hours"] is None
    assert {row["stage"] for row in told["kinds"]} >= {"edit", "attack", "trial", "score", "report"}
    assert (out / "report" / "index.html").is_file()
    with pytest.raises(SystemExit) as end:
        main([*words, "--out", str(out)])
    assert end.value.code == 2
    assert "--out: expected an empty folder" in capsys.readouterr().err


def test_a_wrong_suite_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    real = "base: CompVis/stable-diffusion-v1-4"
    for old, new, said in (
        ("goals: 40", "goals: {file: nowhere.csv}", r"nowhere\.csv"),
        (real, "base: ./nowhere", r"got '\./nowhere': no such folder"),
        ("concepts: [church]", "concepts: [chapel]", r"unknown concept .*'chapel'"),
    ):
        path = written(tmp_path, (old, new))
        with pytest.raises(UsageError, match=said):
            rehearse(str(path), tmp_path / "out", runtime=Runtime("cpu"))
        assert not (tmp_path / "out" / "store").exists()


REAL = [name for name in suite_names() if name.startswith("sd")]


def new_in(name: str) -> list[tuple[str, ...]]:
    """The patterns of what a suite is the first to name: its methods under plain prompts, its attacks on ``none``."""
    before = [read_suite(other) for other in REAL[: REAL.index(name)]]
    suite = read_suite(name)
    kinds: tuple[Literal["methods", "attacks"], ...] = ("methods", "attacks")
    methods, attacks = (
        {plug_in(e) for e in getattr(suite, kind)}
        - {plug_in(e) for one in before for e in getattr(one, kind)}
        for kind in kinds
    )
    calls = [("prompts", *(f"{method}*" for method in sorted(methods | {"none"})))]
    if attacks - {"prompts"}:
        calls.append(("none", *(f"{attack}*" for attack in sorted(attacks))))
    return calls


def plug_in(entry: Any) -> str:
    return entry if isinstance(entry, str) else str(next(iter(entry)))


def test_what_is_rehearsed_of_all_suites_is_every_plug_in_that_they_name() -> None:
    wanted = {plug_in(e) for n in REAL for e in (*read_suite(n).methods, *read_suite(n).attacks)}
    asked = {pattern.rstrip("*") for n in REAL for call in new_in(n) for pattern in call}
    assert asked == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_every_plug_in_of_a_shipped_suite_passes_once(name: str, tmp_path: Path) -> None:
    # The fast tests have the suite's own precision, which this processor may only mimic.
    for number, only in enumerate(new_in(name)):
        found = rehearse(
            name, tmp_path / str(number), runtime=Runtime("cpu"), only=only, dtype="float32"
        )
        assert found.failures == ()
