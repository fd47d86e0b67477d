"""Points of the report's charts in a real browser: they lead to transcripts in the page and to the map of tasks."""

from __future__ import annotations

import re
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from helpers.browser import axe, complaints, drawn, opens, prefer, press, resize, scrolls_sideways, texts
from helpers.report_page import active, chosen
from helpers.reported import ARMS, ATTEMPTS, TASKS, Reported

LIVE = list(ARMS)[2]
TO_MAP = ("gain", "groups", "verdicts", "map")  # charts that lead to the map of tasks


@pytest.fixture(scope="module")
def held(chromium: Any, report: Reported) -> Any:
    """A page that holds transcripts itself, all charts drawn."""
    from testbed.report.page import write_page
    from testbed.report.transcripts_inside import transcripts_inside
    from testbed.store import Store

    path = report.page.with_name("held.html")
    with Store.open(report.store, create=False) as store:
        write_page(report.analysis, path, transcripts_inside(store, report.analysis, room=40_000))
    resize(chromium, 1280)
    prefer(chromium, dark=False)
    complaints(chromium)
    chromium.get(path.as_uri())
    drawn(chromium, len(report.charts))
    return chromium


def test_every_point_that_leads_somewhere_is_reached_by_keyboard_and_says_what_it_is(held: Any) -> None:
    points = held.execute_script(
        "return [...document.querySelectorAll('.points:not([hidden])')].map(group => [group.parentElement"
        ".querySelector('.chart').id, [...group.children].map(link => link.getAttribute('aria-label'))])"
    )
    charts = {key.removeprefix("chart-").partition("_")[0] for key, _ in points}
    assert charts == {"creation", "frontier", "ladder", "reach", "front"} | {"gain", "groups", "verdicts", "map"}
    for key, names in points:
        before = (
            "const all = [...document.querySelectorAll('a, button, input, select, summary, [tabindex=\"0\"]')]"
            ".filter(e => e.tabIndex >= 0 && e.checkVisibility()), group = document.querySelector('#' + arguments[0])"
            ".parentElement; all.filter(e => group.compareDocumentPosition(e) & Node.DOCUMENT_POSITION_PRECEDING).pop()"
            ".focus()"
        )
        held.execute_script(before, key)
        ActionChains(held).send_keys(Keys.TAB).perform()
        assert (active(held)["chart"], active(held)["name"]) == (key, names[0])  # one stop for a whole chart
        walked = [Keys.ARROW_RIGHT] * (len(names) - 1) if len(names) < 50 else [Keys.END]
        ActionChains(held).send_keys(*walked).perform()
        found = active(held)
        assert (found["name"], found["outline"]) == (names[-1], "solid")
        assert found["to"].startswith(("#map?", "#table-") if key[6:] in TO_MAP else "#transcripts-")
        assert found["off"] < 2
        assert all(name.startswith(("arm ", "step ", "group ")) for name in names)
        assert all(re.search(r"\d\.\d\d", name) or "verdict" in name for name in names)
        assert texts(held, f"#{key} ~ .told") == [names[-1]]  # for those who see
    assert {name.split(",")[0] for _, names in points for name in names} >= {f"arm {arm}" for arm in ARMS}


def test_arrows_up_and_down_change_the_arm_and_points_stay_under_the_focus_on_a_narrow_screen(held: Any) -> None:
    resize(held, 360)
    press(held, "#chart-reach_attempts ~ .points a:nth-child(3)", Keys.ARROW_DOWN)
    found = active(held)
    assert found["name"].startswith(f"arm {list(ARMS)[1]}, attempts 3,")
    assert found["off"] < 2
    press(held, "#chart-reach_attempts ~ .points a:nth-child(3)", Keys.END)
    assert active(held)["name"].startswith(f"arm {LIVE}, attempts {ATTEMPTS},")
    assert not scrolls_sideways(held)
    resize(held, 1280)


def test_a_point_and_a_cell_are_followed_by_keyboard_to_transcripts_in_the_page(held: Any) -> None:
    held.execute_script("document.querySelectorAll('#transcripts details').forEach(e => { e.open = false; })")
    press(held, "#chart-front_usd ~ .points a:last-child", Keys.ENTER)
    opens(held, ["transcripts-3"])
    assert active(held)["text"].startswith(LIVE)
    cell = "#map-body tr:nth-child(21) td:nth-child(4) a"
    assert (
        held.find_element("css selector", cell).get_attribute("aria-label").startswith(f"24/24, expanded, {LIVE}, 20 +")
    )
    press(held, cell, Keys.ENTER)
    opens(held, ["transcripts-3", "cell-21-3"])
    assert "24 of 24 solved, expanded: 20 + 20?" in active(held)["text"]
    assert held.find_element("css selector", "#cell-21-3 .tx-assistant").is_displayed()
    held.execute_script("document.querySelectorAll('#transcripts details').forEach(e => { e.open = false; })")
    press(held, cell, Keys.ENTER)  # the same address again
    opens(held, ["transcripts-3", "cell-21-3"])
    assert held.execute_script("return window.planted") is None
    assert complaints(held) == []


def test_a_verdict_and_a_group_lead_to_their_tasks_in_the_map(held: Any, report: Reported) -> None:
    names = held.execute_script(
        "return [...document.querySelectorAll('#chart-verdicts ~ .points a')].map(link => link.ariaLabel)"
    )
    one = next(n for n, name in enumerate(names, 1) if name.startswith(f"arm {LIVE}, verdict expanded, tasks "))
    count = names[one - 1].rpartition(" ")[2]
    for _ in range(2):  # the same address again
        held.execute_script("document.getElementById('map-reset').click()")
        press(held, f"#chart-verdicts ~ .points a:nth-child({one})", Keys.ENTER)
        told = f"Tasks 1 to {count} of {count} that match, of {TASKS}."
        assert chosen(held) == ["all groups", LIVE, "expanded", LIVE, told]
        assert held.execute_script("return document.activeElement.id") == "map-rows"
    press(held, "#chart-groups ~ .points a:first-child", Keys.ARROW_DOWN)
    first, second, arm = *report.analysis.groups[:2], report.analysis.comparisons[0].arm
    assert active(held)["name"].startswith(f"group {second.name}, arm {arm}, ")
    press(held, "#chart-groups ~ .points a:first-child", Keys.ENTER)
    assert (chosen(held)[:4], f" of {first.tasks}" in chosen(held)[4]) == ([first.name, arm, "any verdict", arm], True)
    mark = held.execute_script(  # on the figure that stands on the cell
        "return [...document.querySelectorAll('#chart-groups text')].filter(t => t.__data__?.href).pop()"
    )
    held.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    ActionChains(held).move_to_element(mark).click().perform()
    assert chosen(held)[:2] == [report.analysis.groups[-1].name, report.analysis.comparisons[-1].arm]
    assert complaints(held) == []
    held.execute_script("document.getElementById('map-reset').click(); location.hash = ''")


def test_a_point_is_followed_by_mouse_to_transcripts_in_the_page(held: Any) -> None:
    held.execute_script("document.querySelectorAll('#transcripts details').forEach(e => { e.open = false; })")
    marks = held.execute_script(
        "return [...document.querySelectorAll('#chart-front_seconds path')].filter(p => p.__data__?.href)"
    )
    held.execute_script("arguments[0].scrollIntoView({block: 'center'})", marks[-1])
    ActionChains(held).move_to_element(marks[-1]).click().perform()
    assert (
        held.execute_script("return location.hash + document.querySelector('#transcripts-3').open")
        == "#transcripts-3true"
    )


@pytest.mark.parametrize(
    ("dark", "width"),
    [(False, 1280), pytest.param(True, 360, marks=pytest.mark.slow)],
    ids=["light", "dark and narrow"],
)
def test_transcripts_in_the_page_have_no_serious_violation(held: Any, dark: bool, width: int) -> None:
    resize(held, width)
    prefer(held, dark=dark)
    held.execute_script("location.hash = ''; location.hash = '#cell-21-3'")
    assert axe(held, "#transcripts") == []
    held.execute_script("document.querySelector('#chart-front_usd ~ .points a').focus()")
    assert not scrolls_sideways(held)
    resize(held, 1280)
    prefer(held, dark=False)
