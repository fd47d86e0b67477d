"""One try at an attempt by an agent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from testbed.agents import Agent
from testbed.agents_drive import Drive
from testbed.env import Environment
from testbed.episode import MOST_CHARS_PER_TOKEN, Episode
from testbed.preparation import Arm
from testbed.threads import DaemonThreads
from testbed.tool import AttemptContext
from testbed.trial import Trial
from testbed.types import Attempt, Status, Task, Usage, stream_key


def trial_of(arm: Arm, task: Task, environment: Environment, sample: int, seed: int) -> Trial:
    """A try at an attempt, by a model or by an agent."""
    kind = AgentTrial if isinstance(arm.model, Agent) else Trial
    return kind(arm, task, environment, sample, seed)


class AgentTrial(Trial):
    """One try at an attempt by an agent."""

    async def run(self, replay: Iterator[str] | None, graders: DaemonThreads) -> Attempt:
        """The attempt, however the agent fared in it; see `Trial.run`."""
        agent = self._arm.model
        assert isinstance(agent, Agent)
        episode = self._episode = self._begin(replay)
        drive = Drive(agent, episode, graders if self._environment.grades_slowly else None)
        self._asked = True  # its models, of which nobody knows when they are
        try:
            await drive.run(self._arm.tools.schemas)
        finally:
            await episode.toolbox.aclose()
        return self._record(Status.COMPLETE, episode.ended, episode.transcript)

    def _begin(self, replay: Iterator[str] | None) -> Episode:
        arm, task, env = self._arm, self._task, self._environment
        recorded = arm.recording.of(task.hash, self._sample) if arm.recording else None
        context = AttemptContext(stream_key(self._seed, task.hash, self._sample), replay, recorded)
        context = env.enter(task, arm.tools, context)
        return AgentEpisode(task, env.grade, arm.tools, arm.spec.budget, arm.model.count, context, env.feedback)


class AgentEpisode(Episode):
    """An attempt whose messages may come from fewer calls of models than there are messages, or from more."""

    _said = 0

    def _believed(self, usage: Usage, text: str) -> Usage:
        """The usage as metered, the message's tokens counted besides where too few were metered for all that was said.

        One call of a model may be behind several messages: a message for each tool that it called.
        """
        self._said += len(text)
        generated = self.meter.amounts["generated_tokens"] + usage.generated_tokens
        if generated * MOST_CHARS_PER_TOKEN >= self._said:
            return usage
        return replace(usage, generated_tokens=usage.generated_tokens + self._count(text))
