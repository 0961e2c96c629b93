"""The run's page: whole, escaped, the same each time; and alive in a real browser."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.report.gallery import gallery
from bench.report.hover import figures
from bench.report.html_tables import headline_table
from bench.report.run_page import RunPage, run_page
from bench.report.write import Report
from bench.tables.schema import FLAGS, STAGES, TABLE, TRIALS
from bench.tables.tables import ALL
from tests.bench.report.test_report import NASTY, frame, trial, world, worst_of, write
from tests.bench.tables.test_worst import tried
from tests.chromium import chromium

ALL_SAID = "all concepts"
HOSTILE = '"><img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script>'
BLUE = np.zeros((64, 64, 3), np.uint8) + np.array([0, 0, 255], np.uint8)


def hostile() -> dict[str, Any]:
    """A report whose method, concept, attack and prompt are all markup."""
    frames = world()
    trials = frames["trials"]
    for column, old in (("method", "esd"), ("source", "esd"), ("concept", "circle")):
        trials[column] = trials[column].replace(old, HOSTILE)
    trials["attack"] = trials["attack"].replace("p4d", HOSTILE)
    for of in (frames["utility"], frames["edits"]):
        of["method"] = of["method"].replace("esd", HOSTILE)
        of["concept"] = of["concept"].replace("circle", HOSTILE)
    trials["own_score"] = 0.75
    mine = trials[(trials["method"] == HOSTILE) & (trials["judge"] == "mini")]
    first = mine[["trial_digest", "candidate", "draw"]].iloc[:2].to_numpy().tolist()
    key = (HOSTILE, HOSTILE)
    images = [(str(d), int(c), int(k)) for d, c, k in first]
    return {
        "frames": frames,
        "pictures": {HOSTILE: {key: [BLUE, BLUE]}},
        "scores": {HOSTILE: {key: [0.9, 0.9]}},
        "prompts": {HOSTILE: {key: [HOSTILE, "second"]}},
        "images": {HOSTILE: {key: images}},
    }


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = tmp_path_factory.mktemp("page")
    said = hostile()
    return folder, write(folder, said.pop("frames"), **said)


def test_every_text_is_escaped_and_nothing_is_asked_of_anyone(
    report: tuple[Path, Report],
) -> None:
    page = (report[0] / "index.html").read_text(encoding="utf-8")
    assert "onerror=&#34;window.hacked" in page
    assert '<img src=x onerror="' not in page
    # Bokeh's own script names sites in comments and errors: the page's policy keeps it from asking them.
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; ")
    assert "http" not in policy[1]
    markup = re.sub(r"(?s)(<script[^>]*>).*?</script>", r"\1", page)
    assert not re.search(r'(?:src|href)="(?!data:|scatter\.png)', markup)
    assert markup.count("<script") == 4
    sweep = base64.b64encode((report[0] / "sweep.png").read_bytes()).decode()
    assert f'src="data:image/png;base64,{sweep}"' in page
    assert len(page) < 3 * 2**20


def test_the_same_rows_give_the_same_page_whatever_was_drawn_before(
    report: tuple[Path, Report], tmp_path: Path
) -> None:
    said = hostile()
    write(tmp_path, said.pop("frames"), **said)
    assert (tmp_path / "index.html").read_bytes() == (report[0] / "index.html").read_bytes()


def test_a_card_says_what_the_rows_say_of_its_image() -> None:
    about: dict[str, Any] = {"candidate": 0, "trial_digest": "t", "own_score": 0.75, "queries": 4}
    rows = [
        trial(**about, draw=0, image_seed=7, label="a", score=0.2),
        trial(**about, draw=0, image_seed=7, label="b", score=0.6),
        trial(**about, draw=0, image_seed=7, label="c", counts=False, score=0.9),
        trial(**about, draw=1, image_seed=8, score=0.4),
        trial(**about, draw=2, image_seed=9, status="refused", score=None),
        trial(**about, draw=0, image_seed=7, judge="clip", score=0.1),
    ]
    key = ("esd", "p4d")
    images = {"pixel art": {key: [("t", 0, draw) for draw in range(3)]}}
    prompts = {"pixel art": {key: ["x", "y", "z"]}}
    pictures: Mapping[str, Any] = {"pixel art": {key: [BLUE, BLUE, None]}}
    cards = gallery(pictures, images, prompts, frame(rows, TRIALS))
    assert [card.verdict for card in cards] == ["shown", "not shown", "refused"]
    assert [round(card.score, 3) for card in cards[:2]] == [0.6, 0.4]
    assert [(card.seed, card.prompt) for card in cards] == [(7, "x"), (8, "y"), (9, "z")]
    assert {(card.own_score, card.queries) for card in cards} == {(0.75, 4)}
    assert [bool(card.picture) for card in cards] == [True, True, False]
    fewer = gallery(pictures, images, prompts, frame(rows, TRIALS), limit=len(cards[0].picture))
    assert fewer == cards[:1], "a page has a size"


def test_figures_hide_no_method_and_number_their_parts_alike() -> None:
    worst = worst_of(tried("AB") + tried("ab", method=NASTY), [], [])
    assert figures(worst) == [], "nothing is retained"
    found = figures(worst.assign(retained_accuracy=0.5, retained_low=0.4, retained_high=0.6))
    assert [item["target_id"] for item in found] == ["figure-any", "figure-searched"]
    assert json.dumps(NASTY) in json.dumps(found[0])
    assert found[0]["root_id"] == "p0"


def test_a_method_that_lost_every_image_keeps_its_line() -> None:
    lost = tried("ab", method="uce", status="error", score=None)
    found = headline_table(worst_of(tried("AB") + lost))
    assert [[cell.text for cell in row[:3]] for row in found.rows if row[0].text == ALL_SAID] == [
        [ALL_SAID, "esd", "100 [34, 100]"],
        [ALL_SAID, "uce", "–"],
    ]


def test_an_empty_report_has_a_page() -> None:
    page = run_page(RunPage("tiny", worst_of([]), TABLE.empty(), FLAGS.empty(), [], {}))
    assert "Suite tiny" in page
    assert "stage by stage" not in page


def test_the_page_shows_an_ensemble_stage_by_stage() -> None:
    line: dict[str, Any] = dict.fromkeys(STAGES.names, 1)
    line |= {"judge": "mini", "method": "e<d", "concept": ALL, "attack": "standard[v1]"}
    line |= {"by": "prompts", "access": "prompt", "share": 0.4}
    stages = pd.DataFrame([line])
    page = run_page(
        RunPage("tiny", worst_of([]), TABLE.empty(), FLAGS.empty(), [], {}, stages=stages)
    )
    assert "stage by stage" in page
    assert "1 prompts (prompt)" in page
    assert "e&lt;d" in page


# ---- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def opened(browser: Any, page: Path, *, width: int) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    ready = (
        "return document.querySelectorAll('table.dataTable').length == 4"
        " && document.querySelectorAll('.figures > div > *').length > 0"
    )
    WebDriverWait(browser, 120).until(lambda seen: seen.execute_script(ready))


def texts(browser: Any, css: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(x => x.textContent)"
    return list(browser.execute_script(script, css))


@pytest.mark.enable_socket
@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_lives_in_chromium_and_asks_nothing_of_any_server(
    browser: Any, report: tuple[Path, Report], width: int
) -> None:
    browser.get_log("performance")
    opened(browser, report[0] / "index.html", width=width)
    assert browser.execute_script("return window.hacked") is None
    assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events
             if e["method"] == "Network.requestWillBeSent"]  # fmt: skip
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}
    assert sum(url.startswith("file:") for url in asked) == 1
    overflow = "return document.documentElement.scrollWidth - window.innerWidth"
    assert browser.execute_script(overflow) <= 0, "nothing but tables is wider than the screen"


@pytest.mark.enable_socket
@pytest.mark.slow
def test_tables_sort_by_number_and_pictures_are_chosen_by_verdict(
    browser: Any, report: tuple[Path, Report]
) -> None:
    opened(browser, report[0] / "index.html", width=1280)
    head = texts(browser, "#worst thead th")
    column = 1 + next(i for i, text in enumerate(head) if "worst per goal" in text)
    button = f"#worst thead th:nth-child({column}) .dtcc-button"
    cells = f"#worst tbody td:nth-child({column})"
    before = texts(browser, cells)
    browser.execute_script("document.querySelector(arguments[0]).click()", button)
    shares = [float(text.split()[0]) for text in texts(browser, cells)]
    assert shares == sorted(shares)
    assert sorted(shares) != [float(text.split()[0]) for text in before]
    assert set(texts(browser, "#pictures td:nth-child(5)")) == {"shown"}
    assert HOSTILE in texts(browser, "#pictures td.method"), "names are shown as they are"
    browser.execute_script(
        "document.querySelector('#pictures thead th:nth-child(2) .dtcc-button:last-child').click()"
    )
    assert HOSTILE in " ".join(texts(browser, ".dtcc-list-buttons"))
    assert browser.execute_script("return window.hacked") is None


@pytest.mark.enable_socket
@pytest.mark.slow
@pytest.mark.parametrize("head", ["method", "attack"])
def test_lines_are_chosen_from_the_list_of_a_column(
    browser: Any, report: tuple[Path, Report], head: str
) -> None:
    opened(browser, report[0] / "index.html", width=1280)
    heads = texts(browser, "#attacks thead th")
    column = 1 + next(i for i, text in enumerate(heads) if text.startswith(head))
    cells = f"#attacks tbody td:nth-child({column})"
    script = (
        "document.querySelector(arguments[0]).click();"
        "[...document.querySelectorAll('.dtcc-list-buttons button')]"
        ".find(button => button.textContent.trim() == arguments[1]).click();"
        "document.body.click()"
    )
    dropdown = f"#attacks thead th:nth-child({column}) .dtcc-button:last-child"
    before = texts(browser, cells)
    for name in set(before):  # among them names with marks of HTML
        browser.execute_script(script, dropdown, name)
        after = texts(browser, cells)
        assert set(after) == {name}
        assert len(after) < len(before)
        browser.execute_script(script, dropdown, name)
        assert texts(browser, cells) == before


@pytest.mark.enable_socket
@pytest.mark.slow
def test_the_tables_stand_without_javascript(browser: Any, report: tuple[Path, Report]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get((report[0] / "index.html").as_uri())
        found = browser.find_elements("css selector", "#worst tbody tr")
        worst = report[1].worst
        assert len(found) == int((worst["access"] == "any").sum())
        assert found[0].is_displayed()
        assert len(browser.find_elements("css selector", "#pictures tbody img")) == 2
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
