from __future__ import annotations

import html.parser
import re
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.browser import axe, browser, complaints, scrolls_sideways
from helpers.transcripts import CALL, TASK, returns, says, view_of
from testbed.report.transcript_document import write_document
from testbed.report.transcript_page import BEGINNING, FOLD, render_side_by_side, render_transcript, transcript_css
from testbed.report.transcript_view import TranscriptView
from testbed.types import Cost, Task

HOSTILE = (
    "<script>alert(1)</script>",
    "</pre></textarea></title><img src=x onerror=alert(1)>",
    "{{ 7*7 }} {% for a in b %}",
    "a&amp;b \"quoted'",
    "]]>--><!--",
)
UNSEEN = (
    "\u202egnp.exe\u202c \u2066x\u2069 zero\u200bwidth bell\x07 esc\x1b[31m nul\x00 tag\U000e0041 half \ud800 \udc00!"
)


class Elements(html.parser.HTMLParser):
    """The elements of a fragment with their attributes, and its text."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(str(fragment))  # a Markup would escape what it is joined with
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def tags(self) -> set[str]:
        return {tag for tag, _ in self.found}


OURS = {"section", "h2", "h3", "p", "span", "dl", "dt", "dd", "article", "pre", "mark", "details", "summary"}
TABLE = {"table", "thead", "tbody", "tr", "th", "td", "div"}


def page_of(*fragments: str) -> str:
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>t</title>'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        "<style>body { background: #fff } @media (prefers-color-scheme: dark) { body { background: #16171a } }"
        f"{transcript_css()}</style></head><body><main><h1>t</h1>{''.join(fragments)}</main></body></html>"
    )


def everywhere(text: str) -> TranscriptView:
    """A view in which a text stands wherever a model, a tool or an author can put one."""
    message: dict[str, Any] = {"role": text, "name": text, "fault": text, "content": text}
    call = '<tool_call>{"name":"python","arguments":{"code":"x"}}</tool_call>'.replace("python", "p").replace("x", "y")
    task = Task("Sums-v0", "What?", {"answer": text.replace("\ud800", "").replace("\udc00", "")}, grader="exact/1")
    said = (says(text), says(call), message, returns(text, tool=text, fault=text), says(f"<tool_call>{text}"))
    return view_of(*said, task=task, name=text, id=text, answer=text, ended=text, faults={text: 1})


@pytest.mark.parametrize("text", [*HOSTILE, UNSEEN])
def test_no_text_of_a_model_becomes_an_element_or_an_attribute(text: str) -> None:
    view, other = everywhere(text), everywhere("harmless")
    whole = Elements(render_transcript(view, reveal_reference=True))
    both = Elements(render_side_by_side(view, other, reveal_reference=True))
    assert not whole.open
    assert not both.open
    assert whole.tags <= OURS
    assert both.tags <= OURS | TABLE
    for tag, attributes in [*whole.found, *both.found]:
        assert set(attributes) <= {"class", "id", "aria-labelledby", "dir", "scope"}, tag
        assert all(text not in (value or "") for value in attributes.values())


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_model_wrote_reads_as_it_wrote_it(text: str) -> None:
    fragment = render_transcript(view_of(returns(text)), reveal_reference=False)
    assert text in Elements(fragment).text


def test_characters_that_do_not_show_are_named_and_the_page_is_utf_8() -> None:
    fragment = render_side_by_side(everywhere(UNSEEN), everywhere("x"), reveal_reference=True)
    fragment += render_transcript(everywhere(UNSEEN), reveal_reference=True)
    fragment.encode()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", fragment)
    for name in ("‹U+202E›", "‹U+2066›", "‹U+200B›", "␇", "␛", "␀", "‹U+E0041›", "‹U+D800›", "‹U+DC00›"):
        assert f"{name}" in fragment


def test_emoji_and_scripts_of_the_world_stay_as_they_are() -> None:
    text = "שלום مرحبا 你好 🤷🏽 ☂\ufe0f naïve\tx"
    assert f">\n{text}</pre>" in render_transcript(view_of(returns(text)), reveal_reference=False)


def test_no_fragment_needs_a_script_or_an_inline_style() -> None:
    fragment = render_side_by_side(everywhere("a"), everywhere("b"), reveal_reference=True)
    assert not re.search(r"<(script|style|link|img|a)\b|\bstyle=|\bon\w+=|javascript:", fragment)


def test_the_reference_is_shown_only_when_it_may_be() -> None:
    secret = Task("Sums-v0", "What is it?", "the hidden word")
    view = view_of(says("<answer>no</answer>"), task=secret, answer="no", success=False)
    assert "the hidden word" in render_transcript(view, reveal_reference=True)
    for hidden in (
        render_transcript(view, reveal_reference=False),
        render_side_by_side(view, view, reveal_reference=False),
    ):
        assert "the hidden word" not in hidden
        assert "not shown" in hidden


def test_a_long_text_is_folded_after_its_beginning_and_nothing_of_it_is_lost() -> None:
    text = "".join(f"line {n}\n" for n in range(12_000))
    assert len(text) > FOLD
    found = Elements(render_transcript(view_of(returns(text)), reveal_reference=False))
    assert "details" in found.tags
    assert f"show all: {len(text) - BEGINNING:,} more characters" in found.text
    assert text[:BEGINNING] in found.text
    rest = found.text.partition("more characters")[2].replace("\n\n", "\n")  # between parts, where markup has one
    assert text[BEGINNING:] in rest
    short = Elements(render_transcript(view_of(returns(text[:FOLD])), reveal_reference=False))
    assert "details" not in short.tags


def test_differences_are_marked_in_the_folded_part_too_and_counted_in_its_summary() -> None:
    text = "word " * 20_000
    fragment = render_side_by_side(
        view_of(returns(text + "left")), view_of(returns(text + "right")), reveal_reference=False
    )
    assert fragment.count("more characters, 1 differing stretch among them") == 2
    assert "<mark>left</mark>" in fragment
    assert "<mark>right</mark>" in fragment


def test_equal_steps_stand_once_and_differing_words_are_marked() -> None:
    left = view_of(says(CALL), returns("4 apples", tokens=2), says("<answer>4 apples</answer>"), name="one")
    right = view_of(
        says(CALL), returns("5 apples", tokens=2), says("<answer>5 apples</answer>"), name="other", sample=1
    )
    fragment = render_side_by_side(left, right, reveal_reference=False)
    assert fragment.count("the same in both") == 2
    assert fragment.count("What is 2 + 2?") == 1
    assert re.findall("<mark>(.*?)</mark>", fragment) == ["4", "5", "4", "5"]
    assert "At the same task, samples 0 and 1. 2 of 4 steps say the same" in fragment


def test_a_step_that_one_attempt_lacks_leaves_a_gap_beside_it() -> None:
    left = view_of(says("<answer>4</answer>"), name="bare")
    right = view_of(says(CALL), returns("4"), says("<answer>4</answer>"), name="python")
    fragment = render_side_by_side(left, right, reveal_reference=False)
    assert fragment.count("no such step in bare") == 2
    assert fragment.count("only here") == 2
    assert "no such step in python" not in fragment


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("\x1b" * 5_000_000, "\u202ea" * 600_000),
        ("<" * 5_000_000, "&"),
        ("a" * 5_000_000, "a" * 4_999_999 + "b"),
        ("x y " * 1_250_000, "y x " * 1_250_000),
        ("".join(f"{n}\n" for n in range(700_000)), "".join(f"{n * 7 % 1000}\n" for n in range(1_200_000))),
    ],
    ids=["control characters", "escapes", "one word", "two words", "lines"],
)
def test_five_megabytes_a_side_take_seconds_and_a_bounded_number_of_elements(left: str, right: str) -> None:
    began = time.process_time()
    fragment = render_side_by_side(view_of(returns(left)), view_of(returns(right)), reveal_reference=False)
    assert time.process_time() - began < 20  # seconds; a second or two on an idle machine
    assert fragment.count("<mark") + fragment.count("<span") < 10_000
    assert len(fragment) < 20 * (len(left) + len(right))


@pytest.mark.parametrize("remaining", [5, {"turns": "<b>"}, {"turns": float("nan")}, {"turns": 10**400}, [1]])
@pytest.mark.parametrize("tokens", ["<b>", True, -1, 10**400, float("inf")])
def test_what_is_no_number_is_shown_as_none(remaining: Any, tokens: Any) -> None:
    result = returns("4", remaining=remaining, tokens=tokens, cut=tokens)
    view = view_of(says(CALL), result, cost=Cost(model_calls=1, turns=1))
    assert (view.steps[2].tokens, view.steps[2].cut) == (None, None)
    assert view.steps[2].left.keys() <= {"turns", "tool_calls", "generated_tokens"}
    assert "<b>" not in render_transcript(view, reveal_reference=False)


@pytest.mark.parametrize(
    "odd", ["text", 5, None, [1], {"content": {"a": [1, "<b>"]}}, {"role": ["<b>"], "content": None}, {}]
)
def test_an_entry_that_is_no_message_is_shown_as_what_it_is(odd: Any) -> None:
    view = view_of(odd, cost=Cost())
    assert len(view.steps) == 2
    fragment = render_side_by_side(view, view_of(says("x")), reveal_reference=False)
    assert Elements(fragment).tags <= OURS | TABLE


def test_names_of_five_megabytes_are_cut_in_headings_and_stand_whole_in_what_was_written() -> None:
    name = "n" * 1_000_000
    call = f'<tool_call>{{"name":"{name}","arguments":{{"{name}":1}}}}</tool_call>'
    fragment = render_transcript(view_of(says(call), returns("4", tool=name, fault=name)), reveal_reference=False)
    for heading in re.findall(r"<h3>.*?</h3>|<p class=.tx-label.*?</p>", fragment):
        assert len(heading) < 500
    assert Elements(fragment).text.count("n") > 2_000_000


def test_roles_and_outcomes_are_said_in_words_and_not_by_colour_alone() -> None:
    found = Elements(
        render_transcript(view_of(says(CALL), returns("4", fault="timeout", tokens=1)), reveal_reference=False)
    )
    for words in ("1 · user", "2 · assistant", "3 · tool python, timeout, 1 token", "success", "calls python"):
        assert words in found.text


def test_tasks_and_seeds_that_differ_are_told() -> None:
    left = view_of(says("<answer>4</answer>"))
    right = view_of(says("<answer>4</answer>"), task=Task("Sums-v0", "What is 3 + 1?", "4"), seed=2)
    fragment = render_side_by_side(left, right, reveal_reference=False)
    assert "Of different tasks" in fragment
    assert "with different seeds (1 and 2)" in fragment


def hostile_pair(length: int) -> tuple[TranscriptView, TranscriptView]:
    hostile = "".join(HOSTILE) + UNSEEN
    left = view_of(says(CALL), returns(hostile + "w" * length, fault="timeout"), says(hostile), name="one")
    return left, view_of(says(CALL), returns("4" * 300), says("<answer>4</answer>"), name="other", sample=1)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_nothing_runs_nothing_overflows_and_axe_finds_nothing(
    tmp_path: Path, dark: bool, width: int
) -> None:
    left, right = hostile_pair(2 * FOLD)
    path = tmp_path / "page.html"
    fragments = (
        render_transcript(left, reveal_reference=True),
        render_side_by_side(left, right, reveal_reference=False),
    )
    path.write_text(page_of(*fragments), encoding="utf-8")
    with browser(dark=dark, width=width) as driver:
        driver.get(path.as_uri())
        assert not driver.execute_script("return document.querySelectorAll('script, img, textarea').length")
        assert not complaints(driver)
        assert not scrolls_sideways(driver)
        assert axe(driver) == []


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser_a_written_page_keeps_its_own_policy_and_is_accessible(tmp_path: Path, dark: bool) -> None:
    path = tmp_path / "pair.html"
    write_document(hostile_pair(2 * FOLD), path)
    with browser(dark=dark, width=360) as driver:
        driver.get(path.as_uri())
        assert "beside" in driver.find_element("css selector", "h2").text
        colour = driver.execute_script("return getComputedStyle(document.querySelector('.tx-step')).backgroundColor")
        assert colour == ("rgb(33, 34, 38)" if dark else "rgb(243, 244, 246)")  # the style sheet is not refused
        assert not complaints(driver)
        assert not scrolls_sideways(driver)
        assert axe(driver) == []


@pytest.mark.slow
def test_in_a_browser_five_megabytes_in_one_word_load_and_unfold_at_once(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page_of(render_transcript(hostile_pair(5_000_000)[0], reveal_reference=True)), encoding="utf-8")
    with browser() as driver:
        driver.get(path.as_uri())
        began = time.monotonic()
        driver.find_element("css selector", "summary").send_keys("\ue007")  # Enter
        shown = driver.execute_script("return document.querySelector('details').getBoundingClientRect().height")
        assert time.monotonic() - began < 10  # in one element it took a minute, on a page of half a million pixels
        assert shown > 1_000
        assert (
            len(driver.execute_script("return document.querySelector('details').textContent")) > 5_000_000 - BEGINNING
        )
        assert not scrolls_sideways(driver)


def test_the_prompt_of_the_page_is_the_tasks() -> None:
    assert TASK.prompt in render_transcript(view_of(), reveal_reference=False)
