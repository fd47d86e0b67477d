"""A board's results in other people's forms: JSON, CSV, the hub's `.eval_results`, Every Eval Ever."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

from testbed.board.boards import Board
from testbed.board.entry_changes import NotShown
from testbed.board.shown import ArmResult, EntryResult

PACKAGE = "capability-testbed"
EVERY_EVAL_EVER = "0.3.0"  # version of its schema
# Figures of an arm, in the order of columns: name, where it stands in `figures`, least and greatest value.
FIGURES: Sequence[tuple[str, tuple[str, ...], float, float]] = (
    ("reach", ("operating", "estimate"), 0, 1),
    ("gain", ("gain",), -1, 1),
    ("elicitation", ("elicitation_part",), -1, 1),
    ("creation", ("creation",), -1, 1),  # estimated without bias, which may come out below 0
    ("loss", ("loss",), -1, 1),
)
DECODING = ("temperature", "top_p", "max_tokens")  # of an arm's model; not known of attempts made against the server
_SAID = {
    "reach": "chance of at least one verified success within the operating spend, mean over tasks",
    "gain": "reach less that of the same entry's arm without tools",
    "elicitation": "the part of the gain that re-sampling the arm without tools reaches too",
    "creation": "the part of the gain that re-sampling the arm without tools does not reach",
    "loss": "what the arm without tools reaches at the operating spend and this arm does not",
}
_FORMULAS = ("=", "+", "-", "@")  # with which a cell begins that spreadsheets would run
_UNSEEN = ("C", "M", "Z")  # general categories of characters that a spreadsheet may pass over before such a sign


def as_json(board: Board, results: Sequence[EntryResult], address: str, not_shown: Mapping[str, NotShown]) -> str:
    """All results of a board, without figures of single tasks.

    Args:
        board: the board.
        results: what it found.
        address: of the server, without a slash at the end.
        not_shown: what of each account the board does not show.
    """
    return json.dumps(
        {
            "board": {"slug": board.slug, "title": board.title, "hash": board.hash, "private": board.private},
            "url": f"{address}/boards/{board.slug}",
            "entries": [
                {**vars(found), "arms": [vars(arm) for arm in found.arms], "url": _url(found, address)}
                for found in results
            ],
            "not_shown": {account: vars(counts) for account, counts in sorted(not_shown.items())},
        },
        ensure_ascii=False,
        allow_nan=False,
    )


def as_csv(board: Board, results: Sequence[EntryResult], address: str) -> str:
    """All results of a board, a row for each arm of each entry.

    Text that a spreadsheet would take for a formula has an apostrophe before it.
    """
    written = io.StringIO()
    columns = ["board", "entry", "title", "account", "state", "arm", "model", "tools", "control", "bare"]
    columns += DECODING
    for name, *_ in FIGURES:
        columns += [name, f"{name}_low", f"{name}_high"]
    columns += ["rank_low", "rank_high", "attempts", "missing", "generated_tokens", "usd", "url"]
    sheet = csv.writer(written, lineterminator="\n")
    sheet.writerow(columns)
    for found in results:
        for arm in found.arms:
            low, high = arm.ranks.get("reach", (None, None))
            row: list[Any] = [board.slug, found.id, found.title, found.account, found.state, arm.name, arm.model]
            row += [" ".join(arm.tools), arm.control, arm.bare]
            row += [(arm.figures.get("decoding") or {}).get(name) for name in DECODING]
            for name, *_ in FIGURES:
                estimate = _estimate(arm, name)
                row += [estimate.get(end) for end in ("value", "low", "high")]
            row += [low, high, arm.figures.get("attempts"), arm.figures.get("missing"), arm.tokens, arm.usd]
            sheet.writerow([_cell(value) for value in (*row, _url(found, address))])
    return written.getvalue()


def as_eval_results(board: Board, found: EntryResult, address: str, dataset: str, task: str = "") -> str:
    """An entry's results as YAML for a model repository's folder `.eval_results` on the Hugging Face hub.

    Args:
        board: the entry's board.
        found: what it found.
        address: of the server.
        dataset: id of the dataset on the hub that the board's tasks are registered under, such as "org/name".
        task: its task there; the board's slug if empty.
    """
    listed = [
        EvalResultEntry(
            dataset_id=dataset,
            task_id=task or board.slug,
            value=round(100 * arm.reach, 4),  # per cent, as the hub's examples have it
            date=found.decided,
            source_url=_url(found, address),
            source_name=f"{board.title} (re-graded by the board: {_state(found)})",
            notes=_notes(arm),
        )
        for arm in found.arms
        if arm.reach is not None
    ]
    return str(yaml.safe_dump(eval_result_entries_to_yaml(listed), sort_keys=False, allow_unicode=True, width=10_000))


def as_every_eval_ever(board: Board, found: EntryResult, address: str) -> Iterator[dict[str, Any]]:
    """An entry's results as logs of Every Eval Ever (evalevalai.com), one for each model in it."""
    for model in dict.fromkeys(arm.model for arm in found.arms):
        arms = [arm for arm in found.arms if arm.model == model]
        yield {
            "schema_version": EVERY_EVAL_EVER,
            "evaluation_id": f"{board.slug}/{model}/{found.id}",
            "evaluation_timestamp": found.created,
            "retrieved_timestamp": str(int(datetime.now(UTC).timestamp())),
            "source_metadata": {
                "source_name": board.title,
                "source_type": "evaluation_run",
                "source_organization_name": address or board.title,
                "evaluator_relationship": "other",
                "additional_details": {
                    "account": found.account,
                    "entry": _url(found, address),
                    "state": _state(found),
                    "board_hash": board.hash,
                },
            },
            "eval_library": {"name": PACKAGE, "version": version(PACKAGE)},
            "model_info": _model_info(model),
            "evaluation_results": [result for arm in arms for result in _log_results(board, found, arm)],
        }


def _log_results(board: Board, found: EntryResult, arm: ArmResult) -> Iterator[dict[str, Any]]:
    for name, _, least, greatest in FIGURES:
        estimate = _estimate(arm, name)
        if estimate.get("value") is None:
            continue
        details: dict[str, Any] = {"score": estimate["value"], "details": {"control": arm.control, "arm": arm.name}}
        if estimate.get("low") is not None and estimate.get("high") is not None:
            details["uncertainty"] = {
                "confidence_interval": {
                    "lower": estimate["low"],
                    "upper": estimate["high"],
                    "confidence_level": 1 - board.measure.alpha,
                    "method": "Bayesian bootstrap of clusters of tasks, its quantiles computed",
                },
                "num_samples": len(board.tasks),
            }
        yield {
            "evaluation_result_id": f"{found.id}/{arm.name}/{name}",
            "evaluation_name": f"{board.slug}: {arm.name}",
            "source_data": {"dataset_name": board.title, "source_type": "other"},
            "evaluation_timestamp": found.decided,
            "metric_config": {
                "evaluation_description": _SAID[name],
                "metric_id": name,
                "lower_is_better": name == "loss",
                "score_type": "continuous",
                "min_score": least,
                "max_score": greatest,
            },
            "score_details": details,
            "generation_config": {
                "generation_args": {
                    "agentic_eval_config": {"available_tools": [{"name": tool} for tool in arm.tools]},
                },
                "additional_details": {"budget": json.dumps(dict(board.spec.get("budget", {})), sort_keys=True)},
            },
        }


def _model_info(model: str) -> dict[str, Any]:
    """What can be said of a model: its name is its author's word, so that nothing is read out of it."""
    kind, _, name = model.partition(":")
    details = {"deployment_type": "unknown", "model_availability": "unknown"}
    id_ = name.replace(":", "/") if kind == "chat" else name or model
    return {"name": model, "id": id_, "additional_details": details}


def _notes(arm: ArmResult) -> str:
    parts = [f"arm {arm.name}", "tools: " + (", ".join(arm.tools) or "none")]
    if arm.tools and arm.control not in ("live", ""):
        parts.append(f"control {arm.control}")
    for name, *_ in FIGURES:
        estimate = _estimate(arm, name)
        if estimate.get("value") is None:
            continue
        limits = "" if estimate.get("low") is None else f" [{estimate['low']:.3f}, {estimate['high']:.3f}]"
        parts.append(f"{name} {estimate['value']:.3f}{limits}")
    return "; ".join(parts)


def _estimate(arm: ArmResult, name: str) -> Mapping[str, Any]:
    found: Any = arm.figures
    for key in next(place for figure, place, *_ in FIGURES if figure == name):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _state(found: EntryResult) -> str:
    if found.state == "verified":
        return "verified"
    unchecked = [reason["text"] for reason in found.reasons if reason.get("level") == "unchecked"]
    return "; ".join(["partly verified", *unchecked])


def _url(found: EntryResult, address: str) -> str:
    return f"{address}/entries/{found.id}"


def _cell(value: Any) -> Any:
    """A value as it stands in a table: text in one line, and none that a spreadsheet would run.

    Some leave out what does not show before they look for a formula, and some take a full-width sign for the usual one.
    """
    if not isinstance(value, str):
        return value
    text = " ".join(value.splitlines())
    shown = unicodedata.normalize("NFKC", text)
    first = next((c for c in shown if not unicodedata.category(c).startswith(_UNSEEN)), "")
    return f"'{text}" if first in _FORMULAS else text
