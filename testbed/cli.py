"""The command line. Every command imports what it needs when it runs, so that help is instant.

Exit codes: 0 done; 1 a bug or a failed check; 2 bad input, nothing was done; 3 the run ended but attempts are missing
(run it again to try those), or their scores (likewise), or a board's verdict is (send it again to wait for it); 130
interrupted, everything finished so far is kept.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from testbed import (
    board_command,
    check_command,
    compare_command,
    corpus_command,
    nats_command,
    plan_command,
    runs_command,
    search_command,
    show_command,
    transfer_command,
)
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

if TYPE_CHECKING:
    from testbed.report.analyse import Analysis
    from testbed.report.transcript_links import TranscriptLinks
    from testbed.report.transcripts_inside import TranscriptsInside
    from testbed.store import Store

MISSING, INTERRUPTED = 3, 130

app = typer.Typer(
    name="testbed",
    help="Tells capability elicitation from capability creation: "
    "runs one model bare and with tools, and reports what the tools added.",
    epilog="Exit codes: 0 done, 1 a failed check, 2 bad input, 3 attempts, scores or a verdict are missing, "
    "130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from testbed import __version__

        print(f"testbed {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


corpus_command.app.command(epilog='Example: testbed corpus search my_corpus "who sells lamps"')(search_command.search)
app.add_typer(corpus_command.app, name="corpus")
app.add_typer(board_command.app, name="board")
app.add_typer(runs_command.app, name="runs")
app.command(epilog="Example: testbed check --plugin my_env.py    or: testbed check Addition-v0")(check_command.check)
app.command(epilog="Example: testbed nats demo    or: testbed nats demo --by hf:base")(nats_command.nats)


@app.command(epilog="Example: testbed run demo    or: testbed run my_experiment.toml --store results.sqlite")
def run(
    experiment: Annotated[str, typer.Argument(help="Experiment file (TOML), or the name of a shipped one: demo.")],
    store: StoreOption = DEFAULT_STORE,
    concurrency: Annotated[int, typer.Option(help="Attempts under way at once.")] = 256,
    plugin: PluginOption = None,
    agent: Annotated[
        str,
        typer.Option(help="Agent that drives the environments in the models' place: MODULE:OBJECT, file.py:OBJECT."),
    ] = "",
) -> None:
    """Make the attempts of an experiment that the store does not have yet; run it again to go on after a stop."""
    import asyncio

    from testbed.running import run_experiment

    made = run_experiment(experiment, store, concurrency=concurrency, plugins=plugin or [], agent=agent)
    outcome = asyncio.run(made)
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)
    if outcome.missing:
        raise typer.Exit(MISSING)


@app.command(epilog="Example: testbed report demo --html demo.html")
def report(
    run: Annotated[str, typer.Argument(help="Name of a run in the store; see `testbed list runs`.")],
    store: StoreOption = DEFAULT_STORE,
    html: Annotated[Path | None, typer.Option(help="Also write one self-contained HTML page.")] = None,
    png: Annotated[Path | None, typer.Option(help="Also write the charts as PNG and SVG into this folder.")] = None,
    transcripts: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=10**6,
            help="With --html: so many transcripts of each task and arm, in a folder beside the page; 0 for none. "
            "Without it the page itself holds some of every arm.",
        ),
    ] = None,
    json: JsonOption = False,
    bare: BareOption = "",
    operating: OperatingOption = None,
    elicitation: ElicitationOption = None,
) -> None:
    """Print what each arm added to the bare one, with intervals and verdicts."""
    from testbed.errors import UsageError
    from testbed.report.text import print_report

    if transcripts and html is None:
        raise UsageError("--transcripts writes pages beside an HTML page: name one with --html.")
    analysis = _analysis(run, store, bare, operating, elicitation)
    if html is not None or png is not None:
        from testbed.report.page import write_page, write_png

        if html is not None:
            write_page(analysis, html, _transcripts(store, analysis, html, transcripts))
        if png is not None:
            write_png(analysis, png)
    if json:
        print_json(analysis.as_dict())
    else:
        print_report(analysis)
    for path in (html, png):
        if path is not None:
            print(f"wrote {path}", file=sys.stderr)


app.command(epilog="Example: testbed plan --effect 0.05    or: testbed plan my.toml --pilot demo --effect 0.03")(
    plan_command.plan
)


app.command(
    epilog="Example: testbed compare demo:bare demo:python    or: testbed compare old new --store-b new.sqlite"
)(compare_command.compare)


app.command(
    epilog="Example: testbed show demo --arm python --failed    then: testbed show 3f2a91    "
    'or: testbed show demo --task "6632*2756" --arm python --against bare'
)(show_command.show)


@app.command("list", epilog="Example: testbed list envs    or: testbed list runs --store results.sqlite")
def list_(
    what: Annotated[str, typer.Argument(help="envs, tools, models, experiments or runs.")],
    store: StoreOption = DEFAULT_STORE,
    plugin: PluginOption = None,
) -> None:
    """List what can be used (envs, tools, models, experiments) or what was run (runs)."""
    from testbed.listing import print_list

    print_list(what, store, plugin or [])


app.command(
    "import",
    epilog="Example: testbed import runs.csv --run hotpot --task question --arm mode "
    "--sample trial --success outcome=correct",
)(transfer_command.import_)
app.command(
    epilog="Example: testbed export demo attempts.parquet    or: testbed export demo attempts.csv --no-transcripts"
)(transfer_command.export)


@app.command(epilog="Example: testbed doctor")
def doctor() -> None:
    """Say what this machine has: sandbox, Docker, GPU, memory, versions. Exit code 1 if something needed is missing."""
    from testbed.doctor import examine, print_findings

    if not print_findings(examine()):
        raise typer.Exit(1)


@app.command(epilog="Example: testbed calibrate    or: testbed calibrate --case best-of-n --seed 7")
def calibrate(
    case: Annotated[list[str] | None, typer.Option("--case", help="Only this case; may be repeated.")] = None,
    full: Annotated[bool, typer.Option("--full", help="The big simulation: five minutes of one core.")] = False,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Seed of every attempt and simulation.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print every expectation as JSON.")] = False,
) -> None:
    """Run policies of known truth through the instrument and compare. Exit code 1 if it says anything false."""
    from testbed.calibration.case import FULL, QUICK
    from testbed.calibration.running import run_cases

    if not run_cases(case or [], FULL if full else QUICK, seed, as_json=json):
        raise typer.Exit(1)


def _transcripts(
    store: str, analysis: Analysis, html: Path, each: int | None
) -> TranscriptLinks | TranscriptsInside | None:
    from testbed.report.transcript_pages import write_transcripts
    from testbed.report.transcripts_inside import transcripts_inside
    from testbed.store import Store

    if each == 0:
        return None
    with Store.open(store, create=False) as opened:
        return transcripts_inside(opened, analysis) if each is None else write_transcripts(opened, analysis, html, each)


def _analysis(run: str, store: str, bare: str, operating: int | None, elicitation: int | None) -> Analysis:
    from testbed.errors import DataError
    from testbed.report.analyse import analyse_run
    from testbed.stats import StatsError
    from testbed.store import Store

    with Store.open(store, create=False) as opened:
        try:
            return analyse_run(
                opened,
                run,
                bare=bare,
                operating=operating,
                elicitation=elicitation,
                option=_option(opened, store),
            )
        except StatsError as error:
            raise DataError(f"run {run!r} cannot be analysed: {error}") from error


def _option(opened: Store, store: str) -> str:
    """The option by which a command finds a store again, as a report may show it: without a URL's password."""
    return "" if store == DEFAULT_STORE else f" --store {shlex.quote(opened.label if '://' in store else store)}"
