"""What a report is of: the model, the tasks, the limits and what each arm offers, as the store knows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from testbed.report.copies import stated_arms
from testbed.types import Task

if TYPE_CHECKING:
    from testbed.store import ArmRecord, Run

_HIDDEN = ("hash", "secret")  # of a corpus' options: no help to a reader


@dataclass(frozen=True)
class TaskSource:
    """Where some of the tasks come from.

    Attributes:
        environment: its id; for imported outcomes "imported:" and the run's name.
        tasks: how many of the run's tasks are its.
        read: the files and datasets that they were read from, as the experiment names them; empty where generated.
    """

    environment: str
    tasks: int
    read: tuple[str, ...]


@dataclass(frozen=True)
class ArmSubject:
    """What one arm is.

    Attributes:
        name: its name.
        control: absent, inert, imagined, yoked or live; empty for imported outcomes.
        tools: what it offers → the corpus that this works over, as the experiment names it, or "".
        corpora: the hash of each such corpus.
        least: attempts per task that are made in any case.
        most: attempts per task at most.
        stop: what ends sampling before that; empty where nothing does.
        yoke: the arm whose results it replays; empty where it is not yoked.
        replays: "run" and "arm" of the recording that its tools answer from; empty where they work.
        lookahead: what its attempts search; empty where they do not.
        model: the model's id as the experiment gives it; empty where unknown.
        sampling: how it decodes.
        system: the system text that the experiment gives its model, "" for none; None where it says nothing of it.
        budget: limits of an attempt.
        stated: whether its author states that its attempts were sampled independently.
    """

    name: str
    control: str
    tools: Mapping[str, str]
    corpora: Mapping[str, str]
    least: int
    most: int
    stop: str
    yoke: str
    replays: Mapping[str, str]
    lookahead: Mapping[str, Any]
    model: str
    sampling: Mapping[str, float]
    system: str | None
    budget: Mapping[str, Any]
    stated: bool = False


@dataclass(frozen=True)
class Subject:
    """What a report is of.

    Attributes:
        description: the experiment's own line about itself; empty where it has none.
        created: when the run was begun, ISO 8601.
        imported: whether its outcomes were made elsewhere, so that model, seed, limits and tools are not known.
        seed: of the attempts' random streams; None where imported.
        sources: where the tasks come from, in the order of the tasks.
        arms: every arm of the run, in the experiment's order.
    """

    description: str
    created: str
    imported: bool
    seed: int | None
    sources: tuple[TaskSource, ...]
    arms: tuple[ArmSubject, ...]


def subject_of(run: Run, tasks: Iterable[Task]) -> Subject:
    """What the report of a run is of.

    Args:
        run: the run.
        tasks: its tasks.
    """
    imported = "imported" in run.experiment
    names = {record.hash: record.name for record in run.arms}
    return Subject(
        description=str(run.experiment.get("description", "")),
        created=run.created,
        imported=imported,
        seed=None if imported else run.seed,
        sources=_sources(run.experiment.get("env", ()), tasks),
        arms=tuple(_arm(run, record, names) for record in run.arms),
    )


def _sources(tables: Iterable[Mapping[str, Any]], tasks: Iterable[Task]) -> tuple[TaskSource, ...]:
    read: dict[str, list[str]] = {}
    for table in tables:
        hub = table.get("hub")
        place = table.get("path") or (hub.get("name") if isinstance(hub, Mapping) else hub)
        if place and str(place) not in read.setdefault(str(table.get("id", "")), []):
            read[str(table.get("id", ""))].append(str(place))
    counts = Counter(task.environment for task in tasks)
    return tuple(TaskSource(name, count, tuple(read.get(name, ()))) for name, count in counts.items())


def _options(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """A model's options as a table: a file may give its id alone."""
    given = table.get("model", {})
    return {"id": given} if isinstance(given, str) else given


def _arm(run: Run, record: ArmRecord, names: Mapping[str, str]) -> ArmSubject:
    experiment, spec = run.experiment, record.spec
    tables: Iterable[Mapping[str, Any]] = experiment.get("arm", ())
    asked: Mapping[str, Any] = next((table for table in tables if table.get("name") == record.name), {})
    model = {**_options(experiment), **_options(asked)}
    made = run.samples.get(record.name, 0)
    samples = asked.get("samples", experiment.get("samples", made))
    stops = samples if isinstance(samples, Mapping) else {}
    options = experiment.get("tool", {})
    tools = tuple(asked.get("tools", ()))
    return ArmSubject(
        name=record.name,
        control=str(spec.get("control", "")),
        tools={tool: _corpus(options.get(tool, {}).get("corpus")) for tool in tools},
        corpora=_hashes(spec.get("tools") or ()),
        least=int(stops.get("min", made)),
        most=int(stops.get("max", made)),
        stop=str(stops.get("stop", "verdict")) if stops else "",
        yoke=names.get(spec.get("yoke", ""), ""),
        replays=spec.get("replays") or {},
        lookahead={key: value for key, value in (spec.get("lookahead") or {}).items() if key != "version"},
        model=_model(model, str(spec.get("name", ""))),
        sampling=spec.get("sampling") or {},
        system=model.get("system"),
        budget=spec.get("budget") or {},
        stated=record.name in stated_arms(run),
    )


def _model(options: Mapping[str, Any], name: str) -> str:
    """The model's id, with the policy that a scripted one follows."""
    policy = options.get("policy")
    return " ".join(filter(None, (str(options.get("id") or name), policy if isinstance(policy, str) else "")))


def _corpus(option: object) -> str:
    """A corpus as the experiment names it: a path, an environment, or a table of either and its options."""
    if not isinstance(option, Mapping):
        return str(option or "")
    place = str(option.get("path") or option.get("env") or "")
    rest = [f"{key} {value}" for key, value in option.items() if key not in ("path", "env", *_HIDDEN)]
    return f"{place} ({', '.join(rest)})" if rest else place


def _hashes(tools: Sequence[Any]) -> dict[str, str]:
    """Corpus hashes by tool, from an arm's identity, where a placebo names those of what it stands for."""
    found = {}
    for tool in tools:
        if not isinstance(tool, Mapping):  # imported specs name their tools, no more
            continue
        content = tool.get("content") or {}
        corpus = content.get("corpus") or (content.get("of") or {}).get("corpus")
        if isinstance(corpus, str):
            found[str(tool.get("schema", {}).get("function", {}).get("name", ""))] = corpus
    return found
