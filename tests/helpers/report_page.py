"""What a browser that shows a report has in focus, in its map of tasks, and by what this is filtered."""

from __future__ import annotations

from typing import Any

from helpers.browser import texts


def rows(driver: Any) -> list[str]:
    return texts(driver, "#map-body th > bdi")


def active(driver: Any) -> dict[str, Any]:
    """The element with the focus: its name, what shows of the focus, and how far it lies from its point's middle."""
    found: dict[str, Any] = driver.execute_script(
        "const own = document.activeElement, style = getComputedStyle(own), box = own.getBoundingClientRect();"
        "const marks = [...own.closest('.plot')?.querySelectorAll('svg *:not(text)') ?? []]"
        ".filter(m => m.__data__?.href);"
        "const mark = marks[[...own.parentElement.children].indexOf(own)]?.getBoundingClientRect();"
        "const off = (a, b, c, d) => Math.abs(a + b / 2 - c - d / 2);"
        "return {name: own.getAttribute('aria-label'), to: own.getAttribute('href'), outline: style.outlineStyle,"
        "off: mark ? Math.max(off(box.x, box.width, mark.x, mark.width), off(box.y, box.height, mark.y, mark.height))"
        ": null, chart: own.closest('.plot')?.querySelector('.chart').id, text: own.innerText}"
    )
    return found


def chosen(driver: Any) -> list[str]:
    """What the map is filtered by, by which arm it is sorted, and how many tasks are left."""
    found: list[str] = driver.execute_script(
        "return [...['group', 'arm', 'verdict'].map(key => document.getElementById('map-' + key).selectedOptions[0]"
        ".textContent), document.querySelector('#map-head [aria-sort=ascending]').textContent,"
        "document.getElementById('map-status').textContent]"
    )
    return found
