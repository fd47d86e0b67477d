"""Recordings: the tool results of an arm of a stored run, which another arm's tools can answer from.

Nothing is written for it: the transcripts of a run are the recording, so every run is one, also one that was killed.
The arm that replays has the recording's content in its hash, and so shares no attempt with live arms, or with arms that
replay another recording.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from testbed import registry
from testbed.errors import NotRecorded, UnknownName, UsageError
from testbed.experiment import ArmSpec, Experiment, Replay
from testbed.protocol import VERSION as PROTOCOL_VERSION
from testbed.replay import Recorded
from testbed.store import Run, Store
from testbed.store.records import differences
from testbed.tool import Tool, ToolSet
from testbed.types import Task, attempt_id


class StandIn(Tool):
    """Shows what is known of a recorded tool; it cannot work."""

    async def _arun(self, /, **arguments: Any) -> str:
        raise NotRecorded(f"{self.name} is replayed and never works.")


class RecordedTools(ToolSet):
    """The tools of a recorded arm, offered as they were; nothing of them need be there.

    Args:
        recorded: their fingerprints, as the recorded arm's identity has them.
        stateful: names of those that keep state.
    """

    def __init__(self, recorded: Sequence[Mapping[str, Any]], stateful: Sequence[str]) -> None:
        functions = [tool["schema"]["function"] for tool in recorded]
        super().__init__(
            [
                StandIn(name=f["name"], description=f.get("description", ""), args_schema=f["parameters"])
                for f in functions
            ],
            result_chars=recorded[0]["result_chars"],
        )
        self.schemas = [dict(tool["schema"]) for tool in recorded]
        self._recorded, self._stateful = [dict(tool) for tool in recorded], list(stateful)

    def fingerprint(self) -> list[dict[str, Any]]:
        """Those of the recorded tools."""
        return self._recorded

    def stateful(self) -> list[str]:
        """Those of the recorded tools that keep state."""
        return self._stateful


class Recording:
    """The recorded arm that an arm replays.

    Args:
        spec: the arm that replays it.
        store: opens the store that the new run goes to, where the recording is in no other.

    Raises:
        UnknownName: there is no such run or arm; names the nearest.
        UsageError: the store cannot be read, or holds nothing that could be replayed in this arm; says why.
    """

    def __init__(self, spec: ArmSpec, store: Callable[[], Store]) -> None:
        assert spec.replay is not None
        self._spec, self._asked = spec, spec.replay
        self._own = Store.open(spec.replay.store, create=False) if spec.replay.store else None
        self._store = self._own or store()
        with ExitStack() as undo:  # if interrupted too: its own store must not stay open
            undo.callback(self.close)
            self._run, record = _found(self._store, spec.replay)
            self._arm, self._known = record.hash, record.spec
            self._name = f"arm {spec.replay.arm!r} of run {spec.replay.run!r}"
            self._check_arm()
            self._contents = {
                text.id: hashlib.blake2b(text.text, digest_size=16).digest()
                for text in self._store.transcripts(spec.replay.run, spec.replay.arm)
            }
            if not self._contents:
                raise UsageError(f"{self._name} has no attempts yet, so nothing is recorded")
            undo.pop_all()

    def close(self) -> None:
        """Closes the recording's own store."""
        if self._own is not None:
            self._own.close()

    def identity(self) -> dict[str, str]:
        """What an arm's hash says of the recording: its content, and what becomes of other calls."""
        content = hashlib.blake2b(digest_size=16)
        for id_, text in sorted(self._contents.items()):
            content.update(id_.encode() + text)
        return {"recording": content.hexdigest(), "otherwise": self._asked.otherwise}

    def label(self) -> dict[str, str]:
        """Where the recording is, for people."""
        return {"run": self._asked.run, "arm": self._asked.arm}

    def tools(self) -> RecordedTools:
        """The recorded tools, which answer from the recording or not at all."""
        made = RecordedTools(self._known["tools"], self._known.get("stateful", _names(self._known["tools"])))
        if "schemas" in self._known:  # in the order in which the model was shown them; canonical JSON sorts their keys
            made.schemas = json.loads(self._known["schemas"])
        return made

    def check(self, experiment: Experiment, tasks: Sequence[Task]) -> None:
        """Refuses what is known to differ from what was recorded.

        Raises:
            UsageError: names it.
        """
        recorded = {task.hash for task in self._store.tasks(self._asked.run)}
        if other := [task for task in tasks if task.hash not in recorded]:
            raise UsageError(
                f"replay: {len(other):,} of {len(tasks):,} tasks, such as {other[0].prompt[:60]!r}, are not in run "
                f"{self._asked.run!r}"
            )
        samples = self._run.samples[self._asked.arm]
        if self._spec.samples > samples and self._spec.replays_all:
            raise UsageError(
                f"replay: arm {self._spec.name!r} wants {self._spec.samples} samples, but {self._name} has {samples}: "
                'lower samples, or let calls that were not recorded be made with otherwise = "live"'
            )
        before = self._run.experiment.get("tool", {})
        for name in self._spec.tools:
            if name in experiment.tool_options:
                found = differences("", before.get(name, {}), dict(experiment.tool_options[name]))
                self._refuse(f"tool {name!r}", found)
            self._refuse(f"tool {name!r}", _other_version(name, self._known["tools"]))

    def check_tools(self, made: Sequence[Mapping[str, Any]]) -> None:
        """Refuses tools that are not the recorded ones; for replays that may call them.

        Raises:
            UsageError: names the tool and what differs.
        """
        self._refuse("the list of tools", differences("offered", _names(self._known["tools"]), _names(made)))
        for name, old, new in zip(_names(made), self._known["tools"], made, strict=True):
            self._refuse(f"tool {name!r}", differences("", old, json.loads(json.dumps(new))))

    def of(self, task: str, sample: int) -> Recorded:
        """The results of the recorded attempt at a task.

        Args:
            task: its hash.
            sample: index within task and arm, the same in the recording.
        """
        id_ = attempt_id(task, self._arm, sample, self._run.seed)
        text = self._store.transcript(id_) if id_ in self._contents else None
        if text is not None and hashlib.blake2b(text, digest_size=16).digest() != self._contents[id_]:
            raise NotRecorded(f"attempt {id_[:12]} of {self._name} was made anew since this run began.")
        return Recorded(
            None if text is None else json.loads(text.decode("utf-8", "surrogatepass")),
            what=f"attempt {id_[:12]}, sample {sample} of {self._name}",
            stateful=self._known.get("stateful"),
            live=not self._spec.replays_all,
        )

    def _check_arm(self) -> None:
        if self._run.experiment.get("imported") is not None:
            raise UsageError(f"run {self._asked.run!r} holds imported outcomes, which have no tool results to replay")
        if self._known.get("lookahead"):
            raise UsageError(f"{self._name} searches, which has no one order of calls, so it cannot be replayed")
        written = _written(self._run, self._asked.arm) or _names(self._known.get("tools", ()))
        if not written:
            raise UsageError(f"{self._name} offers no tools, so there is nothing to replay")
        for name in self._spec.tools:
            if name not in written:
                raise UnknownName("tool", name, written, of=self._name)
        if list(self._spec.tools) != list(written):
            raise UsageError(f"{self._name} offers {', '.join(written)}: list the same tools in the same order")
        now = {"control": str(self._spec.control), "protocol": PROTOCOL_VERSION}
        self._refuse(self._name, differences("", {key: self._known[key] for key in now}, now))

    def _refuse(self, what: str, found: Sequence[str]) -> None:
        if found:
            raise UsageError(
                f"replay: {what} is not what was recorded in run {self._asked.run!r} (recorded → now): "
                f"{'; '.join(found)}"
            )


def _found(store: Store, asked: Replay) -> tuple[Run, Any]:
    run = store.run(asked.run)
    for record in run.arms:
        if record.name == asked.arm:
            return run, record
    raise UnknownName("arm", asked.arm, [record.name for record in run.arms], of=f"run {asked.run!r}")


def _written(run: Run, arm: str) -> list[str]:
    """An arm's tools by the names that its experiment gives them; a foreign name may stand for several."""
    return next((list(table.get("tools", ())) for table in run.experiment.get("arm", ()) if table["name"] == arm), [])


def _names(tools: Sequence[Mapping[str, Any]]) -> list[str]:
    return [tool["schema"]["function"]["name"] for tool in tools]


def _other_version(name: str, recorded: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the version of a tool of ours differs from the recorded one; nothing where the tool is not there."""
    if name.startswith(registry.FOREIGN) or name not in _names(recorded):
        return []
    try:
        cls = registry.tool_class(name)
    except UsageError:
        return []
    old = recorded[_names(recorded).index(name)].get("version")
    if old is None or not (inspect.isclass(cls) and issubclass(cls, Tool)):
        return []
    return differences("version", old, cls.model_fields["version"].default)
