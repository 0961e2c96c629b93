"""One command for a model of one's own: the suite around it, its run, and its card."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from bench import erase
from bench.api.own import own_suite
from bench.cli.main import main
from bench.cli.own import committed
from bench.core.errors import UsageError
from bench.model.text_to_image import TextToImage
from bench.tables.card import card_lines, console_card
from bench.tables.schema import WORST
from tests.tiny import SUITE


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def erased(model: TextToImage, tmp_path: Path) -> Path:
    edited = erase(model, "star", {"uce": {"preset": "repo-2023"}})
    edited.to_diffusers().save_pretrained(tmp_path / "my model")
    return tmp_path / "my model"


def test_a_folder_is_run_beside_the_controls_and_has_its_card(
    erased: Path, suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(erased), "--concept", "star", "--suite", str(suite), "--store", str(tmp_path / "store"),
             "--out", str(tmp_path / "out")]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "my model: does star come back?" in said
    assert "typed prompts" in said and "any of these" in said
    assert "No committed results of this protocol" in said
    assert max(map(len, said.splitlines()[:-1])) <= 80
    page = (tmp_path / "out" / "README.md").read_text()
    assert "tvc-bench evaluate" in page and "--concept star" in page
    with pytest.raises(SystemExit):
        main([*words, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["computed"] == 0  # all of it is in the store
    assert {line["method"] for line in found["card"]} == {"my model"}
    assert {line["method"] for line in found["worst"]} == {"none", "destroyed", "my model"}


def test_the_suite_follows_from_the_base(erased: Path) -> None:
    own = own_suite(str(erased), ["star"])
    assert own.of == "mini-quick"
    assert own.suite.name == "mini-quick-my-model"
    assert [m.label for m in own.suite.methods] == ["none", "destroyed", "my model"]
    assert [c.text for c in own.suite.concepts] == ["star"]
    commit = "0" * 40
    with pytest.raises(UsageError, match="none is shipped for it"):
        own_suite(str(erased), ["star"], base=f"owner/name@{commit}")


def test_of_several_suites_for_a_base_somebody_chooses(erased: Path) -> None:
    with pytest.raises(UsageError, match=r"name one: sd14-identities-quick, .*sd14-styles-quick"):
        own_suite(str(erased), ["church"], base="CompVis/stable-diffusion-v1-4")


def test_a_class_is_evaluated_under_its_name() -> None:
    own = own_suite("methods.uce:UCE", ["zorbo"])
    assert own.label == "UCE"
    assert own.suite.methods[2].name == "uce"


@pytest.mark.parametrize(
    ("what", "concepts", "said"),
    [
        ("nowhere", ("star",), "found nothing there"),
        ("owner/name@abc", ("star",), "40 hex digits"),
        ("methods.uce:UCE", (), "--concept: expected what the model should have lost"),
        ("methods.uce:UCE", ("stra",), "did you mean 'star'"),
    ],
)
def test_what_cannot_be_evaluated_is_told(what: str, concepts: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        own_suite(what, concepts)


def test_the_published_methods_stand_beside_it_wherever_it_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines, source = committed("mini-quick")
    assert Path(source).is_absolute()
    own = lines[(lines["method"] == "uce[repo-2023]") & (lines["concept"] == "star")]
    run = lines[lines["concept"] == "star"]
    card = pd.concat([run[run["method"] == "none"], own.assign(method="mine")])
    console = Console(width=80)
    with console.capture() as got:
        console.print(console_card(card, "mine", lines, source))
    beside = got.get().partition("Beside it, on the same protocol")[2]
    assert {"mine", "uce[repo-2023]"} <= set(beside.replace(">", " ").split())
    assert committed("mini-claims")[1] == "mini-claims has none"


def test_what_a_run_is_compared_with_is_installed_too() -> None:
    """A package that was built has no checkout around it."""
    root = Path(__file__).parents[3]
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    installed = settings["tool"]["setuptools"]["data-files"]
    for folder in (root / "results").iterdir():
        if (folder / "worst.csv").is_file():
            files = [f"results/{folder.name}/{name}.csv" for name in ("table", "worst")]
            assert installed[f"share/tvc-bench/results/{folder.name}"] == files


def test_a_card_without_rows_says_so() -> None:
    console = Console(record=True, width=80, file=None, quiet=False)
    with console.capture() as got:
        console.print(console_card(WORST.empty(), "mine", WORST.empty(), "results/x"))
    assert got.get().strip() == "no rows"
    assert not len(card_lines(WORST.empty(), "mine"))
