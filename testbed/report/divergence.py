"""How far two arms of any runs lie from one model: KL of their attempts, where that model has read them in both runs.

One arm's own model may be that model, from which the arm lies 0 nats; else it is one that has read the attempts of
both. Each KL is that of a report's checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from testbed.report.checkpoint_rows import Rows, is_plain, samples_itself, scores_by
from testbed.scoring_alike import known
from testbed.stats import Estimate
from testbed.stats.sequence_kl import kl_difference, sequence_kl
from testbed.types import digest

if TYPE_CHECKING:
    from testbed.experiment import Measure
    from testbed.report.sides import Side
    from testbed.store import ArmRecord, Run, Store


@dataclass(frozen=True, eq=False)
class Reading:
    """What a model gives an arm's attempts, beside what their own model gives them; a row an attempt.

    Attributes:
        key: of the model, whatever it is called and wherever it runs.
        name: how it was named.
        task: hash of each attempt's task.
        own: −ln of the probability of all that was written, by the arm's model.
        base: the same by this one.
    """

    key: str
    name: str
    task: npt.NDArray[np.str_]
    own: npt.NDArray[np.float64]
    base: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Divergence:
    """KL of both sides' whole attempts from one model, in nats, mean over tasks.

    Attributes:
        model: its name.
        own: the side whose own model it is, "A" or "B"; empty where it is neither's.
        tasks: common tasks with attempts that were read on either side that is not `own`: what the figures are of.
        unscored: side → attempts at these tasks that not both models scored, where there are such; the figures leave
            them out, and they may be unlike the others: too long for a context.
        left: of side A; None where it is A's own model.
        right: of side B; None where it is B's own model.
        difference: B less A, paired over tasks; None where it is the own model of one.
    """

    model: str
    own: str
    tasks: int
    unscored: Mapping[str, int]
    left: Estimate | None
    right: Estimate | None
    difference: Estimate | None


def readings(store: Store, run: Run, record: ArmRecord, hashes: Sequence[str], fixed: int | None) -> Iterator[Reading]:
    """What models of other weights give an arm's attempts, the first arm's of its run before others.

    Args:
        store: where the scores are.
        run: the run.
        record: the arm.
        hashes: of the run's tasks.
        fixed: attempts of a task that were fixed in advance, where sampling stopped early.
    """
    if not is_plain(record) or not samples_itself(record):
        return
    scorers, position = store.scores.scorers(run.name), run.arms.index(record)
    own = scores_by(store, run, record.spec["model"], scorers, position)
    if own is None:
        return
    first = key_of(run.arms[0].spec.get("model"))
    others = {key_of(scorer.fingerprint): scorer for scorer in scorers.values()}
    for key in sorted(others, key=lambda key: (key != first, others[key].name, key)):
        model = others[key].fingerprint
        if model.get("kind") != "hf" or model.get("weights") == record.spec["model"].get("weights"):
            continue
        base = scores_by(store, run, model, scorers, position)
        rows = Rows.of(own, base, position, fixed) if base is not None else None
        if rows is not None and rows.task.size and rows.alike:
            yield Reading(key, others[key].name, np.array(hashes)[rows.task], rows.own, rows.base)


def key_of(model: Any) -> str:
    """A local model by what it is; how long its conversations may be does not change what it gives them."""
    if not isinstance(model, Mapping) or model.get("kind") != "hf":
        return ""
    return digest({**known(model), "context": None})


def divergence(left: Side, right: Side, reference: str, scored: Sequence[str], settings: Measure) -> Divergence | None:
    """Both sides' KL from the first model from which both are known; None where there is none.

    Args:
        left: side A.
        right: side B.
        reference: "A" or "B", whose model comes first; empty where neither is the reference.
        scored: the common tasks with a scored attempt on both sides.
        settings: level, replicates and seed.
    """
    sides = (left, right)
    own = {side.letter: key_of(side.record.spec.get("model")) for side in sides}
    wanted = [own[letter] for letter in sorted(own, key=lambda letter: (letter != reference, letter))]
    for key in (*wanted, *(reading.key for side in sides for reading in side.readings)):
        found = [next((reading for reading in side.readings if reading.key == key), None) for side in sides]
        at_home = [side.letter for side in sides if key and own[side.letter] == key]
        read = [(side, reading) for side, reading in zip(sides, found, strict=True) if reading is not None]
        if len(read) + len(at_home) == 2 and read:
            return _from_one(read, "".join(at_home), scored, settings)
    return None


def _from_one(
    read: Sequence[tuple[Side, Reading]], own: str, scored: Sequence[str], settings: Measure
) -> Divergence | None:
    common = set.intersection(*(set(reading.task.tolist()) for _, reading in read))
    tasks = [task for task in scored if task in common]
    if not tasks:
        return None
    s, clusters = settings, read[0][0].arm.clusters
    options: dict[str, Any] = {"clusters": clusters, "alpha": s.alpha, "replicates": s.replicates, "seed": s.seed}
    kls, unscored = [], {}
    for side, reading in read:
        rows = _in_order(reading, tasks)
        kls.append(sequence_kl(reading.task[rows].tolist(), reading.own[rows], reading.base[rows], **options))
        unscored[side.letter] = int(side.arm.on(tasks).n.sum()) - rows.size
    left, right = {"A": (None, kls[0]), "B": (kls[0], None), "": (kls[0], kls[-1])}[own]
    return Divergence(
        model=read[0][1].name,
        own=own,
        tasks=len(tasks),
        unscored={letter: n for letter, n in unscored.items() if n},
        left=left.mean if left else None,
        right=right.mean if right else None,
        difference=kl_difference(left, right, **options) if left and right else None,
    )


def _in_order(reading: Reading, tasks: Sequence[str]) -> npt.NDArray[np.intp]:
    """The attempts at some tasks, task by task."""
    places = {task: n for n, task in enumerate(tasks)}
    place = np.array([places.get(task, -1) for task in reading.task.tolist()])
    return np.argsort(place, kind="stable")[np.count_nonzero(place < 0) :]
