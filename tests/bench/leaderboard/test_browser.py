"""The site in a real Chromium: sort, filter, hover and links; hostile names; keyboard, contrast and three widths."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.leaderboard.site import build_site
from tests.bench.leaderboard.test_site import HOSTILE, hostile
from tests.chromium import chromium

pytestmark = [pytest.mark.enable_socket, pytest.mark.slow]
WIDTHS = (1280, 768, 360)
READY = (
    "return !document.querySelector('script[type=module]')"
    " || (document.querySelectorAll('table.dataTable').length == 1"
    " && document.querySelector('#scatter > *') !== null)"
)
CONTRAST = """
const channel = (byte) => {
  const value = byte / 255;
  return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
};
const light = (c) => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
const parts = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
const behind = (of) => {
  for (let at = of; at; at = at.parentElement) {
    const colour = parts(getComputedStyle(at).backgroundColor);
    if (colour[3] > 0.99) return colour;
  }
  return [255, 255, 255, 1];
};
const faint = [];
for (const of of document.querySelectorAll('main *, body > p *')) {
  const own = [...of.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || !of.offsetParent || of.closest('#scatter, script, noscript')) continue;
  const seen = [light(parts(getComputedStyle(of).color)), light(behind(of))];
  const ratio = (Math.max(...seen) + 0.05) / (Math.min(...seen) + 0.05);
  if (ratio < 4.5) faint.push(`${of.tagName} ${of.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
}
return faint;
"""
TOOLTIP = """
const read = (node) => (node.shadowRoot ? read(node.shadowRoot) : '')
  + [...node.childNodes].map((each) => each.nodeType === 3 ? each.textContent : read(each)).join(' ');
return [...document.querySelectorAll('.bk-Tooltip')].map(read).join(' ');
"""
POINT = """
const view = [...Bokeh.index.roots][0];
const at = view.canvas_view.el.getBoundingClientRect();
return [at.x + view.frame.x_scale.compute(arguments[0]), at.y + view.frame.y_scale.compute(arguments[1])];
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    root = tmp_path_factory.mktemp("browser")
    tree = hostile(root / "results")
    build_site(tree.board, root / "site")
    return tree.protocol.replace("@", "-"), root / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def go(browser: Any, page: Path, *, width: int = 1280) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    WebDriverWait(browser, 120).until(lambda seen: seen.execute_script(READY))


def texts(browser: Any, css: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(x => x.textContent.trim())"
    return list(browser.execute_script(script, css))


def column(browser: Any, head: str) -> int:
    return 1 + next(i for i, text in enumerate(texts(browser, "#board thead th")) if head in text)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_page_fits_asks_nothing_and_can_be_read(
    browser: Any, site: tuple[str, Path], width: int
) -> None:
    stem, there = site
    entries = sorted((there / stem).glob("*.html"))
    for page in (there / "index.html", there / f"{stem}.html", *entries):
        browser.get_log("performance")
        go(browser, page, width=width)
        assert browser.execute_script("return window.hacked") is None
        assert not [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
        logged = [json.loads(one["message"])["message"] for one in browser.get_log("performance")]
        asked = [
            one["params"]["request"]["url"]
            for one in logged
            if one["method"] == "Network.requestWillBeSent"
        ]
        assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}
        assert sum(url.startswith("file:") for url in asked) == 1
        wide = "return document.documentElement.scrollWidth - window.innerWidth"
        assert browser.execute_script(wide) <= 0, f"{page.name}: only tables may be wider"
        assert browser.execute_script(CONTRAST) == []


def test_columns_sort_by_number_and_rows_are_chosen_by_standing(
    browser: Any, site: tuple[str, Path]
) -> None:
    go(browser, site[1] / f"{site[0]}.html")
    place = column(browser, "retained")
    cells = f"#board tbody td:nth-child({place})"
    button = f"#board thead th:nth-child({place}) .dtcc-button"
    browser.execute_script("document.querySelector(arguments[0]).click()", button)
    shares = [float(text.split()[0]) for text in texts(browser, cells)]
    assert shares == sorted(shares) != sorted(shares, reverse=True)
    standing = column(browser, "standing")
    open_list = f"#board thead th:nth-child({standing}) .dtcc-button:last-child"
    browser.execute_script("document.querySelector(arguments[0]).click()", open_list)
    choice = "[...document.querySelectorAll('.dtcc-list-buttons button')]"
    browser.execute_script(f"{choice}.find(x => x.textContent.trim() == 'control').click()")
    assert sorted(texts(browser, "#board tbody td:nth-child(2)")) == ["destroyed", "none"]


@pytest.mark.parametrize("width", (1280, 360))
def test_a_doubt_stands_beside_the_rank_in_words_on_the_screen(
    browser: Any, site: tuple[str, Path], width: int
) -> None:
    go(browser, site[1] / f"{site[0]}.html", width=width)
    ranks, flags = texts(browser, "#board tbody td:first-child"), column(browser, "flags")
    doubted = [
        flag == "unreliable" for flag in texts(browser, f"#board tbody td:nth-child({flags})")
    ]
    assert [rank.endswith(" unreliable") for rank in ranks] == doubted
    assert True in doubted
    assert False in doubted
    seen = browser.execute_script(
        "return [...document.querySelectorAll('#board td:first-child .mark')].map(x => {"
        " const at = x.getBoundingClientRect();"
        " return [x.title, at.left >= 0 && at.right <= window.innerWidth && at.width > 0]; })"
    )
    assert len(seen) == doubted.count(True)
    assert all(title and there for title, there in seen)
    assert HOSTILE in [title for title, _ in seen], "a reason is shown as it is"


def test_the_keyboard_alone_sorts_searches_and_follows_a_link(
    browser: Any, site: tuple[str, Path]
) -> None:
    from selenium.webdriver import ActionChains, Keys

    go(browser, site[1] / f"{site[0]}.html")

    def press(*keys: str) -> None:
        ActionChains(browser).send_keys(*keys).perform()

    def until(css: str) -> None:
        for _ in range(40):
            press(Keys.TAB)
            if browser.execute_script("return document.activeElement.matches(arguments[0])", css):
                return
        raise AssertionError(f"{css} is not reached by Tab")

    press(Keys.TAB)
    assert browser.execute_script("return document.activeElement.className") == "skip"
    until("input[type=search], .dt-search input, .dt-input")
    press("task")
    assert texts(browser, "#board tbody td:nth-child(2)") == ["task_vector[mini-paired](alpha=3.0)"]
    press(*([Keys.BACKSPACE] * 4))
    place = column(browser, "worst per goal")
    until(f"#board thead th:nth-child({place}) *")
    outline = (
        "const s = getComputedStyle(document.activeElement); return s.outlineStyle + s.outlineWidth"
    )
    assert browser.execute_script(outline) not in ("none0px", "none3px")
    press(Keys.ENTER)
    shares = [float(t.split()[0]) for t in texts(browser, f"#board tbody td:nth-child({place})")]
    assert shares == sorted(shares)
    until("#board tbody a")
    name = browser.execute_script("return document.activeElement.textContent")
    press(Keys.ENTER)
    assert texts(browser, "h1") == [name]


def test_links_lead_from_the_index_to_an_entry_and_back(
    browser: Any, site: tuple[str, Path]
) -> None:
    go(browser, site[1] / "index.html")
    browser.find_element("css selector", "tbody a").click()
    assert "Protocol mini-quick@" in texts(browser, "h1")[0]
    names = texts(browser, "#board tbody a")
    assert HOSTILE in names, "a name is shown as it is"
    row = names.index(HOSTILE)
    script = "document.querySelectorAll('#board tbody a')[arguments[0]].click()"
    browser.execute_script(script, row)
    assert texts(browser, "h1") == [HOSTILE]
    assert browser.execute_script("return window.hacked") is None
    links = "return [...document.querySelectorAll('main a[href^=http]')].map(x => x.protocol)"
    assert set(browser.execute_script(links)) == {"https:"}
    browser.find_element("css selector", "a[href$='.html']:nth-of-type(2)").click()
    assert "Protocol mini-quick@" in texts(browser, "h1")[0]


def test_a_point_says_on_hover_what_it_is(browser: Any, site: tuple[str, Path]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    go(browser, site[1] / f"{site[0]}.html")
    browser.execute_script("document.getElementById('scatter').scrollIntoView({block: 'center'})")
    x, y = browser.execute_script(POINT, 85.1852, 47.2222)
    for dx in (30, 0):
        move = {"type": "mouseMoved", "x": x + dx, "y": y}
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", move)
    WebDriverWait(browser, 30).until(lambda seen: "of 36 goals" in seen.execute_script(TOOLTIP))
    said = browser.execute_script(TOOLTIP)
    assert "task_vector[mini-paired](alpha=3.0)" in said
    assert "ranked" in said


def test_the_tables_stand_without_javascript(browser: Any, site: tuple[str, Path]) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get((site[1] / f"{site[0]}.html").as_uri())
        rows = browser.find_elements("css selector", "#board tbody tr")
        assert len(rows) == 6
        assert all(row.is_displayed() for row in rows)
        assert "of 36" in rows[0].text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
