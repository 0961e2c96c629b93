"""Adding a run: what is no whole, final run of a shipped protocol is refused in one line with exit code 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.cli.main import main
from bench.config.suite import load_suite
from bench.core.errors import UsageError
from bench.leaderboard.add import add_run
from bench.leaderboard.protocol import plan_of, plan_with, protocol_of, shipped_as
from bench.run.plan import Plan, make_plan
from tests.bench.leaderboard.boards import UCE, Tree, planted, write


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return planted(tmp_path / "results")


def provenance(tree: Tree, **changes: Any) -> None:
    path = tree.run / "provenance.json"
    write(path, json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dirty": True}, "got a draft"),
        ({"failed": ["attack uce"]}, "1 cells failed"),
        ({"missing": ["attack uce"]}, "1 cells are missing"),
        ({"errors": ["trial uce: 1 of 3 rows"]}, "1 rows are errors"),
        ({"command": "tvc-bench run mini-quick --only star"}, "cut by --only"),
        ({"command": "tvc-bench run mini-quick --limit=4"}, "cut by --limit"),
        ({"commit": "unknown"}, "a commit of 40 hex digits"),
        ({"suite_digest": "0" * 64}, "one of another version"),
    ],
)
def test_what_is_not_whole_and_final_is_not_added(
    tree: Tree, changes: dict[str, Any], said: str
) -> None:
    provenance(tree, **changes)
    tree.entry().unlink()
    with pytest.raises(UsageError, match=said):
        add_run(tree.run, tree.board)
    assert not tree.entry().exists()


def test_a_method_that_the_run_lacks_is_refused_with_a_hint(tree: Tree) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'uce\[repo-2023\]'"):
        add_run(tree.run, tree.board, methods=["uce[repo-2032]"])


def test_a_run_that_is_not_beside_the_board_is_refused(tree: Tree, tmp_path: Path) -> None:
    shutil.copytree(tree.run, tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="expected a run beside"):
        add_run(tmp_path / "elsewhere", tree.board)


def test_another_run_takes_no_entry_away_and_leaves_the_controls(tree: Tree) -> None:
    shutil.copytree(tree.run, tree.results / "mini-again")
    with pytest.raises(UsageError, match="got one of mini-quick; remove it first"):
        add_run(tree.results / "mini-again", tree.board, methods=["uce[repo-2023]"])
    made = add_run(tree.results / "mini-again", tree.board, methods=["none"])
    assert [(one.entry.run.folder, one.new) for one in made] == [("mini-quick", False)]
    tree.entry().unlink()
    made = add_run(tree.results / "mini-again", tree.board, methods=["uce[repo-2023]"])
    assert made[0].entry.run.folder == "mini-again"


def test_a_method_without_a_paper_is_refused(tree: Tree) -> None:
    (tree.board / "papers" / "uce.json").unlink()
    with pytest.raises(UsageError, match=r"papers/uce\.json to say who made"):
        add_run(tree.run, tree.board, methods=["uce[repo-2023]"])


def changed(**changes: Any) -> Plan:
    suite = load_suite("mini-quick").with_(**changes)
    return make_plan(suite, plan_of("mini-quick").base)


def test_a_protocol_is_all_that_a_suite_fixes_but_its_methods() -> None:
    shipped = protocol_of(plan_of("mini-quick"))
    same = [
        changed(name="mine", methods=["none", "destroyed", {"uce": {"preset": "ours"}}]),
        changed(keep_images=1),
        plan_with("mini-quick", "negative_prompt"),
    ]
    assert {protocol_of(plan).digest for plan in same} == {shipped.digest}
    other = [
        changed(seed=1),
        changed(goals=12),
        changed(seeds=2),
        changed(concepts=["star"]),
        changed(sampler={"steps": 7, "guidance_scale": 3.0}),
        changed(judges=[{"mini_judge": {"threshold": 0.4}}]),
        changed(metrics=["accuracy"]),
        make_plan(load_suite("mini-quick"), "0" * 64),
    ]
    digests = {protocol_of(plan).digest for plan in other}
    assert len(digests) == len(other)
    assert shipped.digest not in digests
    assert shipped_as(protocol_of(changed(name="mine"))) == "mini-quick"
    with pytest.raises(UsageError, match=f"and mini-quick is {shipped.name}"):
        shipped_as(protocol_of(changed(seed=1)))


def run_command(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    code = caught.value.code
    assert isinstance(code, int)
    return code


def test_the_commands_say_what_they_did(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = ("--board", str(tree.board))
    assert run_command("leaderboard", "add", str(tree.run), "--method", "none", *board) == 0
    assert "there" in capsys.readouterr().out
    assert run_command("leaderboard", "check", str(tree.entry())) == 0
    assert "1 sound entries, 0 refused" in capsys.readouterr().out
    tree.change(lambda entry: entry["measured"]["costs"][0].update(prompts=1))
    tree.entry("none").unlink()
    assert run_command("leaderboard", "check", str(tree.entry().parent)) == 1
    said = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("refused: ") for line in said) == 2
    assert f"{UCE}.json: measured.costs.0.prompts: expected 114" in "\n".join(said)
    assert "expected an entry of the control none" in "\n".join(said)
    provenance(tree, dirty=True)
    assert run_command("leaderboard", "add", str(tree.run), *board) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert run_command("leaderboard", "check", str(tmp_path / "nothing")) == 2
    assert run_command("leaderboard", "build", "--utility", "7", *board) == 2
