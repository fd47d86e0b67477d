from __future__ import annotations

import html.parser
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import time
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import altair
import jsonschema
import pytest

from testbed.errors import UsageError
from testbed.report.analyse import analyse
from testbed.report.charts import Chart, charts
from testbed.report.page import render_page, write_page, write_png
from testbed.report.palette import DASHES, LINES, theme
from testbed.report.record import Analysis
from testbed.report.tables import every_table

HOSTILE = (
    "bare",
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "{{ 7*7 }}",
    "a&b",
    "\"quoted'",
)


def _text_tests() -> ModuleType:
    """The outcomes that the tests of the text report generate."""
    spec = importlib.util.spec_from_file_location("report_outcomes", Path(__file__).with_name("test_report_text.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Page(html.parser.HTMLParser):
    """Elements of a page, in order: tag, attributes, text directly inside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), []))
        if tag not in ("meta", "img", "br", "link"):
            self._open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self.elements[self._open.pop()][0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.elements[self._open[-1]][2].append(data)

    def all(self, *tags: str) -> list[tuple[str, dict[str, str | None], str]]:
        return [(tag, attrs, "".join(text)) for tag, attrs, text in self.elements if tag in tags]


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(_text_tests().generated(), name="demo")


@pytest.fixture(scope="module")
def drawn(analysis: Analysis) -> tuple[Chart, ...]:
    return charts(analysis)


@pytest.fixture(scope="module")
def text(analysis: Analysis) -> str:
    return render_page(analysis)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


@pytest.fixture(scope="module")
def alone() -> Analysis:
    """Of a single arm."""
    return analyse(_text_tests().generated(names=("bare",), per_family=3, bare=8))


@pytest.fixture(scope="module")
def hostile() -> Analysis:
    return analyse(_text_tests().generated(names=HOSTILE, per_family=3, bare=32), name="<b>run</b> & co")


def test_the_page_is_one_file_that_asks_the_network_for_nothing(page: Page, text: str) -> None:
    for _, attrs, _ in page.elements:
        assert not {"src", "srcset", "data", "action"} & set(attrs)
        href = attrs.get("href") or "#"
        assert href.startswith("#"), href
    style = next(body for tag, _, body in page.all("style"))
    assert "url(" not in style
    assert "@import" not in style
    assert len(text.encode()) < 3e6


def test_headings_come_in_order_without_a_skipped_level(page: Page) -> None:
    levels = [int(tag[1]) for tag, _, _ in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_table_cell_has_a_row_and_a_column_heading(
    page: Page, analysis: Analysis, drawn: tuple[Chart, ...]
) -> None:
    scopes = [attrs.get("scope") for tag, attrs, _ in page.all("th")]
    assert set(scopes) == {"col", "row"}
    of_charts = [chart.figures for chart in drawn if chart.figures is not None]
    tables = (*every_table(analysis), *of_charts)
    assert len(of_charts) == 3  # reach, whose curves stand in no table of the report
    assert scopes.count("col") == sum(len(t.columns) + 1 for t in tables)
    assert scopes.count("row") == sum(len(t.rows) for t in tables)
    assert len(page.all("td")) == sum(len(t.rows) * len(t.columns) for t in tables)
    assert all(len(row.cells) == len(t.columns) for t in tables for row in t.rows)


def test_ids_are_unique_and_every_reference_to_one_has_its_target(page: Page) -> None:
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs, _ in page.elements:
        for name in ("aria-labelledby", "data-target"):
            assert attrs.get(name) is None or attrs[name] in ids
        if (attrs.get("href") or "").startswith("#"):
            assert (attrs["href"] or "")[1:] in ids


def test_the_page_says_its_language_and_fits_phones(page: Page) -> None:
    assert page.all("html")[0][1]["lang"] == "en"
    metas = {attrs.get("name"): attrs.get("content") for _, attrs, _ in page.all("meta")}
    assert "width=device-width" in str(metas["viewport"])


def test_tables_that_scroll_can_be_scrolled_by_keyboard(page: Page) -> None:
    scrolling = [attrs for _, attrs, _ in page.all("div") if attrs.get("class") == "scroll"]
    assert scrolling
    assert all(attrs.get("tabindex") == "0" and attrs.get("role") == "region" for attrs in scrolling)


def test_names_that_look_like_markup_stay_text(hostile: Analysis) -> None:
    text = render_page(hostile)
    page = Page(text)
    assert not page.all("img", "b")
    scripts = page.all("script")
    assert not any(body.strip().startswith("alert") for _, _, body in scripts)
    assert "49" not in {"".join(row[2]) for row in page.all("th")}
    assert page.all("h1")[0][2].startswith("<b>run</b> & co")
    assert HOSTILE[1] in {body for _, _, body in page.all("h3")}
    specs = [json.loads(body) for _, attrs, body in scripts if attrs.get("class") == "spec"]
    assert len(specs) == len(charts(hostile))
    assert any(HOSTILE[2] in json.dumps(spec, ensure_ascii=False) for spec in specs)


def test_every_chart_keeps_the_schema_of_vega_lite(drawn: tuple[Chart, ...]) -> None:
    """Which the report does not look at again whenever it makes one."""
    keeps = jsonschema.Draft7Validator(altair.load_schema())
    for chart in drawn:
        assert not [error.message for error in keeps.iter_errors(chart.spec)], chart.key
    assert not keeps.is_valid({**drawn[0].spec, "height": "high"})


def test_every_chart_has_a_place_a_caption_and_a_description(page: Page, drawn: tuple[Chart, ...]) -> None:
    assert {c.key for c in drawn} == {
        "gain", "groups", "creation", "frontier", "verdicts", "map", "reach_attempts", "reach_generated_tokens",
        "reach_model_calls", "front_generated_tokens", "front_model_calls",
    }  # fmt: skip
    places = {attrs.get("id") for _, attrs, _ in page.all("div")}
    captions = [body for _, _, body in page.all("figcaption")]
    for chart in drawn:
        assert f"chart-{chart.key}" in places
        assert any(body.startswith(chart.caption) for body in captions)
        assert chart.spec["description"] == chart.description
        assert chart.caption in chart.description
        assert chart.title in chart.description
    said = next(c.caption for c in drawn if c.key == "creation")
    assert said.startswith("What is left of the gain as creation if")
    assert said.count("within reach of patience.") == 1
    assert "null row: elicitation" in next(c.description for c in drawn if c.key == "gain")


def test_the_gain_chart_draws_loss_to_the_left_and_the_intervals_of_the_table(
    analysis: Analysis, drawn: tuple[Chart, ...]
) -> None:
    spec = next(c.spec for c in drawn if c.key == "gain")
    rows = [row for data in spec["datasets"].values() for row in data if "part" in row] if "datasets" in spec else []
    rows = rows or [row for layer in spec["layer"] for row in layer.get("data", {}).get("values", []) if "part" in row]
    rows = rows or [row for row in spec.get("data", {}).get("values", []) if "part" in row]
    by_part = {(row["arm"], row["part"]): row for row in rows}
    search = next(c for c in analysis.comparisons if c.arm == "search")
    assert search.full is not None
    loss = search.full.figures.loss
    assert by_part["search", "loss"]["value"] == -(loss.value or 0)
    assert (by_part["search", "loss"]["low"], by_part["search", "loss"]["high"]) == (
        -(loss.high or 0),
        -(loss.low or 0),
    )
    assert ("null row", "creation") in by_part


def contrast(first: str, second: str) -> float:
    """WCAG contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_text_has_enough_contrast_in_light_and_in_dark(text: str) -> None:
    blocks = re.findall(r":root \{[^}]*\}", text)
    assert len(blocks) == 2
    for block, dark in zip(blocks, (False, True), strict=True):
        colours: dict[str, str] = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
        for ink in ("ink", "soft", "link"):
            for paper in ("paper", "tint"):
                assert contrast(colours[ink], colours[paper]) >= 4.5
        assert contrast(colours["ink"], colours["warn"]) >= 4.5
        assert contrast(theme(dark=dark)["axis"]["labelColor"], colours["paper"]) >= 4.5


def test_neighbouring_arms_differ_in_dash_as_well_as_in_colour() -> None:
    assert len(set(LINES)) == len(LINES) == 6
    assert len({tuple(d) for d in DASHES}) == len(DASHES) == 6


def test_the_same_analysis_gives_the_same_page(analysis: Analysis, text: str) -> None:
    assert render_page(analysis) == text


def test_the_page_says_which_figures_are_drawn_and_from_what(page: Page, analysis: Analysis) -> None:
    [foot] = [text for _, _, text in page.all("p") if text.startswith("Intervals: 95%, over tasks")]
    assert "Bands, fronts and the interval of SDS are of 2,000 bootstrap replicates or more" in foot
    assert f"random splits have the seed {analysis.settings.seed}." in foot


def test_a_page_is_replaced_whole_and_leaves_nothing_beside_it(alone: Analysis, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    write_page(alone, path)
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert os.listdir(tmp_path) == ["report.html"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_page_that_cannot_be_written_is_refused_by_name(alone: Analysis, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere/report\.html"):
        write_page(alone, tmp_path / "nowhere" / "report.html")


def test_what_is_in_the_way_of_a_page_or_of_pictures_is_named(alone: Analysis, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UsageError, match=rf"{file} is a file: give another path\.$"):
        write_page(alone, file / "report.html")
    for folder in (file, file / "pictures"):
        with pytest.raises(UsageError, match=rf"cannot make the folder {folder}: {file} is a file: give another path"):
            write_png(alone, folder)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(alone: Analysis, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()  # a folder in the way: the last step fails
    with pytest.raises(UsageError, match=r"report\.html"):
        write_page(alone, tmp_path / "report.html")
    assert os.listdir(tmp_path) == ["report.html"]


@pytest.mark.slow
def test_every_chart_becomes_a_png_and_an_svg(analysis: Analysis, drawn: tuple[Chart, ...], tmp_path: Path) -> None:
    written = write_png(analysis, tmp_path / "new" / "folder")
    assert [p.suffix for p in written] == [".png", ".svg"] * len(drawn)
    for path in written:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
            assert path.stat().st_size > 5_000
        else:
            root = ET.fromstring(path.read_text(encoding="utf-8"))
            assert any("python" in (element.text or "") for element in root.iter())
    shown = {path.stem: path.read_text(encoding="utf-8") for path in written if path.suffix == ".svg"}
    assert ">null row<" in shown["gain"]  # names that have room are not cut
    assert ">Multiplication, 4 digits<" in shown["groups"]


def test_one_attempt_per_task_draws_no_curve_and_claims_no_split() -> None:
    once = analyse(_text_tests().generated(names=("bare", "python"), per_family=6, bare=1, other=1))
    assert [c.key for c in charts(once) if c.key.startswith(("reach_attempts", "gain"))] == []
    page = Page(render_page(once))
    assert any("not split into elicitation and creation" in body for _, _, body in page.all("p"))


def test_figures_that_support_no_claim_say_so_beside_the_chart() -> None:
    greedy = analyse(_text_tests().generated(sampled=False))
    caption = next(c.caption for c in charts(greedy) if c.key == "gain")
    assert [c.arm for c in greedy.comparisons if not c.claims] == ["python", "search"]
    assert "Nothing is claimed for python and search:" in caption


def test_a_report_without_comparison_has_its_curves_and_tables(alone: Analysis) -> None:
    page = Page(render_page(alone))
    assert {c.key for c in charts(alone)} == {"reach_attempts", "reach_generated_tokens", "reach_model_calls"}
    assert "There is only one arm" in page.all("li")[0][2]


@pytest.mark.slow
def test_analysis_and_page_of_100_tasks_6_arms_and_60_attempts_take_at_most_10_seconds() -> None:
    data = _text_tests().generated(per_family=25, bare=64)
    start = time.process_time()
    render_page(analyse(data))
    assert time.process_time() - start < 10


def drawn_by_browser(path: Path, folder: Path, *, width: int = 1000) -> str:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here; apt-get install chromium")
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--proxy-server=127.0.0.1:9", f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900",
            "--virtual-time-budget=10000", "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("width", [1000, 500])
def test_a_browser_without_network_draws_every_chart_no_wider_than_the_page(
    hostile: Analysis, tmp_path: Path, width: int
) -> None:
    write_page(hostile, tmp_path / "report.html")
    dom = drawn_by_browser(tmp_path / "report.html", tmp_path, width=width)
    dom = re.sub(r"(?s)<script.*?</script>", "", dom)
    assert "could not be drawn" not in dom
    widths: list[Any] = re.findall(r'<svg [^>]*class="marks" width="(\d+)"', dom)
    assert len(widths) == len(charts(hostile))
    assert max(int(w) for w in widths) <= width
    assert not re.search(r"<img[^>]*onerror", dom)
