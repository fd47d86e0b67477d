"""Whether a model reads an arm's attempts as they were made: the model itself, its prompts, and its tools' schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from testbed.errors import ModelError
from testbed.experiment_file import SAMPLING_KEYS
from testbed.models.base import Model
from testbed.store import ArmRecord, Run
from testbed.store.records import differences
from testbed.types import Attempt, Message

# Where a model runs changes its figures by rounding only; what it is must not differ.
PLACEMENT = ("device", "dtype")


def own_model(run: Run, record: ArmRecord) -> tuple[str, dict[str, Any]]:
    """Id and options of the model of an arm, as the run's experiment names it."""
    tables = [run.experiment.get("model", {})]
    tables += [table.get("model", {}) for table in run.experiment.get("arm", ()) if table.get("name") == record.name]
    merged: dict[str, Any] = {}
    for table in tables:
        merged |= {"id": table} if isinstance(table, str) else dict(table)
    for key in (*SAMPLING_KEYS, "logprobs"):
        merged.pop(key, None)
    id_ = merged.pop("id", "reference")
    return str(record.spec.get("name", id_)), merged


def check_same(record: ArmRecord, model: Model) -> None:
    """Refuses a model that is not the one that an arm recorded; where it runs does not count.

    Raises:
        ModelError: says what differs.
    """
    found = differences("", *(known(spec) for spec in (record.spec["model"], model.fingerprint())))
    if found:
        raise ModelError(
            f"{model.name} is not the model that wrote its attempts (recorded → now): {'; '.join(found)}; name the one "
            "that is to score them with --by"
        )


def known(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is, wherever it runs, as JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(fingerprint)))
    return {key: value for key, value in plain.items() if key not in PLACEMENT}


def offered(record: ArmRecord, model: Model) -> list[dict[str, Any]]:
    """The schemas of an arm's tools in the form in which its model was shown them.

    Raises:
        ModelError: the order of their keys was not kept, and the model sees it.
    """
    if "schemas" in record.spec:
        kept: list[dict[str, Any]] = json.loads(record.spec["schemas"])
        return kept
    schemas = [dict(tool["schema"]) for tool in record.spec.get("tools", ())]
    prompt = getattr(model, "prompt", None)
    asked: list[Message] = [{"role": "user", "content": "?"}]
    if schemas and (prompt is None or prompt(asked, schemas) != prompt(asked, [_reversed(s) for s in schemas])):
        raise ModelError(
            "it was made by a version of the testbed that did not keep in which order its tools were described, and "
            "the model sees the order; make the run again under another name"
        )
    return schemas


def check_prompts(attempt: Attempt, tools: Sequence[Mapping[str, Any]], model: Model, record: ArmRecord) -> None:
    """Refuses to score where the conversation does not come to the tokens that the model was given.

    Models without a `prompt` of their own are taken at their word.

    Raises:
        ModelError: names the attempt and both numbers.
    """
    prompt = getattr(model, "prompt", None)
    if prompt is None or record.spec.get("control") == "imagined":  # whose results are written in prompts of their own
        return
    messages = attempt.transcript
    asked = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
    now = sum(len(prompt(messages[:n], tools)) for n in asked)
    if now != attempt.cost.prompt_tokens:
        raise ModelError(
            f"attempt {attempt.id[:12]} cannot be shown as its model read it: its prompts come to {now} tokens, and "
            f"{attempt.cost.prompt_tokens} were recorded"
        )


def reading_alike(id_: str, record: ArmRecord) -> dict[str, Any]:
    """Options with which another local model reads a conversation as the arm's own does: its system text."""
    own = record.spec.get("model") or {}
    return {"system": own["system"]} if id_.startswith("hf:") and own.get("system") is not None else {}


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed(value[key]) for key in reversed(list(value))}
    return [_reversed(item) for item in value] if isinstance(value, list) else value
