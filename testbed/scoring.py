"""Scores stored attempts: what a model gives every message of a run's transcripts, by teacher forcing.

An arm's own model must be the one that wrote them, and must be shown what it was shown: both are checked, and where
they differ the arm is left out with the reason. Scores are kept beside the attempts, so that scoring goes on where it
was stopped.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from testbed.errors import ContextFull, FaultKind, InfrastructureError, ModelError, UnknownName, UsageError
from testbed.message_ends import lacks_ends, with_ends
from testbed.models import make_model
from testbed.models.base import Model, Scorer
from testbed.models.chat_clients import NoKey
from testbed.protocol import NO_ACTION, TOOLS_SPENT
from testbed.scoring_alike import check_prompts, check_same, known, offered, own_model, reading_alike
from testbed.store import ArmRecord, MessageScore, ScorerRecord, Store
from testbed.types import Attempt, Message, Status, digest

AT_ONCE = 128  # attempts that a scorer is given together
CHECKED = 16  # attempts of an arm whose prompts are counted again
_Tools = Sequence[Mapping[str, Any]]  # schemas
_HARNESS = (NO_ACTION, TOOLS_SPENT)  # what anybody who knows the protocol knows without being told
# Likewise what is told of calls that came to no tool: an arm that imagines its results is told the same.
_NO_TOOL = (FaultKind.PARSE_ERROR, FaultKind.TOOL_NOT_FOUND, FaultKind.BUDGET_EXHAUSTED)


@dataclass
class ArmScored:
    """How far the scoring of an arm has come.

    Attributes:
        arm: its name.
        scorer: who scores it; None where nobody can.
        total: complete attempts.
        done: attempts that have scores, those from before included.
        before: attempts that had them before.
        endless: attempts scored now in which a message that the model ended itself counts without its end, because
            the scorer does not tell how likely that was.
        left_out: why attempts have none, and how many.
        unread: of these, how many were not read because the infrastructure failed: they are tried again another time.
        refused: why the whole arm has none; "" where it has.
    """

    arm: str
    scorer: ScorerRecord | None = None
    total: int = 0
    done: int = 0
    before: int = 0
    endless: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    unread: int = 0
    refused: str = ""


@dataclass(frozen=True)
class _Job:
    """What is left to do for an arm.

    Attributes:
        record: the arm.
        progress: how far it has come.
        model: who scores it, started where anything is wanted.
        scorer: the same, as the store keeps it.
        complete: attempts that can have scores.
        wanted: ids of those that have none yet.
    """

    record: ArmRecord
    progress: ArmScored
    model: Model
    scorer: ScorerRecord
    complete: int
    wanted: set[str]


class Scoring:
    """Scores the attempts of a run.

    Args:
        store: where they are, and where the scores go.
        run: the run's name.
        arm: only this arm; by default all.
        by: the model that scores, by its id; by default each arm's own.
        models: models by id that replace those made by name, for programs that bring their own.

    Attributes:
        arms: how far each arm has come.

    Raises:
        UnknownName: there is no such run or arm.
        UsageError: the run was imported.
    """

    def __init__(
        self, store: Store, run: str, *, arm: str = "", by: str = "", models: Mapping[str, Model] | None = None
    ) -> None:
        self._store, self._run, self._by = store, store.run(run), by
        self._given, self._made = dict(models or {}), dict[str, Model]()
        self._refused: dict[str, str] = {}  # by arm, why a conversation could not be read
        names = [record.name for record in self._run.arms]
        if arm and arm not in names:
            raise UnknownName("arm", arm, names, of=f"run {run!r}")
        if "imported" in self._run.experiment:
            raise UsageError(f"run {run!r} holds imported outcomes, which have no transcripts to score.")
        self._records = [record for record in self._run.arms if arm in ("", record.name)]
        self.arms = [ArmScored(record.name) for record in self._records]

    async def run(self) -> list[ArmScored]:
        """Scores what has no scores yet.

        Raises:
            UsageError: no arm can be scored, or the key of a model that is to score some is missing; says why of each.
        """
        try:
            for job in await self._jobs():
                try:
                    await self._score(job)
                except ModelError as error:
                    job.progress.refused = str(error)
        finally:
            for made in self._made.values():
                await made.aclose()
        if all(progress.refused for progress in self.arms):
            raise UsageError(f"run {self._run.name!r} cannot be scored: {_why(self.arms)}")
        return self.arms

    async def _jobs(self) -> list[_Job]:
        """What is left to do for each arm that somebody can score, all models started: before the first is asked.

        Raises:
            UsageError: a key is missing; names the arms that need it.
        """
        jobs, keyless = [], []
        for record, progress in zip(self._records, self.arms, strict=True):
            try:
                jobs.append(await self._job(record, progress))
            except NoKey as error:
                progress.refused = str(error)
                keyless.append(progress)
            except ModelError as error:
                progress.refused = str(error)
        if keyless:
            others = " --arm NAME scores another arm alone." if len(keyless) < len(self.arms) else ""
            raise UsageError(f"run {self._run.name!r} cannot be scored: {_why(keyless)}{others}")
        return jobs

    async def _job(self, record: ArmRecord, progress: ArmScored) -> _Job:
        """What is left to do for an arm; its model is started where anything is.

        Raises:
            ModelError: nobody can score it; says why.
        """
        model = self._model(record)
        scorer = ScorerRecord(model.name, json.loads(json.dumps(dict(model.fingerprint()))))
        complete = {a.id for a in self._store.attempts(self._run.name, arm=record.name, texts=False) if _is_complete(a)}
        wanted = complete - self._store.scores.done(self._run.name, scorer.hash)
        if wanted and model in self._made.values():
            await model.start()
        return _Job(record, progress, model, scorer, len(complete), wanted)

    def _model(self, record: ArmRecord) -> Model:
        """Who scores an arm.

        Raises:
            ModelError: nobody can; says why.
        """
        if record.spec.get("lookahead"):
            raise ModelError("its attempts search, so that a transcript is no one conversation")
        id_, options = self._by, reading_alike(self._by, record)
        if not id_:
            id_, options = own_model(self._run, record)
        key = digest([id_, options])
        model = self._given.get(id_) or self._made.get(key)
        if model is None:
            model = self._made[key] = make_model(id_, options)
        if not isinstance(model, Scorer):
            raise ModelError(
                f"{model.name} does not say how likely a text is to it; let another model read it with --by hf:PATH"
            )
        if not self._by:
            check_same(record, model)
        return model

    async def _score(self, job: _Job) -> None:
        record, progress, model, wanted = job.record, job.progress, job.model, job.wanted
        assert isinstance(model, Scorer)
        progress.scorer, progress.total = job.scorer, job.complete
        progress.done = progress.before = job.complete - len(wanted)
        if not wanted:
            return
        tools = offered(record, model)
        # Of a run that goes on more are there by now; they have their turn when it is scored again.
        fresh = (a for a in self._store.attempts(self._run.name, arm=record.name) if a.id in wanted)
        checked = 0
        own_model_reads = not self._by or known(job.scorer.fingerprint) == known(record.spec.get("model") or {})
        while some := list(islice(fresh, AT_ONCE)):
            if own_model_reads and checked < CHECKED:
                for attempt in some[: CHECKED - checked]:
                    check_prompts(attempt, tools, model, record)
                checked += len(some)
            before = progress.unread
            found = await asyncio.gather(*(self._attempt(attempt, record, model, tools, progress) for attempt in some))
            went = progress.unread > before  # the server did
            if not (progress.done or went or any(found)) and (why := self._refused.pop(record.name, "")):
                raise ModelError(why)  # of a whole batch: the others would fare no better
            await asyncio.to_thread(self._store.scores.add, job.scorer, [row for rows in found for row in rows])
            progress.done += sum(map(bool, found))
            if went and not any(found):
                return  # of a whole batch: the others would fare no better now

    async def _attempt(
        self, attempt: Attempt, record: ArmRecord, model: Scorer, tools: _Tools, progress: ArmScored
    ) -> list[MessageScore]:
        messages, roles = read_by_model(attempt.transcript)
        if not roles:
            progress.left_out["the model wrote nothing in it"] += 1
            return []
        try:
            found = await model.score(messages, tools, list(roles))
        except (ModelError, ContextFull, InfrastructureError) as error:
            progress.left_out[str(error)] += 1
            progress.unread += isinstance(error, InfrastructureError)
            if isinstance(error, ModelError):
                self._refused[progress.arm] = str(error)
            return []
        if not all(math.isfinite(score.nats) for score in found):
            progress.left_out["a message of it has no probability at all to the model that reads it"] += 1
            return []
        longest = record.spec.get("sampling", {}).get("max_tokens")
        progress.endless += lacks_ends(attempt, found, roles, longest)
        return with_ends(attempt, found, roles, longest)


def read_by_model(transcript: Sequence[Message]) -> tuple[list[Message], dict[int, str]]:
    """The conversation as far as the model read or wrote it, and the roles of the messages that are scored, by index.

    What came after its last message it never read. The task and the harness's own notes are given, so nobody need guess
    them: they have no role. Nor have the notes on calls that no tool was given.
    """
    last = max((n for n, message in enumerate(transcript) if message["role"] == "assistant"), default=-1)
    messages = list(transcript[: last + 1])
    roles: dict[int, str] = {}
    for n, message in enumerate(messages):
        if message["role"] in ("assistant", "tool"):
            if message.get("fault") not in _NO_TOOL:
                roles[n] = message["role"]
        elif n and message["role"] == "user" and message["content"] not in _HARNESS:
            roles[n] = "feedback"
    return messages, roles


def _is_complete(attempt: Attempt) -> bool:
    return attempt.status is Status.COMPLETE


def _why(arms: Sequence[ArmScored]) -> str:
    """Why arms have no scores, as a sentence; a reason that holds for several once."""
    named: dict[str, list[str]] = {}
    for each in arms:
        named.setdefault(each.refused.rstrip("."), []).append(repr(each.arm))
    told = "; ".join(f"arm{'s' * (len(names) > 1)} {', '.join(names)}: {why}" for why, names in named.items())
    return told if told.endswith("?") else f"{told}."
