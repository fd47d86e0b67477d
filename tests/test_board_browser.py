"""The board's pages in a real Chromium: by keyboard, dark, narrow, without scripts, and with planted content."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from helpers.board_entries import HOSTILE, boarded, said
from helpers.boards import FREE
from helpers.browser import axe, browser, complaints, prefer, resize, scrolls_sideways, whole_picture
from testbed.board.app import create_app
from testbed.board.arm_rows import read_rows
from testbed.types import attempt_id

BIG = "<script>document.title='owned'</script></textarea>\u202e" + "0123456789abcdef" * 330_000
WIDE = "unbreakable" * 300


class Site:
    """A served board, and the addresses of its pages."""

    def __init__(self, address: str, pages: dict[str, str], ids: list[str]) -> None:
        self.address, self.pages, self.ids = address, pages, ids


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    db, board, ids = boarded(
        tmp_path_factory.mktemp("site"),
        entries_=[
            {"title": "Plain", "model": "model-one"},
            {"title": HOSTILE, "state": "partly", "rewrite": said(HOSTILE + WIDE), "model": WIDE},
            {"title": "Large", "skill": 0.9, "rewrite": said(BIG, sample=0), "model": "model-two"},
        ],
    )
    with db.reading() as connection:
        arms = {(row.entry, row.name): row.arm for row in read_rows(connection, "sums")}
    first = board.tasks[0].hash

    def attempt(entry: int, arm: str) -> str:
        return f"/attempts/{attempt_id(first, arms[ids[entry], arm], 0, board.seed)}"

    pages = {
        "boards": "/",
        "ranking": "/boards/sums",
        "cost": "/boards/sums/pareto",
        "tools": "/boards/sums/mechanisms",
        "calculator": "/boards/sums/mechanisms?tools=calculator",
        "tasks": "/boards/sums/tasks",
        "task": f"/tasks/{first}",
        "entry": f"/entries/{ids[0]}",
        "hostile entry": f"/entries/{ids[1]}",
        "comparison": f"/compare?left={ids[0]}:0&right={ids[1]}:1",
        "transcript": attempt(1, "bare"),
        "large": attempt(2, "bare"),
        "side by side": f"{attempt(0, 'bare')}?beside={attempt(1, 'calculator').rsplit('/', 1)[-1]}",
        "submit": "/submit",
        "missing": "/boards/none",
    }
    server = uvicorn.Server(uvicorn.Config(create_app(db, FREE), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Site(f"http://127.0.0.1:{port}", pages, ids)
    server.should_exit = True
    thread.join(10)
    db.close()


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture(autouse=True)
def usual(driver: Any) -> None:
    """Every test begins in light surroundings in a wide window, with nothing said on the console."""
    resize(driver, 1280)
    prefer(driver, dark=False)
    complaints(driver)


def wait(driver: Any, until: Any) -> Any:
    return WebDriverWait(driver, 20).until(until)


SHOWN = (
    "boards", "ranking", "cost", "tools", "calculator", "tasks", "task", "entry", "hostile entry", "comparison",
    "transcript", "side by side", "submit",
)  # fmt: skip


def check_pages(driver: Any, site: Site, names: Sequence[str], tmp_path: Path) -> None:
    """No serious violation and nothing refused on these pages, in light and dark."""
    for name in names:
        driver.get(site.address + site.pages[name])
        for dark in (False, True):
            prefer(driver, dark=dark)
            assert axe(driver) == [], (name, dark)
            whole_picture(driver, tmp_path / f"{name} {'dark' if dark else 'light'}.png")
        said_there = [line for line in complaints(driver) if name != "missing" or "404" not in line]
        assert said_there == [], name


LARGEST = ("ranking", "hostile entry", "side by side")


def test_the_largest_pages_have_no_serious_violation_or_complaint_in_light_and_dark(
    driver: Any, site: Site, tmp_path: Path
) -> None:
    check_pages(driver, site, LARGEST, tmp_path)


@pytest.mark.slow
def test_no_other_page_has_a_serious_violation_or_complaint_in_light_and_dark(
    driver: Any, site: Site, tmp_path: Path
) -> None:
    check_pages(driver, site, [name for name in (*SHOWN, "missing") if name not in LARGEST], tmp_path)


def test_a_narrow_screen_never_scrolls_sideways(driver: Any, site: Site, tmp_path: Path) -> None:
    resize(driver, 360, 740)
    for name in SHOWN:
        driver.get(site.address + site.pages[name])
        assert not scrolls_sideways(driver), name
        whole_picture(driver, tmp_path / f"{name} narrow.png")
    driver.get(site.address + site.pages["ranking"])
    assert axe(driver) == []


def test_dark_surroundings_darken_page_and_pictures(driver: Any, site: Site) -> None:
    driver.get(site.address + site.pages["entry"])
    picture = driver.find_element(By.CSS_SELECTOR, ".picture img")
    seen = []
    for dark in (False, True):
        prefer(driver, dark=dark)
        wait(driver, lambda d, dark=dark: picture.get_property("currentSrc").endswith("=dark") == dark)
        seen.append(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert seen == ["rgb(255, 255, 255)", "rgb(22, 23, 26)"]


def test_pictures_are_drawn(driver: Any, site: Site) -> None:
    for name in ("entry", "cost", "tools"):
        driver.get(site.address + site.pages[name])
        pictures = driver.find_elements(By.CSS_SELECTOR, ".picture img")
        assert pictures
        for picture in pictures:
            driver.execute_script("arguments[0].scrollIntoView()", picture)
            wait(driver, lambda d, picture=picture: picture.get_property("complete"))
            assert picture.get_property("naturalWidth") > 100
            assert picture.get_attribute("alt")


def test_planted_scripts_do_not_run_and_are_read_as_text(driver: Any, site: Site) -> None:
    for name in ("transcript", "side by side", "hostile entry", "ranking", "comparison"):
        driver.get(site.address + site.pages[name])
        assert driver.title != "owned"
        assert not driver.find_elements(By.CSS_SELECTOR, "img[src='x'], textarea")
        assert "<script>document.title='owned'</script>" in driver.find_element(By.TAG_NAME, "body").text
        assert complaints(driver) == []


def test_five_megabytes_are_folded_and_opened_by_keyboard(driver: Any, site: Site) -> None:
    driver.get(site.address + site.pages["large"])
    assert driver.title != "owned"
    fold = driver.find_element(By.CSS_SELECTOR, "details.tx-more")
    assert fold.get_attribute("open") is None
    summary = fold.find_element(By.TAG_NAME, "summary")
    assert "show all" in summary.text
    driver.execute_script("arguments[0].focus()", summary)
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    wait(driver, lambda d: fold.get_attribute("open") is not None)
    assert driver.execute_script("return arguments[0].textContent.length", fold) > 5_000_000


def test_a_reader_gets_from_the_boards_to_a_transcript_by_keyboard_alone(driver: Any, site: Site) -> None:
    driver.get(site.address)

    def press_until(found: Any, most: int = 60) -> Any:
        for _ in range(most):
            driver.switch_to.active_element.send_keys(Keys.TAB)
            element = driver.switch_to.active_element
            if found(element):
                outline = driver.execute_script("return getComputedStyle(arguments[0]).outlineStyle", element)
                assert outline == "solid", "what has the focus is seen to have it"
                return element
        raise AssertionError("not reached by Tab")

    def follow(found: Any, arrived: str) -> None:
        press_until(found).send_keys(Keys.ENTER)
        wait(driver, lambda d: arrived in d.current_url)

    def leads(part: str) -> Any:
        return lambda element: part in (element.get_attribute("href") or "")

    press_until(lambda element: element.get_attribute("class") == "skip").send_keys(Keys.ENTER)
    assert driver.switch_to.active_element.get_attribute("id") == "main"
    follow(leads("/boards/sums"), "/boards/sums")
    follow(leads(f"/entries/{site.ids[0]}"), "/entries/")
    follow(leads("/attempts/"), "/attempts/")
    assert driver.find_elements(By.CSS_SELECTOR, ".tx")


def test_filters_change_the_list_without_loading_the_page_again(driver: Any, site: Site) -> None:
    driver.get(site.address + site.pages["ranking"])
    driver.execute_script("window.kept = true")
    assert len(driver.find_elements(By.CSS_SELECTOR, "table.ranking tbody tr")) == 3
    choice = driver.find_element(By.NAME, "model")
    Select(choice).select_by_value("model-two")
    wait(driver, lambda d: len(d.find_elements(By.CSS_SELECTOR, "table.ranking tbody tr")) == 1)
    assert driver.execute_script("return window.kept") is True
    assert "model=model-two" in driver.current_url
    assert "1 entry of 3" in driver.find_element(By.ID, "status").text
    assert complaints(driver) == []
    driver.back()
    wait(driver, lambda d: len(d.find_elements(By.CSS_SELECTOR, "table.ranking tbody tr")) == 3)


def test_two_entries_are_ticked_and_compared(driver: Any, site: Site) -> None:
    driver.get(site.address + site.pages["ranking"])
    for box in driver.find_elements(By.CSS_SELECTOR, "input[name='arm']")[:2]:
        box.send_keys(Keys.SPACE)
    driver.find_element(By.CSS_SELECTOR, "#ranking button").send_keys(Keys.ENTER)
    wait(driver, lambda d: "/compare" in d.current_url)
    assert driver.find_element(By.TAG_NAME, "h1").text == "Two arms, task by task"
    driver.find_element(By.LINK_TEXT, "side by side").send_keys(Keys.ENTER)
    wait(driver, lambda d: "beside=" in d.current_url)
    assert driver.find_elements(By.CSS_SELECTOR, ".tx-row")


def test_filters_comparison_and_folds_work_without_scripts(site: Site) -> None:
    with browser(scripts=False, width=800) as plain:
        plain.get(site.address + site.pages["ranking"])
        plain.find_element(By.CSS_SELECTOR, "option[value='model-two']").click()
        plain.find_element(By.CSS_SELECTOR, ".filters button").click()
        wait(plain, lambda d: "model=model-two" in d.current_url)
        assert len(plain.find_elements(By.CSS_SELECTOR, "table.ranking tbody tr")) == 1
        plain.get(site.address + site.pages["entry"])
        for box in plain.find_elements(By.CSS_SELECTOR, "input[name='arm']"):
            box.click()
        plain.find_element(By.CSS_SELECTOR, "form[action='/compare'] button").click()
        wait(plain, lambda d: "/compare" in d.current_url)
        assert plain.find_element(By.TAG_NAME, "h1").text == "Two arms, task by task"
