"""What a model was told before the task: what is shown of it is what the model is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.tiny_models import NO_TOOLS, TOOL, make_tokenizer, random_model, save
from testbed.models import Model, make_model
from testbed.models.hf import HuggingFace
from testbed.models.oracle import Oracle
from testbed.protocol import ANSWER_INSTRUCTION
from testbed.report.told_first import told_first

DESCRIPTION = json.dumps(TOOL["function"])


def told(model: Model, *tools: Any) -> dict[str, str]:
    return dict(told_first({"model": dict(model.fingerprint()), "schemas": json.dumps(tools)}))


@pytest.mark.parametrize("tools", [(), (TOOL,)])
@pytest.mark.parametrize(
    ("template", "system"),
    [(None, None), (None, "Be brief."), (NO_TOOLS, None), (NO_TOOLS, ""), (NO_TOOLS, "Be brief.")],
)
def test_a_local_model_is_given_the_system_text_that_is_shown(
    tmp_path: Path, template: str | None, system: str | None, tools: tuple[Any, ...]
) -> None:
    path = save(random_model(), make_tokenizer(template), tmp_path / "model")
    model = HuggingFace(path, device="cpu", system=system)
    shown, given = told(model, *tools), model.codec.render([("user", "Go.")], tools)
    assert shown["tools"] == ("lookup: described in the system text" if tools else "none")
    assert shown["system"].strip() in given if shown["system"] != "none" else given.startswith("<|user|>Go.")
    assert (DESCRIPTION in shown["system"]) == bool(tools)


def test_a_template_that_has_a_place_for_tools_is_given_those_that_are_shown(llama: Path) -> None:
    model = HuggingFace(llama, device="cpu")
    shown, given = told(model, TOOL), model.codec.render([("user", "Go.")], [TOOL])
    assert shown == {
        "system": ANSWER_INSTRUCTION,
        "tools": f"lookup, told by the model's chat template:\n{DESCRIPTION}",
    }
    assert all(text in given for text in (ANSWER_INSTRUCTION, DESCRIPTION))


@pytest.mark.parametrize("system", [None, "", "Be brief."])
@pytest.mark.parametrize("native", [False, True])
def test_a_served_model_is_given_the_system_text_that_is_shown(native: bool, system: str | None) -> None:
    own = {} if system is None else {"system": system}
    model: Any = make_model("chat:openai:any", {"base_url": "http://127.0.0.1:9/v1", "native": native, **own})
    shown = told(model, TOOL)
    first, *_ = model._written([{"role": "user", "content": "Go."}], [TOOL])
    given = first.content if first.type == "system" else "none"
    assert shown["system"] == given
    assert shown["tools"].partition(":")[0] == ("lookup, told in the provider's own form" if native else "lookup")
    assert (DESCRIPTION in shown["tools"]) == native


def test_a_text_that_opens_the_first_message_is_said_to(tmp_path: Path) -> None:
    path = save(random_model(), make_tokenizer(NO_TOOLS.replace("{{ m.content }}", "{% if m.role == 'system' %}"
        "{{ raise_exception('no system') }}{% endif %}{{ m.content }}")), tmp_path / "model")  # fmt: skip
    assert told(HuggingFace(path, device="cpu"))["system"].startswith("(at the beginning of the first message)\n")


def test_of_models_whose_words_are_their_own_only_the_tools_are_told_and_of_imported_arms_nothing() -> None:
    assert told(Oracle(), TOOL) == {"tools": f"lookup:\n{DESCRIPTION}"}
    assert told_first({"imported": True, "costs": []}) == ()


def test_tools_of_a_run_that_kept_no_order_are_told_from_the_arms_identity() -> None:
    spec = {"model": {"kind": "agent", "system": None}, "tools": [{"schema": TOOL, "result_chars": 9}]}
    assert told_first(spec) == (("tools", f"lookup:\n{DESCRIPTION}"),)
