"""`testbed plan`: how many tasks and attempts a gain needs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from testbed.command_options import (
    DEFAULT_STORE,
    BareOption,
    ElicitationOption,
    JsonOption,
    OperatingOption,
    PluginOption,
    StoreOption,
    print_json,
)


def _number(text: object) -> float:
    above, _, below = str(text).partition("/")  # typer parses defaults too, which are numbers already
    try:
        return float(above) / float(below) if below else float(above)
    except (ValueError, ZeroDivisionError):
        raise typer.BadParameter(f"{text!r} is neither a number nor a fraction such as 1/9.") from None


def _fraction(help: str) -> Any:
    """An option that takes a number or a fraction, such as 0.05 or 1/9."""
    return typer.Option(parser=_number, metavar="NUMBER", help=help)


def plan(
    experiment: Annotated[str, typer.Argument(help="Experiment file, or name of a shipped one, to plan for.")] = "",
    effect: Annotated[float | None, _fraction("Mean gain to find, such as 0.05; by default several.")] = None,
    pilot: Annotated[str, typer.Option(help="Run in the store that variances and costs are estimated from.")] = "",
    store: StoreOption = DEFAULT_STORE,
    arm: Annotated[str, typer.Option(help="Only this arm; by default all.")] = "",
    bare: BareOption = "",
    tasks: Annotated[int | None, typer.Option(help="Tasks; by default the experiment's or the pilot's.")] = None,
    attempts: Annotated[
        int | None, typer.Option(help="Attempts per task; by default the experiment's or the pilot's.")
    ] = None,
    bare_attempts: Annotated[int | None, typer.Option(help="Attempts per task of the bare arm, if others.")] = None,
    power: Annotated[float, _fraction("Probability of finding the gain.")] = 0.8,
    alpha: Annotated[float | None, _fraction("Level of the interval; by default the experiment's, or 0.05.")] = None,
    operating: OperatingOption = None,
    elicitation: ElicitationOption = None,
    rho: Annotated[float | None, _fraction("Reach from which a task is accessible.")] = None,
    between: Annotated[float | None, _fraction("Variance of the true gain between tasks.")] = None,
    within: Annotated[float | None, _fraction("Variance of one attempt within a task.")] = None,
    cluster_size: Annotated[float | None, _fraction("Tasks in a cluster.")] = None,
    icc: Annotated[float | None, _fraction("Correlation of the gains of two tasks of a cluster.")] = None,
    json: JsonOption = False,
    plugin: PluginOption = None,
) -> None:
    """Say how many tasks and attempts a gain needs, and what a run can find, before it is made."""
    from testbed.planning import Asked, plan_for
    from testbed.planning.text import print_plan

    measure = {"operating": operating, "elicitation": elicitation, "rho": rho, "alpha": alpha, "bare": bare or None}
    asked = Asked(
        effect=effect,
        power=power,
        tasks=tasks,
        attempts=attempts,
        bare_attempts=bare_attempts,
        between=between,
        within=within,
        cluster_size=cluster_size,
        icc=icc,
        arm=arm,
        measure={key: value for key, value in measure.items() if value is not None},
    )
    planned = plan_for(asked, experiment=experiment, pilot=pilot, store=store, plugins=plugin or [])
    if json:
        print_json(planned)
    else:
        print_plan(planned)
