"""What an experiment may not ask of its models, and of tables that no arm uses: refused before anything runs."""

from __future__ import annotations

from collections.abc import Mapping

from testbed.agents import Agent
from testbed.corpus_named import check_corpus
from testbed.experiment import ArmSpec, Experiment
from testbed.models.base import Imaginer, Model, Sampling
from testbed.places import Key
from testbed.types import Control


def check_model(experiment: Experiment, spec: ArmSpec, model: Model) -> None:
    """Refuses what an arm's model cannot do, and a limit that would hold nothing.

    Args:
        experiment: whose arm it is.
        spec: the arm.
        model: that the arm runs.

    Raises:
        ExperimentError: names the line.
    """
    at: Key = ("arm", experiment.arms.index(spec))
    _check_prices(experiment, spec, model, at)
    _check_abilities(experiment, spec, model, at)


def check_unoffered(experiment: Experiment) -> None:
    """Refuses a corpus that is not there also where no arm offers the tool: that of the others shows as they are made.

    Raises:
        ExperimentError: names the line, and the nearest corpus.
    """
    offered = {name for spec in experiment.arms for name in spec.tools}
    for name, options in experiment.tool_options.items():
        if name not in offered and isinstance(corpus := options.get("corpus"), str | Mapping):
            with experiment.places.blaming(("tool", name)):
                check_corpus(corpus)


def _check_prices(experiment: Experiment, spec: ArmSpec, model: Model, at: Key) -> None:
    """Refuses a limit on money that no attempt would ever come near."""
    if spec.budget.usd is not None and not getattr(model, "priced", True):
        hosted = spec.model.startswith(("chat", "agent"))
        raise experiment.places.error(
            "budget: usd needs usd_per_million = { input = …, output = … } of the model, or prices = FILE: without "
            "prices every attempt costs 0 and the limit holds nothing"
            if hosted
            else f"budget: usd limits nothing, since model {spec.model!r} has no price; limit generated_tokens or "
            "seconds",
            (*at, "budget", "usd"),
            ("budget", "usd"),
        )


def _check_abilities(experiment: Experiment, spec: ArmSpec, model: Model, at: Key) -> None:
    """Refuses what only some models can: telling log-probabilities, writing a tool's result."""
    if spec.control is Control.IMAGINED and not isinstance(model, Imaginer):
        raise experiment.places.error(
            f"control = 'imagined': {spec.model!r} cannot go on inside a tool's result, and so cannot write one; "
            "reference and hf: models can",
            (*at, "control"),
            (*at, "model"),
        )
    if isinstance(model, Agent) and spec.sampling != Sampling():
        raise experiment.places.error(
            f"temperature, top_p and max_tokens are not passed on: {spec.model!r} sets them for its own models",
            (*at, "model"),
            ("model",),
        )
    if spec.lookahead is not None and isinstance(model, Agent):
        raise experiment.places.error(
            f"lookahead: {spec.model!r} drives its attempts itself, so nothing can search in its place",
            (*at, "lookahead"),
        )
    if spec.logprobs and not getattr(model, "gives_logprobs", False):
        raise experiment.places.error(
            f"model: logprobs = true, and {spec.model!r} does not tell the log-probabilities of what it writes; "
            "reference, hf: and some chat: models do",
            (*at, "model", "logprobs"),
            ("model", "logprobs"),
        )
