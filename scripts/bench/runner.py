"""Attempts per second of the runner: tool call, then answer; an instant model, a trivial tool, a durable store.

Prints, for 1e3, 1e4 and 1e5 attempts, the rate and the peak memory, beside Inspect AI's rate for the same episode.
Usage: python scripts/bench/runner.py [--attempts 1000 10000 100000] [--inspect PYTHON]
where PYTHON is an interpreter that has inspect-ai; by default this one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


def ours(attempts: int) -> dict[str, float]:
    """Runs `attempts` attempts in this process; returns seconds and peak memory in MiB."""
    sys.path.insert(0, str(HERE))
    import episode

    from testbed.experiment_file import parse_experiment
    from testbed.models.scripted import Scripted
    from testbed.runner import Runner
    from testbed.store import Store

    tasks = 100
    data = {
        "name": "bench",
        "samples": attempts // tasks,
        "model": {"id": "scripted", "replies": ["unused"]},
        "env": [{"id": "Say-v0", "tasks": tasks}],
        "arm": [{"name": "echo", "tools": ["echo"]}],
    }
    experiment = parse_experiment(data, plugins=[str(HERE / "episode.py")])
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "bench.sqlite") as store:
        runner = Runner(experiment, store, models={"scripted": Scripted(episode.call_then_answer)})
        begun = time.perf_counter()
        counts = asyncio.run(runner.run())
        seconds = time.perf_counter() - begun
        assert counts.done == attempts
        assert len(counts.solved["echo"]) == tasks
        assert counts.missing == 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"attempts": attempts, "seconds": seconds, "rate": attempts / seconds, "peak_mib": peak}


ANCHOR = """
import json, sys, tempfile, time
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, get_model
from inspect_ai.scorer import match
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import tool

@tool
def echo():
    async def execute(text: str):
        '''Returns its argument.

        Args:
            text: The text.
        '''
        return text
    return execute

n = int(sys.argv[1])
outputs = []
for i in range(n):
    outputs += [ModelOutput.for_tool_call("mockllm/model", "echo", {"text": "1"}),
                ModelOutput.from_content("mockllm/model", "1")]
task = Task(dataset=[Sample(input=f"Say {i}.", target="1") for i in range(n)],
            solver=[use_tools(echo()), generate()], scorer=match())
begun = time.perf_counter()
with tempfile.TemporaryDirectory() as folder:
    eval(task, model=get_model("mockllm/model", custom_outputs=outputs), log_dir=folder, display="none")
print(json.dumps({"rate": n / (time.perf_counter() - begun)}))
"""


def in_process(*arguments: str) -> dict[str, float]:
    """Runs a part of the bench in a process of its own, whose peak of memory is its own; returns what it printed."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--inspect", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(ours(arguments.one)))
        return
    cores = len(os.sched_getaffinity(0))
    print(f"{platform.processor() or platform.machine()}, {cores} cores, Python {platform.python_version()}")
    print(f"{'attempts':>9} {'seconds':>8} {'per second':>11} {'peak MiB':>9}")
    rates = []
    for attempts in arguments.attempts:
        row = in_process(sys.executable, __file__, "--one", str(attempts))
        rates.append(row["rate"])
        print(f"{attempts:9d} {row['seconds']:8.2f} {row['rate']:11.0f} {row['peak_mib']:9.0f}", flush=True)
    has_inspect = "import importlib.util, sys; sys.exit(importlib.util.find_spec('inspect_ai') is None)"
    if subprocess.run([arguments.inspect, "-c", has_inspect], check=False).returncode:
        print("Inspect AI is not installed: no anchor (pip install inspect-ai, best in an environment of its own).")
        return
    anchor = in_process(arguments.inspect, "-c", ANCHOR, "300")["rate"]
    print(
        f"Inspect AI, same episode, 300 samples: {anchor:.0f} per second; ours is {max(rates) / anchor:.0f} times that"
    )


if __name__ == "__main__":
    main()
