"""Counting tokens, and rendering conversations by any template."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from helpers.tiny_models import NO_TOOLS, TEMPLATE, TOOL, make_tokenizer
from testbed.errors import ModelError
from testbed.models import hf_files
from testbed.models.hf import HuggingFace
from testbed.models.hf_known import KnownPrompts
from testbed.models.hf_text import TextCodec
from testbed.protocol import ANSWER_INSTRUCTION


def test_counting_adds_no_tokens_and_is_quick(llama: Path) -> None:
    model = HuggingFace(llama, device="cpu")
    text = "a passage of some length, such as a tool returns. " * 4
    assert model.count("") == 0
    assert model.count(text) == len(model.codec.encode(text))
    best = min(_timed(lambda: model.count(text)) for _ in range(20))
    assert best < 1e-3


def _timed(call: Callable[[], Any]) -> float:
    begun = time.thread_time()
    call()
    return time.thread_time() - begun


def codec(template: str | None, system: str | None = None) -> TextCodec:
    return TextCodec(make_tokenizer(template), [5], system, "tiny")


CONVERSATION = [("user", "Q"), ("assistant", "C"), ("tool", "R"), ("user", "N")]
REFUSES = "{{ raise_exception('no such role') }}"
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}"
    + REFUSES
    + "{% endif %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
)
ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    + REFUSES
    + "{% endif %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>"
)
OTHER_CALLS = "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}reply with bare JSON" + NO_TOOLS


def test_prompts_are_remembered_up_to_so_many_tokens_and_those_asked_for_last() -> None:
    encoded: list[str] = []

    def encode(turns: tuple[tuple[str, str], ...], tools: str) -> tuple[int, ...]:
        encoded.append(turns[0][1])
        return (7,) * len(turns[0][1])

    known = KnownPrompts(encode, most=10)
    for text in ("aaaa", "bbbb", "aaaa", "cc", "dddd", "aaaa", "bbbb", "e" * 11, "aaaa"):
        assert known.of((("user", text),), "") == (7,) * len(text)
        assert known.size <= 10
    assert encoded == ["aaaa", "bbbb", "cc", "dddd", "bbbb", "e" * 11, "aaaa"]
    whole = codec(TEMPLATE)
    lengths = {len(whole.prompt([{"role": "user", "content": "a" * n}], [])) for n in (1, 30, 30, 1)}
    assert whole._known.size == sum(lengths)


def test_a_template_with_a_section_for_tools_gets_them_there() -> None:
    text = codec(TEMPLATE).render([("user", "Q")], [TOOL])
    assert codec(TEMPLATE).rendering.tools == "template"
    assert text.count('"lookup"') == 1
    assert text.startswith("<|system|>tools:")
    assert ANSWER_INSTRUCTION in text


@pytest.mark.parametrize("template", [NO_TOOLS, OTHER_CALLS], ids=["no section", "another way of calling"])
def test_other_templates_get_tools_in_the_system_text(template: str) -> None:
    text = codec(template).render([("user", "Q")], [TOOL])
    assert codec(template).rendering.tools == "protocol"
    assert text.count('"lookup"') == 1
    assert text.index("<tool_call>") < text.index("<|user|>")


def test_a_template_without_system_messages_gets_the_text_before_the_first_user_message() -> None:
    made = codec(NO_SYSTEM)
    assert made.rendering.system == "user"
    assert made.render([("user", "Q")], []) == f"<|user|>{ANSWER_INSTRUCTION}\n\nQ"


def test_a_template_that_insists_on_turns_gets_results_as_user_messages() -> None:
    made = codec(ALTERNATES)
    assert made.rendering.results == "user"
    text = made.render(CONVERSATION, [])
    assert text.endswith("<|assistant|>C<|user|><tool_result>R</tool_result>\nN<|assistant|>")


def test_a_tokenizer_without_a_template_gets_plain_turns() -> None:
    made = codec(None)
    text = made.render(CONVERSATION, [TOOL])
    assert made.rendering.turns == "plain"
    assert [text.index(part) for part in ("lookup", "User: Q", "Assistant: C", "Tool: R", "User: N")] == sorted(
        text.index(part) for part in ("lookup", "User: Q", "Assistant: C", "Tool: R", "User: N")
    )
    assert text.endswith("Assistant:")


@pytest.mark.parametrize("template", [TEMPLATE, NO_TOOLS, NO_SYSTEM, ALTERNATES, None])
def test_the_prompt_stands_in_every_rendering_word_for_word(template: str | None) -> None:
    prompt = "Ünïcode, <b>tags</b> & {{ braces }}\n  indented"
    for tools in ([], [TOOL]):
        assert prompt in codec(template).render([("user", prompt)], tools)


@pytest.mark.parametrize("template", [TEMPLATE, NO_TOOLS, NO_SYSTEM])
def test_an_empty_system_text_says_nothing_but_the_tools(template: str) -> None:
    assert ANSWER_INSTRUCTION not in codec(template, "").render([("user", "Q")], [TOOL])
    assert codec(template, "").render([("user", "Q")], []).startswith("<|user|>Q")


def test_a_system_text_takes_the_place_of_the_instruction() -> None:
    text = codec(NO_TOOLS, "Be brief.").render([("user", "Q")], [TOOL])
    assert "Be brief." in text
    assert ANSWER_INSTRUCTION not in text
    assert "<tool_call>" in text


def test_a_conversation_that_the_template_refuses_is_an_error_that_says_why() -> None:
    made = codec(ALTERNATES)
    with pytest.raises(ModelError, match=r"template of tiny refuses.*no such role"):
        made.prompt(
            [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}] * 2
            + [{"role": "assistant", "content": "B"}],
            (),
        )


def test_a_template_that_cannot_be_read_is_told_with_its_line() -> None:
    with pytest.raises(ModelError, match=r"template of tiny cannot be read, in its line 2: .*[^.]\.$"):
        codec("first\n{{ broken").prompt([{"role": "user", "content": "Q"}], ())


def test_what_changes_no_token_and_no_prompt_changes_no_tokenization(llama: Path, tmp_path: Path) -> None:
    same = changed(llama, tmp_path / "same", model_max_length=99, padding_side="left", processor_class="Other")
    assert hf_files.hashes(same)["tokenizer"] != hf_files.hashes(llama)["tokenizer"]
    assert tokenization(same) == tokenization(llama)


@pytest.mark.parametrize(
    ("settings", "differs"),
    [
        ({"chat_template": NO_TOOLS}, {"template"}),
        ({"chat_template": TEMPLATE + "{{ eos_token }}", "eos_token": "<|tool|>"}, {"tokens", "template"}),
        ({"eos_token": "<|tool|>"}, {"tokens"}),  # the token that ends a message; no template of the model's says it
        ({"additional_special_tokens": ["<extra>"]}, {"tokens"}),
    ],
)
def test_what_changes_tokens_or_prompts_is_told_apart(
    llama: Path, tmp_path: Path, settings: dict[str, Any], differs: set[str]
) -> None:
    before, after = tokenization(llama), tokenization(changed(llama, tmp_path / "other", **settings))
    assert {key for key in before if before[key] != after[key]} == differs


def changed(model: Path, to: Path, **settings: Any) -> Path:
    """A copy whose tokenizer_config.json has other settings."""
    path = shutil.copytree(model, to)
    if "chat_template" in settings:
        (path / "chat_template.jinja").unlink()
    known = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps(known | settings))
    return path


def tokenization(path: Path) -> Mapping[str, str]:
    return HuggingFace(path, device="cpu").tokenization()
