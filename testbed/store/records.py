"""What the store gives back about runs: frozen records, and how two versions of a run differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from testbed.errors import StoreError
from testbed.store.schema import pack, unpack
from testbed.types import COST_COMPONENTS, REDRAWN, RESENT, Task

_MAX_SEED = 2**63
# Keys of an experiment that are not compared: a file may leave its name out, the seed is the run's, and the description
# changes no attempt.
_APART = ("name", "seed", "description")
# How most attempts end, and their tool faults: what a query need not fetch as text.
USUAL = ("answered", "{}")


@dataclass(frozen=True)
class ArmRecord:
    """An arm as the store keeps it.

    Attributes:
        hash: covers everything that can change an outcome.
        name: what the run calls it.
        spec: what was hashed, for people; any JSON.
    """

    hash: str
    name: str
    spec: Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One execution of an experiment, without its attempts.

    Attributes:
        name: unique in a store.
        experiment: what was asked for, any JSON; a change of it, but for its description, is refused under the same
            name.
        seed: the experiment's seed.
        arms: in the experiment's order; names differ, hashes may be equal (a null comparison).
        created: when, ISO 8601.
        samples: attempts per task, by arm name.
    """

    name: str
    experiment: Mapping[str, Any]
    seed: int
    arms: tuple[ArmRecord, ...]
    created: str
    samples: Mapping[str, int]


@dataclass(frozen=True)
class RunSummary:
    """A line of `testbed list runs`: its tasks, arms and stored attempts, and how many of these are missing data."""

    name: str
    created: str
    tasks: int
    arms: int
    attempts: int
    missing: int


class StoredText(NamedTuple):
    """The transcript of an attempt as it is stored.

    Attributes:
        id: of the attempt.
        task: hash of the task.
        sample: index within task and arm.
        text: canonical JSON of the messages, in UTF-8 but for halves of surrogate pairs.
    """

    id: str
    task: str
    sample: int
    text: bytes


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Outcomes of a run's n stored attempts, ordered by arm, task and sample.

    Attributes:
        tasks: the run's tasks, those without attempts included.
        arms: the run's arms.
        task: position in `tasks`, int32[n].
        arm: position in `arms`, int32[n].
        sample: index within task and arm, int32[n].
        success: 1, 0, or −1 for missing, int8[n]; missing as well is an attempt whose first draw was lost.
        cost: in the order of `COST_COMPONENTS`, float64[n, 8].
        ended: codes as in `Attempt.ended`, str[n].
        faults: tool faults of all kinds, int32[n].
        redrawn: whether the attempt was made, but an earlier draw of it lost, see `testbed.types.REDRAWN`, bool[n].
        resent: by arm, requests that were sent again, see `testbed.types.RESENT`; empty where that is not known.
    """

    tasks: tuple[Task, ...]
    arms: tuple[ArmRecord, ...]
    task: npt.NDArray[np.int32]
    arm: npt.NDArray[np.int32]
    sample: npt.NDArray[np.int32]
    success: npt.NDArray[np.int8]
    cost: npt.NDArray[np.float64]
    ended: npt.NDArray[np.str_]
    faults: npt.NDArray[np.int32]
    redrawn: npt.NDArray[np.bool_]
    resent: Sequence[int] = ()


def outcomes_of(
    listed: tuple[Task, ...], records: tuple[ArmRecord, ...], blocks: Iterable[Sequence[Sequence[Any]]]
) -> Outcomes:
    """Outcomes from blocks of rows.

    Blocks become arrays as they come, so that a million rows never exist as Python objects at one time.

    Args:
        listed: the run's tasks.
        records: the run's arms.
        blocks: rows of arm, task, sample, success (−1 for missing), the components of cost, ended and faults, the last
            two None where they are `USUAL`.
    """
    ended, faults = _Codes(USUAL[0]), _Codes(USUAL[1])
    whole = [np.empty((4, 0), np.int32)]
    costs = [np.empty((0, len(COST_COMPONENTS)))]
    codes = [np.empty((2, 0), np.int32)]
    for rows in blocks:
        columns = list(zip(*rows, strict=True))
        figures = np.fromiter(chain.from_iterable(columns[:-2]), np.float64).reshape(-1, len(rows))
        whole.append(figures[:4].astype(np.int32))
        costs.append(figures[4:].T)
        texts = chain(map(ended.__getitem__, columns[-2]), map(faults.__getitem__, columns[-1]))
        codes.append(np.fromiter(texts, np.int32).reshape(2, -1))
    arm, task, sample, success = np.concatenate(whole, axis=1)
    ending, fault = np.concatenate(codes, axis=1)
    cost = np.concatenate(costs)
    costs.clear()
    order = np.lexsort((sample, task, arm))
    names = np.array(ended.texts, np.str_)
    kinds = [unpack(text) for text in faults.texts]
    again = np.array([bool(found.pop(REDRAWN, 0)) for found in kinds])
    refused = np.array([found.pop(RESENT, 0) for found in kinds], np.int64)
    totals = np.array([sum(found.values()) for found in kinds], np.int32)
    redrawn = again[fault[order]] & (success[order] >= 0)
    return Outcomes(
        tasks=listed,
        arms=records,
        task=task[order],
        arm=arm[order],
        sample=sample[order],
        success=np.where(redrawn, -1, success[order]).astype(np.int8),
        cost=cost[order],
        ended=names[ending[order]],
        faults=totals[fault[order]],
        redrawn=redrawn,
        resent=[int(refused[fault[arm == n]].sum()) for n in range(len(records))] if refused.any() else (),
    )


class _Codes(dict[str | None, int]):
    """Numbers texts in the order in which they are met; None stands for the usual one, which is number 0."""

    def __init__(self, usual: str) -> None:
        super().__init__({None: 0})
        self.texts = [usual]

    def __missing__(self, text: str) -> int:
        self.texts.append(text)
        self[text] = len(self.texts) - 1
        return self[text]


def imported(name: str) -> dict[str, Any]:
    """The experiment of a run that holds imported outcomes."""
    return {"imported": name}


def check_run(run: Run) -> None:
    """Raises `StoreError` if a run cannot be stored as it is."""
    names = [arm.name for arm in run.arms]
    for kind, name in (("a run", run.name), *(("an arm", name) for name in names)):
        if not name.strip() or not name.isprintable():
            raise StoreError(f"{kind}'s name must be printable text, not {name!r}.")
    if len(set(names)) < len(names):
        raise StoreError(f"two arms of run {run.name!r} have the same name: {', '.join(names)}.")
    if not -_MAX_SEED <= run.seed < _MAX_SEED:
        raise StoreError(f"the seed {run.seed} does not fit into 64 bits.")


def changes(old: Run, new: Run, old_tasks: Sequence[Task], new_tasks: Sequence[Task]) -> list[str]:
    """What differs between a run and the experiment that claims its name, one line each; empty for the same."""
    lines = [] if old.seed == new.seed else [f"seed {old.seed} → {new.seed}"]
    lines += differences("", _asked(old), _asked(new))
    was = {arm.name: arm for arm in old.arms}
    now = {arm.name: arm for arm in new.arms}
    lines += [f"arm {name!r} was removed" for name in was if name not in now]
    lines += [f"arm {name!r} was added" for name in now if name not in was]
    for name in [name for name in was if name in now]:
        if was[name].hash != now[name].hash:
            inner = differences("", *(unpack(pack(_unlabelled(arm[name]))) for arm in (was, now)))
            lines.append(f"arm {name!r}: {', '.join(inner) or 'another hash'}")
        if old.samples[name] != new.samples[name]:
            lines.append(f"samples of {name!r} {old.samples[name]} → {new.samples[name]}")
    before, after = [task.hash for task in old_tasks], [task.hash for task in new_tasks]
    if before != after:
        gone, come = len(set(before) - set(after)), len(set(after) - set(before))
        lines.append(f"tasks: {gone} removed, {come} added" if gone or come else "tasks: another order")
    return lines


def _asked(run: Run) -> dict[str, Any]:
    """A run's experiment, but for what is compared by itself or not at all."""
    return {key: value for key, value in unpack(pack(run.experiment)).items() if key not in _APART}


def _unlabelled(arm: ArmRecord) -> dict[str, Any]:
    """What an arm is, without what its tokenizer's hash comes to, which runs from before do not say."""
    return {key: value for key, value in arm.spec.items() if key != "tokenization"}


def differences(where: str, old: Any, new: Any, *, absent: str = "null") -> list[str]:
    """What differs between two JSON values, one line each, such as "budget.turns 8 → 16"; empty for equal ones.

    Args:
        where: the path of both, put before the names of their parts.
        old: the value on the left of the arrow.
        new: the value on its right.
        absent: the word for what one of them lacks.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        names = {key: f"{where}.{key}" if where else key for key in {**old, **new}}
        inner = (differences(name, old.get(key), new.get(key), absent=absent) for key, name in names.items())
        return [line for some in inner for line in some]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for n, pair in pairs for line in differences(f"{where}[{n}]", *pair, absent=absent)]
    return [] if old == new else [f"{where} {_brief(old, absent)} → {_brief(new, absent)}"]


def _brief(value: Any, absent: str) -> str:
    text = absent if value is None else pack(value)
    return text if len(text) <= 60 else text[:57] + "…"
