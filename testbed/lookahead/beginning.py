"""Where attempts that look ahead begin, and which environments they can look ahead in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import get_type_hints

from testbed import registry
from testbed.budget import Budget
from testbed.env import Environment
from testbed.episode import Episode
from testbed.errors import DataError, UsageError
from testbed.game import CloneableGame, ScoredGame
from testbed.lookahead.candidates import Candidates
from testbed.lookahead.playouts import Playouts
from testbed.lookahead.settings import BestOf, Lookahead
from testbed.tool import AttemptContext, ToolSet
from testbed.types import Task


def begin(
    lookahead: Lookahead,
    environment: Environment,
    task: Task,
    tools: ToolSet,
    budget: Budget,
    count: Callable[[str], int],
    context: AttemptContext,
    max_tokens: int,
) -> Episode:
    """An attempt that looks ahead.

    Args:
        lookahead: how.
        environment: the task's.
        task: the task.
        tools: the arm's tools.
        budget: the attempt's limits.
        count: tokens of a text.
        context: what the tools may know of the attempt; without a game.
        max_tokens: of one message.
    """
    if isinstance(lookahead, BestOf):
        return Candidates(lookahead, environment, task, tools, budget, count, context)
    return Playouts(lookahead, environment, task, tools, budget, count, context, max_tokens)


def refuse_environment(lookahead: Lookahead, environment: Environment, tools: ToolSet) -> None:
    """Refuses an environment in which an arm cannot look ahead as it is to.

    Args:
        lookahead: how the arm looks ahead.
        environment: one of the experiment's.
        tools: the arm's tools.

    Raises:
        UsageError: says what it lacks, and which environments have it.
    """
    task = environment.tasks[0]
    if isinstance(lookahead, BestOf):
        if lookahead.check == "public" and environment.public_check(task, "") is None:
            have = _those(lambda env: env.public_check is not Environment.public_check)
            raise UsageError(
                f"lookahead: check = 'public' is for environments that can check an answer without anything hidden, "
                f"such as {have}; {environment.id} as it is set up cannot. check = 'grader' is an oracle"
            )
        return
    name, kind = next(iter(tools.acts_on().items()), ("", None))
    if kind is None or issubclass(kind, CloneableGame):
        why = f"{name!r} only tries moves" if name else f"{next(iter(tools.offers))!r} acts on no game"
        raise UsageError(f"lookahead: kind = 'tree' searches over moves that a tool makes; {why}. Offer \"ask\"")
    if not isinstance(environment.make_game(task), ScoredGame):
        raise UsageError(
            f"lookahead: kind = 'tree' needs a game that can be cloned and that says what was won (ScoredGame). "
            f"{environment.id} has none; {_those(_searchable)} can be searched"
        )


def _those(have: Callable[[type[Environment]], bool]) -> str:
    """Names of the environments for which something holds."""
    return ", ".join(sorted(name for name, env in _environments() if have(env))) or "none that is installed"


def _environments() -> Iterator[tuple[str, type[Environment]]]:
    for name in registry.env_names():
        try:
            yield name, registry.env_class(name)
        except DataError:  # a file that cannot be used is another matter
            continue


def _searchable(env: type[Environment]) -> bool:
    """Whether an environment declares that its games can be searched."""
    made = get_type_hints(env.make_game).get("return")
    return isinstance(made, type) and issubclass(made, ScoredGame)
