"""Attempts of an arm that models have read: which arms can be read so, and what each attempt costs each model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from testbed.scoring_alike import known
from testbed.types import COST_COMPONENTS, Control

if TYPE_CHECKING:
    from testbed.store import ArmRecord, Outcomes, Run, ScorerRecord, Scores, Store

BoolArray = npt.NDArray[np.bool_]
WRITTEN = "assistant"  # role of what a model wrote
GENERATED = COST_COMPONENTS.index("generated_tokens")


def is_plain(record: ArmRecord) -> bool:
    """Whether an arm's attempts are conversations with one local model, which others can read."""
    model, searches = record.spec.get("model"), record.spec.get("lookahead")
    local = isinstance(model, Mapping) and model.get("kind") == "hf"
    return local and not searches and record.spec.get("control") != Control.IMAGINED


def scores_by(
    store: Store, run: Run, model: Mapping[str, Any], scorers: Mapping[str, ScorerRecord], arm: int
) -> Scores | None:
    """What a model gives the attempts of an arm, in full precision where there is that; None where it read none.

    How long its conversations may be does not change what it gives them.
    """
    wanted = {**known(model), "context": None}
    same = [h for h, scorer in scorers.items() if {**known(scorer.fingerprint), "context": None} == wanted]
    for hash_ in sorted(same, key=lambda h: (scorers[h].fingerprint.get("dtype") != "float32", h)):
        scores = store.scores.of(run.name, hash_)
        if (scores.arm == arm).any():
            return scores
    return None


@dataclass(frozen=True, eq=False)
class Rows:
    """The attempts of an arm that both models scored: positions of task and arm, sample, outcome and nats."""

    arm: int
    task: npt.NDArray[np.int32]
    sample: npt.NDArray[np.int32]
    won: BoolArray
    own: npt.NDArray[np.float64]
    base: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    alike: bool  # whether both models read them as equally many tokens

    @classmethod
    def of(cls, own: Scores, base: Scores, arm: int, fixed: int | None) -> Rows:
        """Those of an arm, by its position; of each task the first `fixed`, where that is given."""
        _, left, right = np.intersect1d(own.id, base.id, assume_unique=True, return_indices=True)
        order = np.argsort(left)
        left, right = left[order], right[order]
        kept = (own.arm[left] == arm) & (own.success[left] >= 0)
        if fixed is not None:
            kept &= own.sample[left] < fixed
        left, right = left[kept], right[kept]
        return cls(
            arm=arm,
            task=own.task[left],
            sample=own.sample[left],
            won=own.success[left] == 1,
            own=own.nats_of(WRITTEN)[left],
            base=base.nats_of(WRITTEN)[right],
            tokens=own.tokens_of(WRITTEN)[left],
            alike=np.array_equal(own.tokens_of(WRITTEN)[left], base.tokens_of(WRITTEN)[right]),
        )

    def respelled(self, outcomes: Outcomes) -> int:
        """How many come to another number of tokens than were sampled."""
        rows = np.flatnonzero(outcomes.arm == self.arm)
        keys = outcomes.task[rows].astype(np.int64) << 32 | outcomes.sample[rows]
        own = self.task.astype(np.int64) << 32 | self.sample
        _, left, right = np.intersect1d(own, keys, assume_unique=True, return_indices=True)
        return int(np.count_nonzero(self.tokens[left] != outcomes.cost[rows[right], GENERATED]))


def samples_itself(record: ArmRecord) -> bool:
    """Whether what writes an arm's attempts is its model as it is: at temperature 1, from all tokens."""
    sampling = record.spec.get("sampling", {})
    return bool(sampling.get("temperature", 1) == 1 and sampling.get("top_p", 1) == 1)
