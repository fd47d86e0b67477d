"""Experiments are data: which model, which tasks, which arms, how many attempts, and how the report reads them.

`testbed.experiment_file` makes them from TOML files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from testbed.budget import Budget
from testbed.errors import UnknownName, UsageError
from testbed.lookahead import Lookahead
from testbed.models.base import Sampling
from testbed.places import Places
from testbed.types import Control, digest

MOST_ATTEMPTS = 10_000_000  # of one experiment: more cannot be meant, and would take weeks at a thousand a second
# How a stop's level relates to alpha. Verdicts have level alpha each. For those on k of T tasks to survive e-BH at
# alpha over all of them, each needs evidence at level alpha k/T: "discovery" goes on to it for a quarter of the tasks.
STOPS = {"verdict": 1.0, "discovery": 0.25}
OTHERWISE = ("missing", "live")  # what becomes of a call that a replay does not have
MOST_REPLICATES = 100_000  # beyond, no digit that is shown changes, and memory runs out


@dataclass(frozen=True)
class Measure:
    """How the report reads the attempts.

    Attributes:
        operating: attempts at which an arm is read (b).
        elicitation: bare attempts that re-sampling may spend (B), at least `operating`; also the spend of the verdicts.
        rho: reach from which a task counts as accessible, in (0, 1).
        alpha: intervals have level 1 − alpha, verdicts level alpha, in (0, 1).
        replicates: bootstrap replicates, 100 to 100,000.
        seed: seed of the bootstrap and of random splits.
        bare: name of the arm that others are compared with; by default the one without tools.
    """

    operating: int = 1
    elicitation: int = 16
    rho: float = 0.5
    alpha: float = 0.05
    replicates: int = 2000
    seed: int = 0
    bare: str = ""

    @property
    def level(self) -> str:
        """The intervals' level as a label, such as "95%"."""
        return f"{100 * (1 - self.alpha):.6g}%"

    def __post_init__(self) -> None:
        for name in ("operating", "elicitation", "replicates", "seed"):
            _check_number(f"measure: {name}", getattr(self, name), whole=True)
        for name in ("rho", "alpha"):
            _check_number(f"measure: {name}", getattr(self, name), whole=False)
        if not isinstance(self.bare, str):
            raise UsageError(f"measure: bare must be the name of an arm, not {self.bare!r}.")
        if self.seed < 0:
            raise UsageError(f"measure: seed must be at least 0, not {self.seed}.")
        if not 1 <= self.operating <= self.elicitation:
            raise UsageError(
                "measure: operating must be at least 1 and at most elicitation, "
                f"not {self.operating} and {self.elicitation}."
            )
        for name in ("rho", "alpha"):
            if not 0 < getattr(self, name) < 1:
                raise UsageError(f"measure: {name} must lie between 0 and 1, not {getattr(self, name)!r}.")
        if not 100 <= self.replicates <= MOST_REPLICATES:
            raise UsageError(
                f"measure: replicates must be from 100 to {MOST_REPLICATES:,}, not {self.replicates!r:.80}."
            )


def _check_number(name: str, value: object, *, whole: bool) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise UsageError(f"{name} must be a {'whole ' if whole else ''}number, not {value!r}.")


@dataclass(frozen=True)
class Replay:
    """Which recorded results an arm's tools give instead of working.

    Attributes:
        run: name of the recorded run.
        arm: name of its arm.
        store: file or URL of the store that holds it; empty for the one that the new run goes to.
        otherwise: what becomes of an attempt with a call that was not recorded: "missing" data, or the call is made
            "live", which needs the tools themselves.
    """

    run: str
    arm: str
    store: str = ""
    otherwise: str = "missing"

    @classmethod
    def of(cls, value: Any, arm: str) -> Replay:
        """What an experiment file says of an arm: a run's name, or a table with `run`.

        Args:
            value: as written.
            arm: the arm's own name, which is also the recorded one's where nothing else is said.

        Raises:
            UnknownName: a key or a choice is not known.
            UsageError: something is not text, or no run is named.
        """
        table = {"run": value} if isinstance(value, str) else value
        if not isinstance(table, Mapping) or not all(isinstance(text, str) for text in table.values()):
            raise UsageError(f'replay must be the name of a run, or a table such as {{ run = "first" }}, not {value!r}')
        for key in table:
            if key not in cls.__dataclass_fields__:
                raise UnknownName("key of replay", key, cls.__dataclass_fields__)
        if not table.get("run"):
            raise UsageError(f"replay of arm {arm!r} needs run, the name of a recorded run")
        made = cls(**{"arm": arm, **table})
        if made.otherwise not in OTHERWISE:
            raise UnknownName("otherwise of replay", made.otherwise, OTHERWISE)
        return made


@dataclass(frozen=True)
class ArmSpec:
    """An arm as the experiment names it.

    Attributes:
        name: its name in reports.
        tools: names of the offered tools.
        control: how they behave.
        samples: attempts per task, at most.
        budget: limits per attempt.
        model: the model's id.
        model_options: options of the model.
        sampling: how it decodes.
        yoke: name of the live arm whose results a yoked arm replays; empty elsewhere.
        least: attempts per task after which it stops where its verdict is settled; 0: it makes all its samples.
        stop: a name of `STOPS`: how sure it must be to stop.
        lookahead: how its attempts search over the environment; None where they do not.
        replay: the recording that its tools answer from; None where they work.
        logprobs: whether the log-probability of every sampled token is kept with the attempt. A way of recording, not
            of acting: no part of the arm's identity.
    """

    name: str
    tools: tuple[str, ...]
    control: Control
    samples: int
    budget: Budget
    model: str
    model_options: Mapping[str, Any]
    sampling: Sampling
    yoke: str = ""
    least: int = 0
    stop: str = "verdict"
    lookahead: Lookahead | None = None
    replay: Replay | None = None
    logprobs: bool = False

    @property
    def bare(self) -> bool:
        """Whether it has nothing that could add to the model: no tools and no search."""
        return self.control is Control.ABSENT and self.lookahead is None

    @property
    def replays_all(self) -> bool:
        """Whether its tools never work, so that nothing need be there but the recording."""
        return self.replay is not None and self.replay.otherwise != "live"

    @property
    def fixed(self) -> int:
        """Attempts per task that are made whatever their outcomes."""
        return self.least or self.samples

    @property
    def adaptive(self) -> bool:
        """Whether sampling may stop before all samples are made."""
        return self.fixed < self.samples


@dataclass(frozen=True)
class EnvSpec:
    """An environment with its options; `options` never hold tools."""

    id: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cell:
    """One attempt to make: indices into the experiment's arms and tasks, and the sample index."""

    arm: int
    task: int
    sample: int


@dataclass(frozen=True)
class Experiment:
    """A checked experiment.

    Attributes:
        name: names the run in the store.
        seed: seeds every attempt's random stream.
        environments: where the tasks come from, in order.
        arms: what is compared.
        tool_options: options of each tool by name.
        measure: how the report reads it.
        plugins: Python files with further environments and tools.
        source: the file as data; its digest says whether the experiment changed.
        places: where in the file each key stands.
    """

    name: str
    seed: int
    environments: tuple[EnvSpec, ...]
    arms: tuple[ArmSpec, ...]
    tool_options: Mapping[str, Mapping[str, Any]]
    measure: Measure
    plugins: tuple[str, ...]
    source: Mapping[str, Any]
    places: Places = field(default_factory=Places, compare=False, repr=False)

    @property
    def digest(self) -> str:
        """Content hash of the file's data."""
        return digest(self.source)

    def arm(self, name: str) -> ArmSpec:
        """The arm of that name.

        Raises:
            UnknownName: there is none.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise UnknownName("arm", name, [arm.name for arm in self.arms])

    def check_size(self, tasks: int) -> None:
        """Refuses a run of a size that cannot be meant.

        Args:
            tasks: how many tasks the environments list.

        Raises:
            ExperimentError: it has more than `MOST_ATTEMPTS` attempts; says how many, and how to ask for fewer.
        """
        samples = [arm.samples for arm in self.arms]
        if (asked := tasks * sum(samples)) <= MOST_ATTEMPTS:
            return
        largest = samples.index(max(samples))
        raise self.places.error(
            f"this asks for {asked:,} attempts: {tasks:,} tasks, each tried {sum(samples):,} times over all arms. At "
            f"most {MOST_ATTEMPTS:,} are made; lower samples to {max(1, MOST_ATTEMPTS // (tasks * len(samples))):,}, "
            "ask for fewer tasks, or split the experiment",
            ("arm", largest, "samples"),
            ("samples",),
        )

    def cells(self, tasks: int, block: int = 16) -> Iterator[Cell]:
        """Every attempt that is made whatever its outcome, in the order in which they are best made.

        Blocks of `block` samples of one prompt come together (models share their prefill); all arms and tasks get their
        first block before any gets its second, so that a run stopped early is balanced. The arms of one model take
        turns from task to task: while some wait for their tools, others keep the model busy. Yoked arms come last: they
        replay what others saw.
        """
        plain = [i for i, arm in enumerate(self.arms) if arm.control is not Control.YOKED]
        yoked = [i for i, arm in enumerate(self.arms) if arm.control is Control.YOKED]
        for group in (plain, yoked):
            most = max((self.arms[i].fixed for i in group), default=0)
            for start, same_model in product(range(0, most, block), self._by_model(group)):
                for task, arm in product(range(tasks), same_model):
                    for sample in range(start, min(start + block, self.arms[arm].fixed)):
                        yield Cell(arm, task, sample)

    def _by_model(self, group: Sequence[int]) -> list[list[int]]:
        found: dict[str, list[int]] = {}  # two models at one time would each fill only half of a batch
        for i in group:
            found.setdefault(repr((self.arms[i].model, self.arms[i].model_options)), []).append(i)
        return list(found.values())
