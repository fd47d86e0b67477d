"""The longest names that arms sensibly have, in charts: whole, and inside the picture, on a telephone too."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import altair as alt
import pytest
import vl_convert

from helpers.browser import drawn, prefer, resize
from helpers.two_runs import SPEC, add, tool
from testbed.report.analyse import Analysis, analyse_run
from testbed.report.chart import arm_axis, chart, rows_of
from testbed.report.chart_labels import lines_of
from testbed.report.page import write_page
from testbed.store import Store
from testbed.types import Task

PYTHON, SEARCH = tool("python"), tool("search")
CHARTS = ("gain", "groups", "ladder", "verdicts", "map")
MEASURE = {"operating": 1, "elicitation": 16, "replicates": 200}
GROUPS = ("document facts", "two-hop questions")


def offering(control: str, *tools: Mapping[str, Any]) -> dict[str, Any]:
    offered = [tool if control == "live" else {**tool, "content": {"control": control, "of": {}}} for tool in tools]
    return {**SPEC, "tools": offered, "control": control}


ARMS = {
    "base-without-tools": (offering("absent"), 0.1),
    "python-and-search-inert": (offering("inert", PYTHON, SEARCH), 0.1),
    "python-and-search-yoked": (offering("yoked", PYTHON, SEARCH), 0.4),
    "python-and-search-live": (offering("live", PYTHON, SEARCH), 0.9),
    "retrieval-with-reranking-inert": (offering("inert", SEARCH), 0.1),
    "retrieval-with-reranking-live": (offering("live", SEARCH), 0.95),
}


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    path, rng = tmp_path_factory.mktemp("names") / "s.sqlite", random.Random(1)
    tasks = [Task("KnowledgeFacts-v0", f"{n}?", n, meta={"family": GROUPS[n % 2]}) for n in range(24)]
    outcomes = {
        name: [[rng.random() < chance for _ in range(64 if name == "base-without-tools" else 16)] for _ in tasks]
        for name, (_, chance) in ARMS.items()
    }
    add(path, "long", tasks, outcomes, specs={name: spec for name, (spec, _) in ARMS.items()}, measure=MEASURE)
    with Store.open(path) as store:
        return analyse_run(store, "long")


@pytest.fixture(scope="module")
def page(analysis: Analysis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "long.html"
    write_page(analysis, path)
    return path


TEXTS = """
const chart = document.querySelector('#chart-' + arguments[0] + ' svg'), edge = chart.getBoundingClientRect();
return [...chart.querySelectorAll('text')].filter(text => text.textContent.trim()).map(text => {
  const box = text.getBoundingClientRect();
  return {
    said: [...text.childNodes].map(node => node.textContent).join('|'),
    beyond: Math.max(edge.left - box.left, box.right - edge.right, edge.top - box.top, box.bottom - edge.bottom),
    box: [box.left, box.top, box.right, box.bottom],
  };
});
"""


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("dark", [False, True])
def test_long_names_are_whole_and_inside_the_picture(chromium: Any, page: Path, width: int, dark: bool) -> None:
    resize(chromium, width)
    prefer(chromium, dark=dark)
    chromium.get(page.as_uri())
    drawn(chromium, chromium.execute_script("return document.querySelectorAll('.chart').length"))
    others = list(ARMS)[1:]
    steps = ["python-and-search-inert to python-and-search-yoked", "python-and-search-yoked to python-and-search-live"]
    wanted = {"groups": [*ARMS, *(f"KnowledgeFacts, {group}" for group in GROUPS)], "ladder": steps}
    for key in CHARTS:
        found = chromium.execute_script(TEXTS, key)
        said = {re.sub(r"[ |]", "", text["said"]) for text in found}
        assert said >= {name.replace(" ", "") for name in wanted.get(key, others)}, (key, said)
        assert [text["said"] for text in found if text["beyond"] > 1] == [], key


@pytest.mark.parametrize("width", [1280, 360])
def test_names_of_one_axis_do_not_stand_on_one_another(chromium: Any, page: Path, width: int) -> None:
    resize(chromium, width)
    chromium.get(page.as_uri())
    drawn(chromium, chromium.execute_script("return document.querySelectorAll('.chart').length"))
    for key in CHARTS:
        boxes = [text["box"] for text in chromium.execute_script(TEXTS, key) if "-" in text["said"]]
        boxes.sort(key=lambda box: (box[1], box[0]))
        for one, other in itertools.pairwise(boxes):
            apart = one[3] <= other[1] + 2 or one[2] <= other[0] + 2 or other[2] <= one[0] + 2
            assert apart, (key, one, other)


def test_a_name_stands_in_the_middle_of_its_row_however_many_lines_it_takes(chromium: Any, page: Path) -> None:
    resize(chromium, 1280)
    chromium.get(page.as_uri())
    drawn(chromium, chromium.execute_script("return document.querySelectorAll('.chart').length"))
    found = {text["said"].replace("|", ""): text["box"] for text in chromium.execute_script(TEXTS, "verdicts")}
    middles = [(found[name][1] + found[name][3]) / 2 for name in (*list(ARMS)[1:], "null row")]  # the last has one line
    apart = [below - above for above, below in itertools.pairwise(middles)]
    assert max(apart) - min(apart) <= 2, apart


def lines(name: str, *, most: int = 2, limit: int = 112) -> list[str]:
    """How a name stands beside a chart."""
    made = (
        alt.Chart(alt.InlineData(values=[{"arm": name, "gain": 0.1}]))
        .mark_point()
        .encode(x=alt.X("gain", type="quantitative", axis=None), y=arm_axis([name], limit=limit, lines=most))
    )
    svg = vl_convert.vegalite_to_svg(chart("c", "t", "c", "f", made, height=60).spec)
    (label,) = re.findall(r'text-anchor="end"[^>]*>(.*?)</text>', svg, re.DOTALL)
    return re.findall(r"<tspan[^>]*>(.*?)</tspan>", label, re.DOTALL) or [label]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("bare", ["bare"]),
        ("exactly-16-wide!", ["exactly-16-wide!"]),
        ("python-and-search", ["python-and-", "search"]),
        ("x" * 40, ["x" * 16, "x" * 16 + "…"]),
        ("a" * 20 + " b", ["a" * 16, "aaaa b"]),
        ("字" * 12, ["字" * 8, "字" * 4]),
        ("\U0001f600" * 20, ["\U0001f600" * 8, "\U0001f600" * 8 + "…"]),
    ],
)
def test_a_name_goes_on_in_the_next_line_after_a_word_where_it_can(name: str, shown: list[str]) -> None:
    assert lines(name) == shown


def test_rows_are_as_high_as_their_longest_name_needs() -> None:
    assert rows_of(["bare", "python"], 26) == 52
    assert rows_of(["bare", "python-and-search-live"], 26) == 2 * 32
    names = ["python-and-search-inert to python-and-search-yoked"]
    assert lines_of(names, 160, 4) >= len(lines(names[0], most=4, limit=160)) == 3
