"""`testbed run`: one experiment from file to store, shown while it runs, stopped cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console

from testbed.bare import bare_among
from testbed.errors import StoreError
from testbed.experiment import Experiment
from testbed.experiment_file import read_experiment
from testbed.progress import watch
from testbed.run_alone import alone_at
from testbed.runner import Runner
from testbed.schedule import Progress
from testbed.store import Store


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        made: attempts made now.
        missing: of these, ended by the infrastructure.
        interrupted: whether it was stopped by a signal.
    """

    made: int
    missing: int
    interrupted: bool


async def run_experiment(
    source: str, store: str, *, concurrency: int, plugins: Sequence[str] = (), agent: str = ""
) -> Ending:
    """Runs an experiment and tells on stderr how it goes.

    Raises:
        UsageError: the experiment, the store or the machine does not allow it, or another process is at it.
    """
    console = Console(stderr=True)
    experiment = read_experiment(source, plugins, agent)
    with contextlib.ExitStack() as opened:
        opened.enter_context(alone_at(store, experiment.name))
        # A new store comes last: an experiment that cannot run leaves none behind. What replays one finds it there.
        create = not any(arm.replay and not arm.replay.store for arm in experiment.arms)
        runner = Runner(
            experiment,
            _there(store, opened) or (lambda: opened.enter_context(Store.open(store, create=create))),
            concurrency=concurrency,
            begun=lambda: _tell_what_is_compared(experiment, console),
        )
        watching = asyncio.create_task(watch(runner, console))
        try:
            with _stopping_on_signals(runner, console):
                await runner.run()
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
    counts = runner.progress
    made = counts.done - counts.resumed
    where = "" if store == "testbed.sqlite" else f" --store {store}"
    options = [*(f" --plugin {plugin}" for plugin in plugins), f" --agent {agent}" if agent else ""]
    again = f"testbed run {source}{''.join(options)}{where}"
    _tell(console, f"{_sum_up(counts)}.")
    if counts.missing:
        _tell(console, f"{counts.causes.told(where)}.")
    if told := counts.broken.told(where):
        _tell(console, f"{told}.")
    for name in sorted({arm.model.name for arm in runner.arms if getattr(arm.model, "counts_are_approximate", False)}):
        _tell(console, f"{name} did not tell all its tokens: four bytes of text count, and cost, as one.")
    if counts.gave_up and counts.done < counts.total:
        _tell(
            console,
            f"Stopped early: the model was not heard in any of the first {counts.unheard} attempts. Mend the cause, "
            f"then go on with: {again}",
        )
    elif runner.stopped and not counts.gave_up and (counts.done < counts.total or counts.missing):
        _tell(console, f"Stopped; all finished attempts are kept. Go on with: {again}")
    elif counts.missing:
        _tell(console, f"Try the missing ones again with: {again}")
    else:
        stopped = "Stopped, with nothing left to do. " if runner.stopped else ""
        _tell(console, f"{stopped}See what the tools added: testbed report {experiment.name}{where}")
    return Ending(made, counts.missing, runner.stopped and not counts.gave_up)


def _there(store: str, opened: contextlib.ExitStack) -> Store | None:
    """The store, where there is one; what is wrong with it is told once the experiment is known to be right."""
    with contextlib.suppress(StoreError):
        return opened.enter_context(Store.open(store, create=False))
    return None


def _tell_what_is_compared(experiment: Experiment, console: Console) -> None:
    """Says so of an experiment whose report will compare no arms, which may be meant."""
    if told := _compares_nothing(experiment):
        _tell(console, told)


def _compares_nothing(experiment: Experiment) -> str:
    names = [arm.name for arm in experiment.arms]
    if len(names) == 1:
        return (
            f"{names[0]!r} is the only arm, so that the report will compare nothing. For what tools add, give the "
            "experiment an [[arm]] without tools and one with them; `testbed compare` takes two arms of any runs."
        )
    if bare_among(experiment.arms, experiment.measure.bare) is not None:
        return ""
    return (
        f"No arm is bare (without tools and search) among {', '.join(map(repr, names))}, so that the report will "
        "compare none with another. If that is not meant, add an [[arm]] without tools; or say with which one the "
        f'others are compared: bare = "{names[0]}" in [measure], or --bare of `testbed report` afterwards.'
    )


def _sum_up(counts: Progress) -> str:
    """Such as "2,558 of 3,520 attempts are stored: 2,558 new, 0 from before; 0 lost to the infrastructure"."""
    scored = counts.done - counts.missing
    new = max(0, scored - counts.resumed - counts.elsewhere)
    twice = (
        f", {counts.elsewhere:,} made here in vain, as another process at this experiment stored them first"
        if counts.elsewhere
        else ""
    )
    given_up = f", {counts.given_up:,} given up" if counts.given_up else ""
    return (
        f"{scored:,} of {counts.total:,} attempts are stored: {new:,} new{twice}, {counts.resumed:,} from before; "
        f"{counts.missing - counts.given_up:,} lost to the infrastructure{given_up}"
    )


def _tell(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def _stopping_on_signals(runner: Runner, console: Console) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) lets attempts end that are under way; the second gives them up, too."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()

    def on_signal() -> None:
        if runner.stopped:
            assert task is not None
            task.cancel()
            return
        runner.stop()
        _tell(
            console,
            "Stopping: letting attempts under way end, but for those of which nothing is lost while they wait for "
            "their turn at a server. "
            "Ctrl-C again to give them up: what a hosted model was asked for in them then counts as lost.",
        )

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    except asyncio.CancelledError:
        if not runner.stopped or task is None:
            raise
        task.uncancel()
        # given up: nothing half-written, since only finished attempts reach the store
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
