"""The report and its transcripts in a real browser, from files, with hostile names, prompts and answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from helpers.browser import axe, browser, complaints, drawn, prefer, press, remarks, resize, scrolls_sideways, texts
from helpers.report_page import rows
from helpers.reported import ARMS, TASKS, Reported

LIVE = list(ARMS)[2]


@pytest.fixture
def page(chromium: Any, report: Reported) -> Any:
    """The report in a browser, light and wide, all charts drawn."""
    resize(chromium, 1280)
    prefer(chromium, dark=False)
    if chromium.current_url != report.page.as_uri():
        complaints(chromium)  # of pages before
        chromium.get(report.page.as_uri())
        drawn(chromium, len(report.charts))
    chromium.execute_script("document.getElementById('map-reset').click()")
    return chromium


def test_every_chart_is_drawn_without_complaint_and_without_any_request(page: Any, report: Reported) -> None:
    assert remarks(page) == []
    assert "could not be drawn" not in page.find_element("tag name", "body").text
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0
    labels = page.execute_script(
        "return [...document.querySelectorAll('svg.marks')].map(e => e.getAttribute('aria-label'))"
    )
    assert sorted(labels) == sorted(chart.description for chart in report.charts)
    names = "return [...document.querySelectorAll('#chart-gain svg text')].map(e => e.textContent)"
    assert "null row" in page.execute_script(names)  # which has room, and is not cut


def test_a_screen_reader_is_told_of_each_chart_once_and_by_its_name(page: Any, report: Reported) -> None:
    tree = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    said = [node.get("name", {}).get("value") for node in tree if not node.get("ignored")]
    for chart in report.charts:
        named = [node for node in tree if node.get("name", {}).get("value") == chart.description]
        assert [node["role"]["value"] for node in named if not node.get("ignored")] == ["image"], chart.key
        assert f"Its figures: {chart.title}" in said or not (chart.table or chart.figures)
    figures = [n["name"]["value"] for n in tree if n.get("role", {}).get("value") == "figure" and not n.get("ignored")]
    assert figures == [chart.title for chart in report.charts if chart.key in ("groups", "gain")] + [
        chart.title for chart in report.charts if chart.key not in ("groups", "gain")
    ]


def test_the_page_s_policy_lets_nothing_be_asked_of_the_network(page: Any) -> None:
    answer = page.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('asked'), e => done(e.message));"
    )
    assert answer != "asked"
    assert any("Content Security Policy" in line for line in complaints(page))


def test_nothing_that_was_planted_in_names_and_prompts_runs(page: Any) -> None:
    assert page.execute_script("return window.planted") is None
    assert page.execute_script("return document.images.length") == 0
    assert texts(page, "#map-head button") == ["task", *ARMS]
    assert "‹U+202E›" in rows(page)[1]
    assert "<script>window.planted" in rows(page)[0]


def test_the_map_is_sorted_by_keyboard_and_says_so(page: Any) -> None:
    head = "#map-head th:nth-child(4) button"
    press(page, head, Keys.ENTER)
    assert (
        page.execute_script("return document.querySelector('#map-head th:nth-child(4)').getAttribute('aria-sort')")
        == "ascending"
    )
    verdicts = texts(page, "#map-body td:nth-child(4) span")
    assert verdicts[:10] == ["expanded"] * 10
    assert [row.split(" + ")[0] for row in rows(page)][:10] == [str(n) for n in range(20, 30)]
    press(page, head, Keys.SPACE)
    assert texts(page, "#map-body td:nth-child(4) span")[-1] != "preserved"
    assert (
        page.execute_script("return document.querySelector('#map-head th:nth-child(4)').getAttribute('aria-sort')")
        == "descending"
    )


def test_the_map_is_filtered_by_keyboard_and_tells_how_many_are_left(page: Any) -> None:
    status = lambda: texts(page, "#map-status")[0]  # noqa: E731
    assert status() == f"Tasks 1 to 25 of {TASKS}."
    press(page, "#map-search", "29?")
    assert (status(), len(rows(page))) == (f"Tasks 1 to 1 of 1 that match, of {TASKS}.", 1)
    press(page, "#map-reset", Keys.ENTER)
    press(page, "#map-verdict", "e")  # expanded
    assert status() == f"Tasks 1 to 10 of 10 that match, of {TASKS}."
    press(page, "#map-arm", Keys.ARROW_DOWN)  # bare, which has no verdicts
    assert status() == f"No task of 0 that match, of {TASKS}."


def test_the_map_is_paged_by_keyboard(page: Any) -> None:
    assert not page.find_element("id", "map-previous").is_enabled()
    press(page, "#map-next", Keys.ENTER)
    assert texts(page, "#map-status") == [f"Tasks 26 to {TASKS} of {TASKS}."]
    assert len(rows(page)) == TASKS - 25
    assert not page.find_element("id", "map-next").is_enabled()
    assert page.switch_to.active_element.get_attribute("id") == "map-previous"  # the focus is not lost at the end
    press(page, "#map-previous", Keys.ENTER)
    assert page.switch_to.active_element.get_attribute("id") == "map-next"


def test_the_map_finds_a_task_by_its_whole_hash_as_other_commands_print_it(page: Any, report: Reported) -> None:
    assert report.analysis.map is not None
    press(page, "#map-search", report.analysis.map.tasks[4].hash)
    assert [row[:5] for row in rows(page)] == ["4 + 4"]


def test_the_map_tells_missing_attempts_of_a_cell(page: Any, report: Reported, tmp_path: Path) -> None:
    from copy import deepcopy
    from dataclasses import replace

    from testbed.report.page import write_page

    lost = deepcopy(report.analysis.map)
    assert lost is not None
    lost.arms[1].missing[2] = 7
    write_page(replace(report.analysis, name="lost", map=lost), tmp_path / "lost.html")
    page.get((tmp_path / "lost.html").as_uri())
    assert texts(page, "#map-body tr:nth-child(3) td:nth-child(3) span")[-1] == "7 missing"
    assert len([text for text in texts(page, "#map-body span") if "missing" in text]) == 1


def test_a_cell_leads_to_its_transcripts_and_these_to_both_arms_side_by_side(page: Any, report: Reported) -> None:
    page.execute_script("document.querySelector('#map-body tr:nth-child(3) td:nth-child(4) a').click()")
    assert page.current_url.endswith("#arm-3")
    assert page.find_elements("id", "arm-3")
    assert len(texts(page, "section.tx")) == 2 * len(ARMS)
    page.execute_script("document.querySelector('#arm-3 td:last-child a').click()")
    assert "pair-" in page.current_url
    assert len(texts(page, "section.tx-two")) == 1
    page.execute_script("document.querySelector('nav a').click()")
    assert unquote(page.current_url) == unquote(report.page.as_uri())


def test_a_point_of_a_chart_and_a_row_of_a_table_lead_to_the_arm_s_transcripts(page: Any) -> None:
    link = page.find_element("css selector", "table[aria-label='Cost and reach'] tbody tr:last-child th a")
    assert link.get_attribute("href").endswith("_transcripts/arm-3.html")
    hit = (
        "const all = [...document.querySelectorAll('#chart-front_usd path')].filter(p => p.__data__?.datum?.href);"
        "const last = all[all.length - 1], box = last.getBoundingClientRect();"
        "const at = {bubbles: true, clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, view: window};"
        "last.dispatchEvent(new MouseEvent('click', at)); return last.__data__.datum.href"
    )
    target = page.execute_script(hit)
    assert target.endswith("_transcripts/arm-3.html")
    WebDriverWait(page, 10).until(lambda d: d.current_url.endswith("/arm-3.html"))
    assert LIVE in texts(page, "h1")[0]


def test_every_page_of_transcripts_is_reached_by_links_and_every_link_has_its_target(report: Reported) -> None:
    pages = {path.name: path.read_text(encoding="utf-8") for path in report.folder.iterdir()}
    seen, todo = set(), ["index.html"]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for href in re.findall(r'<a href="([^"]+)"', pages[name]):
            target, _, anchor = href.partition("#")
            if target.startswith("../"):
                assert unquote(target[3:]) == report.page.name
                continue
            assert (target or name) in pages
            assert not anchor or f'id="{anchor}"' in pages[target or name]
            todo += [target] if target else []
    assert seen == set(pages)


def test_planted_markup_in_transcripts_stays_text(chromium: Any, report: Reported) -> None:
    for path in sorted(report.folder.iterdir())[:3] + sorted(report.folder.glob("task-*"))[:2]:
        complaints(chromium)
        chromium.get(path.as_uri())
        assert chromium.execute_script("return window.planted") is None
        assert chromium.execute_script("return document.scripts.length + document.images.length") == 0
        assert complaints(chromium) == []


@pytest.mark.parametrize("dark", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["light", "dark"])
def test_no_serious_violation_of_accessibility(page: Any, dark: bool) -> None:
    prefer(page, dark=dark)
    assert axe(page) == []


def test_dark_surroundings_turn_the_page_and_its_charts_dark(page: Any) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    label = "return document.querySelector('#chart-gain svg .mark-text text').getAttribute('fill')"
    light = page.execute_script(colour), page.execute_script(label)
    prefer(page, dark=True)
    WebDriverWait(page, 20).until(lambda d: d.execute_script(label) != light[1])
    assert page.execute_script(colour) != light[0]


def test_a_narrow_screen_never_scrolls_sideways(chromium: Any, report: Reported) -> None:
    resize(chromium, 360)
    chromium.get(report.page.as_uri())
    drawn(chromium, len(report.charts))
    assert not scrolls_sideways(chromium)
    for path in (
        [*report.folder.glob("task-*")][:1] + [*report.folder.glob("pair-*")][:1] + [report.folder / "arm-3.html"]
    ):
        chromium.get(path.as_uri())
        assert not scrolls_sideways(chromium), path


@pytest.mark.parametrize("dark", [False, True])
def test_a_table_that_goes_on_at_a_side_shows_it(page: Any, dark: bool) -> None:
    """By what changes in its picture where it is drawn without its background."""
    prefer(page, dark=dark)
    look = """
        const table = document.querySelector('#table-cost ~ .scroll');
        table.scrollLeft = arguments[0]; table.style.background = arguments[1];
        return [table.scrollLeft, table.scrollWidth - table.clientWidth];
    """

    def shaded(at: int) -> bool:
        pictures = []
        for background in ("", "none"):
            page.execute_script(look, at, background)
            pictures.append(page.find_element("css selector", "#table-cost ~ .scroll").screenshot_as_base64)
        page.execute_script(look, 0, "")
        return pictures[0] != pictures[1]

    assert page.execute_script(look, 0, "")[1] == 0
    assert not shaded(0)  # all of it is seen
    resize(page, 360)
    end = page.execute_script(look, 0, "")[1]
    assert end > 60
    assert shaded(0)
    assert shaded(end // 2)
    assert shaded(end)


@pytest.mark.slow
def test_transcripts_have_no_serious_violation_and_without_scripts_the_figures_stand(report: Reported) -> None:
    with browser(dark=True) as driver:
        for path in (
            "index.html",
            "arm-3.html",
            next(report.folder.glob("task-*")).name,
            next(report.folder.glob("pair-*")).name,
        ):
            driver.get((report.folder / path).as_uri())
            assert axe(driver) == []
    with browser(scripts=False) as driver:
        driver.get(report.page.as_uri())
        body = driver.find_element("tag name", "body").text
        assert "The charts need JavaScript; the tables below hold the same figures." in body
        assert "Verdicts on tasks, against bare" in body


def test_transcripts_are_replaced_whole_and_nothing_else_is(report: Reported, tmp_path: Path) -> None:
    from testbed.errors import UsageError
    from testbed.report.transcript_pages import write_transcripts
    from testbed.store import Store

    with Store.open(report.store, create=False) as store:
        write_transcripts(store, report.analysis, tmp_path / "a.html", 1)
        old = tmp_path / "a_transcripts" / "old.html"
        old.write_text("", encoding="utf-8")
        write_transcripts(store, report.analysis, tmp_path / "a.html", 1)
        assert not old.exists()
        assert [path.name for path in tmp_path.iterdir()] == ["a_transcripts"]
        (tmp_path / "b_transcripts").mkdir()
        with pytest.raises(UsageError, match="b_transcripts exists"):
            write_transcripts(store, report.analysis, tmp_path / "b.html", 1)
