"""The head of a report: what it is of, in a few lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.report.record import Analysis
from testbed.report.subject import ArmSubject, Subject, TaskSource
from testbed.report.transcript_view import amounts
from testbed.report.words import counted, joined
from testbed.types import Control

SYSTEM = 40  # characters of a system text that are shown


@dataclass(frozen=True)
class Header:
    """What a report is of, as terms with their texts.

    Attributes:
        facts: of the run as a whole.
        arms: of each arm, by its name.
    """

    facts: tuple[tuple[str, str], ...]
    arms: tuple[tuple[str, str], ...]


def header(analysis: Analysis) -> Header:
    """The head of a report; empty where nothing is known but the outcomes."""
    subject = analysis.subject
    if subject is None:
        return Header((), ())
    facts = {
        "about": subject.description,
        "model": _model(subject),
        "tasks": f"{analysis.tasks:,}{_sources(subject.sources)}",
        "budget": _budget(subject),
        "measure": _measure(analysis),
    }
    return Header(
        tuple((term, text) for term, text in facts.items() if text),
        tuple((arm.name, _arm(arm, subject)) for arm in subject.arms),
    )


def added(analysis: Analysis) -> str:
    """What the report tells, by what its arms have that the bare one has not: such as "what the tools added"."""
    subject = analysis.subject
    arms = {arm.name: arm for arm in subject.arms} if subject is not None and not subject.imported else {}
    bare, others = arms.get(str(analysis.bare)), [arms[c.arm] for c in analysis.comparisons if c.arm in arms]
    if bare is None or not others:
        return "what the tools added"
    models = {arm.model for arm in others} - {bare.model}
    told = ["the tools"] if any((arm.tools, arm.control) != (bare.tools, bare.control) for arm in others) else []
    told += ["the search"] if any(arm.lookahead != bare.lookahead for arm in others) else []
    told += [f"the other model{'s' * (len(models) > 1)}"] if models else []
    return f"what {joined(told)} added" if told else "how its arms compare"


def _model(subject: Subject) -> str:
    day = subject.created[:10]
    if subject.imported:
        return f"not known here, nor seed, budget and tools: outcomes imported {day}"
    models = {_decoded(arm) for arm in subject.arms}
    said = models.pop() if len(models) == 1 else "of several kinds, see the arms"
    return f"{said}; seed {subject.seed}; run of {day}"


def _decoded(arm: ArmSubject) -> str:
    how = [f"{key} {value:g}" for key, value in arm.sampling.items() if (key, value) != ("top_p", 1)]
    if arm.system is not None:
        how.append(f"system text {_begun(arm.system)!r}" if arm.system else "no system text")
    return f"{arm.model} ({', '.join(how)})" if how else arm.model


def _begun(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= SYSTEM else f"{words[:SYSTEM]}…"


def _sources(sources: Sequence[TaskSource]) -> str:
    named = [source for source in sources if not source.environment.startswith("imported:")]
    if not named:
        return ""
    return f": {', '.join(_source(source, alone=len(sources) == 1) for source in named)}"


def _source(source: TaskSource, *, alone: bool) -> str:
    said = source.environment if alone else f"{source.environment} {source.tasks:,}"
    return f"{said} from {joined(source.read)}" if source.read else said


def _budget(subject: Subject) -> str:
    if subject.imported:
        return ""
    budgets = [_limits(arm.budget) for arm in subject.arms]
    same = len(set(budgets)) == 1
    return f"of an attempt: {budgets[0] or 'no limit'}" if same else "differs, see the arms"


def _limits(budget: Mapping[str, Any]) -> str:
    told: dict[str, float] = {}
    for key, value in budget.items():
        if isinstance(value, Mapping):  # limits on single tools
            told |= {f"{key}.{tool}": limit for tool, limit in value.items()}
        else:
            told[key] = value
    return amounts(told)


def _measure(analysis: Analysis) -> str:
    s = analysis.settings
    return f"axis attempts; operating {s.operating:,}, elicitation {s.elicitation:,}, rho {s.rho:g}, alpha {s.alpha:g}"


def _arm(arm: ArmSubject, subject: Subject) -> str:
    parts = [] if subject.imported else [_offered(arm)]
    parts += [_search(arm.lookahead)] if arm.lookahead else []
    if arm.replays:
        parts.append(f"results as recorded for arm {arm.replays['arm']!r} of run {arm.replays['run']!r}")
    parts.append(_attempts(arm))
    if len({_decoded(other) for other in subject.arms}) > 1:
        parts.append(f"model {_decoded(arm)}")
    if len({_limits(other.budget) for other in subject.arms}) > 1:
        parts.append(f"budget {_limits(arm.budget) or 'without limits'}")
    if arm.stated:
        parts.append("sampled independently, states its author")
    return "; ".join(parts)


def _offered(arm: ArmSubject) -> str:
    if not arm.tools:
        return "no tools"
    tools = joined([f"{tool} over {corpus}" if corpus else tool for tool, corpus in arm.tools.items()])
    if arm.control == Control.INERT:
        return f"placebos of {tools}"
    if arm.control == Control.IMAGINED:
        return f"{tools}, imagined: the model writes their results itself"
    if arm.control == Control.YOKED:
        whose = f"arm {arm.yoke!r}" if arm.yoke else "another arm"
        return f"{tools}, yoked: they return what attempts of {whose} were given"
    return tools


def _search(lookahead: Mapping[str, object]) -> str:
    kind = lookahead.get("kind")
    if kind == "best_of":
        checked = "the grader" if lookahead.get("check") == "grader" else "a public check"
        return f"looks ahead: the first of {lookahead.get('n')} candidates that {checked} accepts"
    rest = ", ".join(f"{key} {value}" for key, value in lookahead.items() if key != "kind")
    return f"looks ahead: {kind} search ({rest})"


def _attempts(arm: ArmSubject) -> str:
    if arm.stop:
        return f"{arm.least:,} to {arm.most:,} attempts per task, stopped by {arm.stop}"
    return f"{counted(arm.most, 'attempt')} per task"
