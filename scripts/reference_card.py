"""Write the reference model's card: ``python scripts/reference_card.py FOLDER --evaluation FILE --text FILE``.

Every figure of the card comes from `training.json` and from files that `evaluate_reference.py --out` wrote.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(lines)


def percent(value: float | None) -> str:
    """Return a share as .123, or a dash."""
    return "–" if value is None or value != value else f"{value:.3f}".replace("0.", ".", 1)


def arm(row: Row) -> str:
    """Name the tools of a row."""
    return str(row["tools"]) + (" (inert)" if row["inert"] else "")


def curve(training: Row) -> str:
    """Return about sixteen points of the training curve."""
    points = training["curve"]
    chosen = points[:: max(1, len(points) // 16)]
    if chosen[-1] is not points[-1]:
        chosen.append(points[-1])
    rows = [
        [point["step"], point["own"], point["environment"], f"{point['tokens'] / 1e6:.1f}", round(point["cpu"] / 60, 1)]
        for point in chosen
    ]
    return table(["step", "loss, own turns", "loss, tool results", "tokens (M)", "CPU minutes"], rows)


def success(rows: list[Row]) -> str:
    """Return the table of success per family and tools."""
    head = ["family", "tools", "reach@1", "@8", "@64", "never", "calls", "recall"]
    body = [
        [row["family"], arm(row), percent(row["reach@1"]), percent(row.get("reach@8")), percent(row.get("reach@64")),
         f"{row['never']} of {row['tasks']}", f"{row['calls']:.2f}", percent(row.get("recall"))]
        for row in rows
    ]  # fmt: skip
    return table(head, body)


def find(rows: list[Row], family: str, tools: str, *, inert: bool = False) -> Row | None:
    """Return the row of a family and tool set, if it was run."""
    return next((row for row in rows if (row["family"], row["tools"], row["inert"]) == (family, tools, inert)), None)


def useless(rows: list[Row]) -> str:
    """Return bare success beside success with a tool that cannot help."""
    pairs = [
        ("addition 2 digits", "search"), ("multiplication 2 digits", "search"), ("known head", "python"),
        ("known middle", "python"), ("unanswerable", "python"),
    ]  # fmt: skip
    everything = "python search retrieve"
    body = []
    for family, tools, inert in [(*pair, False) for pair in pairs] + [
        (family, everything, True)
        for family in (
            "addition 2 digits",
            "addition 4 digits",
            "known head",
            "known middle",
            "known tail",
            "unanswerable",
        )
    ]:
        bare, other = find(rows, family, "none"), find(rows, family, tools, inert=inert)
        if bare and other:
            change = other["reach@1"] - bare["reach@1"]
            body.append([family, arm(other), percent(bare["reach@1"]), percent(other["reach@1"]), f"{change:+.3f}"])
    return table(["family", "offered", "bare", "with it", "difference"], body)


def seeds(runs: dict[str, tuple[Row, list[Row]]]) -> str:
    """Return key figures of several runs side by side."""
    keys = [
        ("document-only", "search"), ("document-only", "retrieve"), ("two hops", "search"), ("two hops", "retrieve"),
        ("sum", "python search"), ("multiplication 4 digits", "python"), ("multiplication 2 digits", "none"),
        ("addition 2 digits", "none"), ("known head", "none"), ("known middle", "none"), ("known tail", "none"),
        ("unanswerable", "search"), ("unanswerable", "retrieve"),
        ("document-only numbers", "search"), ("unseen long_name", "search"), ("unseen letters", "search"),
    ]  # fmt: skip
    body: list[list[object]] = []
    for family, tools in keys:
        found = [find(rows, family, tools) for _, rows in runs.values()]
        body.append([family, tools, *(percent(row["reach@1"]) if row else "–" for row in found)])
    minutes = [f"{training['cpu_seconds'] / 60:.1f}" for training, _ in runs.values()]
    body.append(["CPU minutes", "", *minutes])
    return table(["family", "tools", *runs], body)


def main(argv: list[str] | None = None) -> None:
    """Write the card, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the shipped model; the card is written there")
    parser.add_argument("--evaluation", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="the card's prose, with {fields} for the tables")
    parser.add_argument("--notes", default="", help="what to say about seeds and ablation")
    parser.add_argument("--testbed", type=Path, required=True, help="a table from a run of the testbed itself")
    parser.add_argument("--run", action="append", default=[], metavar="NAME=FOLDER=FILE", help="another run to compare")
    options = parser.parse_args(argv)
    training = json.loads((options.folder / "training.json").read_text())
    rows = json.loads(options.evaluation.read_text())
    runs = {"shipped": (training, rows)}
    for item in options.run:
        name, folder, file = item.split("=")
        runs[name] = (json.loads((Path(folder) / "training.json").read_text()), json.loads(Path(file).read_text()))
    attempts = sum(row["tasks"] * row["samples"] for row in rows)
    strays = sum(row["not_offered"] * row["tasks"] * row["samples"] for row in rows)
    text = options.text.read_text().format(
        recipe=json.dumps(training["recipe"]),
        seed=training["recipe"]["seed"],
        parameters=f"{training['parameters']:,}",
        steps=f"{training['steps_taken']:,}",
        tokens=f"{training['tokens'] / 1e6:.1f}",
        cpu=f"{training['cpu_seconds'] / 60:.1f}",
        wall=f"{training['wall_seconds'] / 60:.1f}",
        curve=curve(training),
        success=success(rows),
        useless=useless(rows),
        seeds=seeds(runs),
        testbed=options.testbed.read_text().strip(),
        notes=options.notes,
        attempts=f"{attempts:,}",
        strays=f"{strays:.0f} ({100 * strays / attempts:.2f} per 100 attempts)",
    )
    (options.folder / "MODEL_CARD.md").write_text(text)


if __name__ == "__main__":
    main()
