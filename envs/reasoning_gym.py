"""ReasoningGym: any dataset of the reasoning-gym library, graded strictly.

Three things keep the library's datasets from being used as they come, and are set right here:

* Some depend on the interpreter's hash seed or on the global random generator, so that two processes get different
  tasks from one seed. Tasks are made in a child process where both are fixed.
* Some graders give full marks to wrong answers: `STRICTER` in `testbed.envs.reasoning_gym_rules` says what is asked
  besides.
* Some graders hand the answer to `eval`, or to sympy, which does so itself. Such answers are read as syntax first,
  and only harmless ones get there (`ADMITS`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction
from functools import cached_property, lru_cache
from importlib.metadata import version
from typing import Any, ClassVar, Unpack

from testbed.env import Common, Environment
from testbed.envs.reasoning_gym_rules import ADMITS, STRICTER, Entry, numbers_in
from testbed.errors import UnknownName, UsageError
from testbed.types import Grade, Task

NO_REFERENCE = "the library gives no reference answers for it, so nobody could check its grader"
UNUSABLE = {
    "boxnet": NO_REFERENCE,
    "composite": "it mixes other datasets: use each of them as an environment of its own",
    "rush_hour": NO_REFERENCE,
}
# Where several answers are right, the library keeps one of them here.
_EXAMPLES = ("example_answer", "example_correct_answer", "possible_answer")
_SEEDS_APART = 100_003  # task i of seed s comes from s + i in the library: neighbouring seeds would share most tasks
_MOST_TASKS = 24_000  # up to four times as many are drawn, and these may not reach into the next seed's
_LONGEST = 20_000  # characters of an answer that is graded; the longest reference of the library's defaults has 4,063

# Runs in a child process, see the module's docstring. Reads (dataset, config, how many, of how many); writes entries.
_MAKE_ENTRIES = """
import pickle, random, sys
dataset, config, wanted, size = pickle.load(sys.stdin.buffer)
out, sys.stdout = sys.stdout.buffer, sys.stderr
import numpy, reasoning_gym
random.seed(0)
numpy.random.seed(0)
made, entries, seen = reasoning_gym.create_dataset(dataset, size=size, **config), [], set()
for index in range(size):
    if len(entries) == wanted:
        break
    entry = made[index]
    answer = entry["answer"]
    if entry["question"] in seen or (isinstance(answer, str) and (not answer.strip() or "Integral(" in answer)):
        continue
    seen.add(entry["question"])
    entries.append(entry)
pickle.dump(entries, out)
"""


class ReasoningGym(Environment):
    """Procedural reasoning tasks: any dataset of the reasoning-gym library.

    Success is the library's full score of 1, and the stricter rule of `STRICTER` where that is not enough; partial
    scores are kept apart. Tasks that the library makes twice are passed over, and so are those whose right answer is
    blank, or an integral that the library could not solve either.

    Args:
        dataset: its name in the library, such as "chain_sum".
        tasks: how many, 1 to 24,000.
        seed: from 0 to 40,000; the library's seed is `_SEEDS_APART` times this, so that other seeds give other tasks.
        config: the dataset's own options by name.
        common: options of every environment, see `testbed.env.Common`.

    Raises:
        UnknownName: no such dataset, or it has no such option; names the nearest.
        UsageError: the dataset cannot be used here, or refuses its options.
    """

    id: ClassVar[str] = "ReasoningGym-v0"
    card: ClassVar[str] = (
        "Source: reasoning-gym (Stojanovski et al. 2025, arXiv 2505.24760), Apache-2.0; every seed gives new tasks. "
        "Expected: python creates where an algorithm is short and hand work long (counting, matrices, long "
        "arithmetic, search puzzles); search and retrieve add nothing. Contamination: generators are public, "
        "instances are not."
    )

    def __init__(
        self,
        dataset: str,
        tasks: int = 50,
        seed: int = 0,
        config: Mapping[str, Any] | None = None,
        **common: Unpack[Common],
    ) -> None:
        if tasks < 1:
            raise UsageError(f"{self.id}: tasks must be at least 1, not {tasks}.")
        if tasks > _MOST_TASKS:
            raise UsageError(
                f"{self.id}: tasks must be at most {_MOST_TASKS:,}, not {tasks}; take another seed for more."
            )
        if not 0 <= seed <= 40_000:
            raise UsageError(f"{self.id}: seed must be from 0 to 40,000, not {seed}.")
        if dataset in UNUSABLE:
            raise UsageError(f"{self.id} cannot use the dataset {dataset!r}: {UNUSABLE[dataset]}.")
        self.dataset, self.size = dataset, tasks
        self.config = {**_checked(dataset, config or {}), "seed": seed * _SEEDS_APART}
        self._entries: dict[str, Entry] = {}
        super().__init__(**common)

    def make_tasks(self) -> Iterable[Task]:
        """The library's tasks in its order."""
        entries = make_entries(pickle.dumps((self.dataset, self.config, self.size, 4 * self.size + 64)))
        if len(entries) < self.size:
            raise UsageError(
                f"{self.dataset} has only {len(entries)} different tasks with these options; ask for no more."
            )
        grader = f"reasoning-gym/{self.dataset}/{version('reasoning-gym')}/strict-2"
        for number, entry in enumerate(entries):
            meta = {"dataset": self.dataset, "number": number}
            task = self.task(entry["question"], _reference(entry), grader=grader, meta=meta)
            self._entries[task.hash] = entry
            yield task

    def grade(self, task: Task, answer: str) -> Grade:
        """The library's verdict, and the stricter one where there is any."""
        _ = self.tasks
        if task.hash not in self._entries:
            raise UsageError(f"{self.id} with dataset {self.dataset!r} does not hold the task {task.prompt[:60]!r}.")
        entry = self._entries[task.hash]
        admits = ADMITS.get(self.dataset)
        if not answer.strip() or len(answer) > _LONGEST or (admits is not None and not admits(answer)):
            return Grade(False, 0.0, "not an answer of the expected form")
        score = self._library_score(answer, entry)
        stricter = STRICTER.get(self.dataset)
        success = score == 1.0 and (stricter is None or stricter(answer, entry))
        return Grade(success, min(1.0, max(0.0, score)), f"library score {score:g}")

    def near_misses(self, task: Task) -> Iterable[str]:
        """Answers that the library marks as fully right, although they are wrong."""
        entry = self._entries[task.hash]
        yield "no such answer"
        if self.dataset == "game_of_life_halting":
            yield "False" if task.reference == "True" else "True"
        elif self.dataset == "gsm_symbolic":
            yield f"{task.reference} 7"
            if Decimal(task.reference):
                yield f"-{task.reference}"
        elif self.dataset == "complex_arithmetic":
            yield from ("nan", "nan+nanj", "NaN")
        elif self.dataset == "fraction_simplification":
            yield f"{task.reference} or 1/2"
        elif self.dataset == "time_intervals" and "day" in task.reference:
            yield f"{task.reference} or 00:34:28"
        elif self.dataset == "word_sorting":
            yield f"{task.reference}, more"
        elif self.dataset == "puzzle24":
            used = sorted(entry["metadata"]["numbers"])
            yield from (text for text in ("8*3*1*1", "5*5 - 2/2", "6*4*1*1") if sorted(numbers_in(text)) != used)
        elif self.dataset == "coin_flip" and Fraction(task.reference) < Fraction(1, 10_000):
            yield "0"

    @cached_property
    def _library(self) -> Any:
        import reasoning_gym

        return reasoning_gym.create_dataset(self.dataset, size=4 * self.size + 64, **self.config)

    def _library_score(self, answer: str, entry: Entry) -> float:
        # Some graders print what they dislike about an answer, and some raise whatever its parsing raised.
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                return float(self._library.score_answer(answer, entry))
            except Exception:  # noqa: BLE001 (foreign code fed with anything: what it chokes on is not right)
                return 0.0


@lru_cache(maxsize=32)
def make_entries(request: bytes) -> list[Entry]:
    """Runs `_MAKE_ENTRIES`; remembered, since every arm of an experiment has an environment of its own.

    Raises:
        UsageError: the library cannot make the tasks; says what it said.
    """
    child = subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", _MAKE_ENTRIES],
        input=request,
        capture_output=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        check=False,
    )
    if child.returncode != 0:
        dataset, config, *_ = pickle.loads(request)
        last = (child.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"])[-1]
        raise UsageError(f"{dataset} cannot make tasks with the options {config}: {last}")
    entries: list[Entry] = pickle.loads(child.stdout)
    return entries


def dataset_names() -> list[str]:
    """The library's datasets that can be used here, sorted."""
    from reasoning_gym.factory import DATASETS

    return sorted(DATASETS.keys() - UNUSABLE.keys())


def _checked(dataset: str, config: Mapping[str, Any]) -> dict[str, Any]:
    from reasoning_gym.factory import DATASETS

    if dataset not in DATASETS:
        raise UnknownName("reasoning-gym dataset", dataset, dataset_names())
    kind = DATASETS[dataset][1]
    known = {field.name for field in dataclasses.fields(kind)} - {"seed", "size"}
    for option in config:
        if option not in known:
            hint = {"seed": "Give it as seed.", "size": "Give it as tasks."}.get(option, "")
            raise UnknownName(f"option of {dataset}", option, known, hint)
    try:
        options = kind(**config)
        if hasattr(options, "validate"):
            options.validate()
    except (AssertionError, ValueError, TypeError) as error:
        raise UsageError(f"{dataset} refuses the options {dict(config)}: {error}") from None
    return dict(config)


def _reference(entry: Entry) -> str:
    if entry["answer"] is not None:
        return str(entry["answer"])
    example = next(entry["metadata"][key] for key in _EXAMPLES if key in entry["metadata"])
    return example if isinstance(example, str) else json.dumps(example)
