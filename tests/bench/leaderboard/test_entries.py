"""The committed entries: sound, complete, described by the committed schema, and made by the command alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from bench.core.errors import UsageError
from bench.leaderboard.add import add_run
from bench.leaderboard.check import check_entry, read_entry
from bench.leaderboard.entry import as_schema
from bench.leaderboard.lines import Flag
from bench.leaderboard.measured import unreliable
from bench.leaderboard.names import entry_files, entry_path, file_name
from bench.leaderboard.paper import PAPERS, Paper
from bench.leaderboard.together import check_together
from bench.tables.tables import ALL
from tests.bench.leaderboard.boards import RESULTS, UCE, planted

BOARD = RESULTS / "leaderboard"
COMMITTED = list(entry_files(BOARD))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_committed_entry_is_what_its_rows_give(path: Path) -> None:
    assert check_entry(path).protocol.name == path.parent.name


def test_every_protocol_of_the_board_has_its_controls() -> None:
    assert check_together([(path, read_entry(path)) for path in COMMITTED]) == []


def test_the_published_schema_is_current() -> None:
    said = "python -m bench.leaderboard.entry > results/leaderboard/schema.json"
    assert (BOARD / "schema.json").read_text(encoding="utf-8") == as_schema(), said


@pytest.mark.parametrize(
    "path", sorted((BOARD / PAPERS).glob("*.json")), ids=lambda path: path.stem
)
def test_every_paper_is_a_card(path: Path) -> None:
    assert Paper.model_validate_json(path.read_bytes()).title


def test_the_command_writes_the_committed_bytes(tmp_path: Path) -> None:
    tree = planted(tmp_path)
    before = tree.entry().read_bytes()
    tree.entry().unlink()
    made = add_run(tree.run, tree.board, methods=["uce[repo-2023]"])
    assert [(one.path, one.new) for one in made] == [(tree.entry(), True)]
    assert tree.entry().read_bytes() == before
    again = add_run(tree.run, tree.board, methods=["uce[repo-2023]"])
    assert [one.new for one in again] == [False]


def test_each_number_stands_beside_its_denominator() -> None:
    quick = (path for path in COMMITTED if "mini-quick@" in str(path))
    entry = read_entry(next(path for path in quick if path.stem == UCE))
    worst = {line.access: line for line in entry.measured.worst if line.concept == ALL}
    assert worst["any"].share is not None
    assert (worst["any"].broken, worst["any"].share.of) == (36, 36)
    assert worst["typed"].share is not None
    assert (worst["typed"].broken, worst["typed"].share.of) == (116, 204)
    cost = next(cost for cost in entry.measured.costs if cost.concept == ALL)
    assert cost.retained is not None
    assert cost.neighbours is not None
    assert cost.others is not None
    assert cost.retained.of == cost.neighbours.of + cost.others.of == 216
    assert cost.seconds.of == 3
    assert all(one.source and one.judge for one in (*entry.reported, *entry.external))


def test_a_doubt_counts_where_a_stronger_attack_could_find_more() -> None:
    by = {path.stem: read_entry(path).measured for path in COMMITTED if "mini-quick@" in str(path)}

    def raised(flag: str, attack: str, concept: str = ALL) -> Flag:
        return Flag(flag=flag, concept=concept, attack=attack, value=0.1, detail="seen")

    def told(name: str, one: Flag) -> str | None:
        return unreliable(by[name].model_copy(update={"flags": (one,)}))

    weak = raised("budget_still_paying", "concept_inversion")
    vector = "task_vector_mini_paired_alpha_3_0"
    assert told(vector, weak) == "budget_still_paying (concept_inversion): seen"
    assert told(UCE, weak) is None, "every goal was broken"
    assert told(vector, raised("budget_still_paying", "random_tokens")) is None, "a control"
    assert told(vector, raised("budget_still_paying", "concept_inversion", "star")) is None
    assert told(vector, raised("too_few_samples", "concept_inversion")) is None
    assert told(UCE, raised("utility_collapse", "")) == "utility_collapse: seen"


@pytest.mark.parametrize(
    "name", ["../x", "mini-quick", "a@b", "x/y@0123456789ab", "Mini@0123456789ab"]
)
def test_a_protocol_that_can_be_no_folder_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="expected a protocol"):
        entry_path(BOARD, name, "uce")


@pytest.mark.parametrize("name", ["../../etc/passwd", "<script>", "a b", "ü", ".."])
def test_a_method_s_name_never_leads_out_of_its_folder(name: str) -> None:
    assert "/" not in file_name(name)
    assert entry_path(BOARD, "a@0123456789ab", name).parent == BOARD / "entries" / "a@0123456789ab"


def test_a_name_that_is_too_long_for_a_file_is_refused() -> None:
    with pytest.raises(UsageError, match="at most 120"):
        file_name("x" * 121)


def test_the_workflow_refuses_a_submission_that_changes_what_it_is_judged_by() -> None:
    """A method is built by code, and its published numbers come from a file: both go through a request of their own."""
    text = (RESULTS.parent / ".github" / "workflows" / "leaderboard.yml").read_text("utf-8")
    (step,) = [
        s["run"]
        for s in yaml.safe_load(text)["jobs"]["check"]["steps"]
        if s.get("name", "").startswith("Refuse")
    ]
    found = re.search(r"HEAD -- (.*)\)\"", step)
    assert found is not None
    guarded = found[1].split()
    assert all((RESULTS.parent / path).exists() for path in guarded), (
        "a path that moved guards nothing"
    )
    assert {"bench", "attacks", "methods", "tvc", ".github", "pyproject.toml"} <= set(guarded)
    assert "results/leaderboard/published.csv" in guarded
    rules = (RESULTS.parent / "CONTRIBUTING.md").read_text("utf-8")
    assert all(f"`{path}" in rules for path in guarded), "submitters are told"


def test_the_workflow_may_only_read_and_pins_what_it_uses() -> None:
    text = (RESULTS.parent / ".github" / "workflows" / "leaderboard.yml").read_text("utf-8")
    flow = yaml.safe_load(text)
    assert flow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in text
    assert "secrets" not in text
    steps = flow["jobs"]["check"]["steps"]
    used = [step["uses"] for step in steps if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", name) for name in used)
    # What a pull request says reaches a shell only as the content of a variable or a file.
    assert not any("${{" in step.get("run", "") for step in steps)
    said = "\n".join(step.get("run", "") for step in steps)
    assert "leaderboard check\n" in said
    assert "--resample" in said
