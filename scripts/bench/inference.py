"""Generated tokens a second of local models, beside transformers' own ways, Inspect AI's provider and the machine.

512 attempts of 1 to 4 turns at 64 tasks, messages and prompts of mixed length, no token that ends one: every system
writes exactly as much, by plain sampling, with as many threads. Systems that are slow get fewer attempts (their number
is printed). Rates by the clock say what a user waits for, and on a busy machine little else; those by processor time
are steadier, and count all that a system does. Machines have neighbours, whose work comes and goes: so what is compared
takes turns, each behind other attempts, so that its memory has been touched before; a goal is met where the median of
the turns' ratios says so by both times.

Usage: python scripts/bench/inference.py [--device auto] [--threads 1] [--within 12] [--inspect PYTHON]
where PYTHON is an interpreter that has inspect-ai and accelerate; without it, that line is left out. On a GPU, a model
of 0.45B parameters with random weights follows.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
SAMPLES, LIMIT = 64, 64  # of one prompt, and tokens of each
TURNS = 3
FEW = 64  # attempts of what is slow even with all of them at once; it makes them to the end, or nearly

INSPECT = """
import asyncio, json, os, sys, time
import torch
torch.set_num_threads(int(sys.argv[3]))
from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, GenerateConfig, get_model
attempts = json.load(open(sys.argv[2]))
shown = "{% for message in messages %}{{ message.content }}{% endfor %}"
model = get_model("hf/local", model_path=sys.argv[1], device=sys.argv[4], torch_dtype=sys.argv[5], chat_template=shown)
network = model.api.model
network.generation_config.eos_token_id = None
network.generation_config.pad_token_id = 0
done = {"tokens": 0, "attempts": 0, "seconds": 0.0, "cpu": 0.0}
async def one(attempt):
    messages = [ChatMessageUser(content=attempt["prompt"])]
    for limit, shown in attempt["turns"]:
        config = GenerateConfig(max_tokens=limit, temperature=1.0, top_p=1.0, top_k=0, max_connections=32)
        output = await model.api.generate(messages, [], "none", config)
        done["tokens"] += min(limit, output.usage.output_tokens)
        messages = [*messages, ChatMessageAssistant(content=output.completion), ChatMessageUser(content=shown)]
    done["attempts"] += 1
async def everything():
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.wait([asyncio.create_task(one(attempt)) for attempt in attempts], timeout=float(sys.argv[6]))
    done["seconds"], done["cpu"] = time.perf_counter() - wall, time.process_time() - cpu
    print("RESULT" + json.dumps(done), flush=True)
    os._exit(0)
asyncio.run(everything())
"""


def main() -> None:
    """Prints the tables and whether the goals were met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--within", type=float, default=12, help="seconds after which a slow system begins no more")
    parser.add_argument("--inspect", default="", help="an interpreter that has inspect-ai and accelerate")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)

    import torch

    from testbed.models.hf_placement import place
    from testbed.models.reference_model import reference_path

    torch.set_num_threads(options.threads)
    placement = place("inference.py", options.device, "auto", 1)
    if placement.kind == "cpu":
        run(str(reference_path()), "reference", placement.devices[0], placement.dtype, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("float32", placement.dtype):
            run(str(reference_path()), "reference", placement.devices[0], dtype, options)
        run(large(folder), "0.45B, random weights", placement.devices[0], placement.dtype, options)


def large(folder: str) -> str:
    """The directory of a Llama of 0.45B parameters with random weights; its tokenizer is the reference model's."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from testbed.models.reference_model import reference_path

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=1024,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=4,
        vocab_size=32_000,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=None,
        dtype="bfloat16",
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(reference_path())).save_pretrained(folder)
    return folder


def run(path: str, name: str, device: str, dtype: str, options: argparse.Namespace) -> None:
    """Everything for one model."""
    import inference_attempts as made
    import inference_roofline
    import inference_systems as systems

    from testbed.models import hf_files

    def load() -> Any:
        model = hf_files.load_model(Path(path), name, dtype, device)
        model.generation_config = systems.sampling()
        return model

    mine, theirs = load(), load()  # ours leaves its attention in a model
    attempts = made.workload(64, 8, vocabulary := min(768, mine.config.vocab_size))
    within = options.within
    gauges = {slots: systems.Gauge(slots) for slots in (64, 256)}
    systems.ours(mine, attempts[:32], 64)  # warm
    systems.static(theirs, attempts[:8], 8, within)
    print(f"\n# {name}, {dtype}, {device}, {options.threads} threads\n")
    print("| 512 attempts, 64 tasks, 1 to 4 turns | attempts | tokens/s | tokens per CPU second |\n|---|---|---|---|")
    found: dict[str, Any] = {}

    def note(system: str, timing: Any) -> None:
        found[system] = timing
        print(f"| {system} | {timing.attempts} | {timing.rate:,.0f} | {timing.rate_cpu:,.0f} |", flush=True)

    gc.collect()
    gc.freeze()  # else Python goes over all that libraries hold, 0.2 s, in the middle of whatever is measured then
    for slots, gauge in gauges.items():
        note(f"ours, {slots} slots", systems.ours(mine, attempts, slots, gauge))
    later, others = {slots: systems.Gauge(slots) for slots in gauges}, made.workload(64, 8, vocabulary, seed=1)
    for slots, gauge in later.items():
        note(f"ours, {slots} slots, after other attempts", systems.ours(mine, attempts, slots, gauge, before=others))
    on_cpu = mine.device.type == "cpu"
    if not on_cpu:
        for slots in gauges:
            note(f"ours, {slots} slots, no step recorded", systems.ours(mine, attempts, slots, records=False))
    for batch in (128, 32, 8):
        note(f"generate, static batches of {batch}", systems.static(theirs, attempts, batch, within))
    note("generate, one by one", systems.static(theirs, attempts, 1, within / 2))
    note("continuous batching of transformers", systems.continuous(load(), attempts[: 2 * FEW], 20 * within))
    if options.inspect:
        note("Inspect AI, hf provider", inspect(options, path, attempts[: 4 * FEW], device, dtype))
    bound = inference_roofline.bound(mine, attempts, 256)
    print(f"| roofline: {bound.what} | | {bound.rate:,.0f} | |\n")

    best = max((128, 32, 8), key=lambda batch: found[f"generate, static batches of {batch}"].rate_cpu)
    ratios: dict[str, list[tuple[float, float]]] = {}
    for _ in range(TURNS):
        one = systems.ours(mine, attempts, 256, before=others)
        rivals = {
            f"the best static batch ({best})": systems.static(theirs, attempts, best, within),
            "continuous batching": systems.continuous(load(), attempts[: 2 * FEW], 20 * within, others[:FEW]),
        }
        if options.inspect:
            rivals["Inspect AI's provider"] = inspect(options, path, attempts[: 4 * FEW], device, dtype)
        for what, other in rivals.items():
            ratios.setdefault(what, []).append((one.rate / other.rate, one.rate_cpu / other.rate_cpu))
    for (what, turns), least in zip(ratios.items(), (1.5, 10, 5), strict=False):
        goal(what, turns, least)
    for slots, gauge in gauges.items() if on_cpu else ():  # what a GPU does while it is asked is in no CPU time
        told(gauge, f"{slots} slots, decoder just made")
        told(later[slots], f"{slots} slots, decoder that has worked")
    print(
        f"\n| {SAMPLES} samples of one prompt, {LIMIT} tokens each | ours | generate | times, by the clock and by CPU |"
    )
    print("|---|---|---|---|")
    for length in (200, 500):
        same(systems, mine, theirs, length)


def told(gauge: Any, what: str) -> None:
    """Prints where the time of our model's thread went."""
    model, whole = gauge.forward[0] + gauge.sampling[0], gauge.total[0]
    overhead, occupancy = (whole - model) / model, gauge.occupancy
    print(
        f"{what}: of the CPU time, {gauge.forward[0] / whole:.1%} in the model, "
        f"{gauge.sampling[0] / whole:.1%} sampling; the rest is {overhead:.1%} of both (goal at most 5 %: "
        f"{yes(overhead <= 0.05)}). Places filled until the tail: {occupancy:.1%} (goal 90 %: {yes(occupancy >= 0.9)})."
    )


def same(systems: Any, mine: Any, theirs: Any, length: int) -> None:
    """Many samples of one prompt, after as many of another: in a run, memory has been touched before."""
    import inference_attempts as made

    def samples(prompt: tuple[int, ...]) -> list[Any]:
        return [made.Attempt(1 + n, prompt, (made.Turn(LIMIT, ()),)) for n in range(SAMPLES)]

    prompt = tuple(made.FIRST_TOKEN + 7 * n % 700 for n in range(length))
    attempts, before = samples(prompt), samples(prompt[::-1])
    systems.samples_of_one(theirs, prompt[::-1], SAMPLES, LIMIT)
    ours, others = [], []
    for _ in range(TURNS):
        ours.append(systems.ours(mine, attempts, SAMPLES, before=before))
        others.append(systems.samples_of_one(theirs, prompt, SAMPLES, LIMIT))
    a, b = (sorted(timings, key=lambda timing: timing.rate_cpu)[TURNS // 2] for timings in (ours, others))
    wall, cpu = a.rate / b.rate, a.rate_cpu / b.rate_cpu
    verdict = f"; goal 4: {yes(min(wall, cpu) >= 4)}" if length == 200 else ""
    print(
        f"| prompt of {length} tokens | {a.rate:,.0f} ({a.rate_cpu:,.0f}) | {b.rate:,.0f} ({b.rate_cpu:,.0f}) | "
        f"{wall:.1f} ({cpu:.1f}){verdict} |"
    )


def goal(what: str, ratios: Sequence[tuple[float, float]], least: float) -> None:
    """Prints our rate over another's, by the clock and by processor time: the median of all turns, and each."""
    wall, cpu = (statistics.median(each) for each in zip(*ratios, strict=True))
    turns = ", ".join(f"{ratio:.2f}" for _, ratio in ratios)
    print(f"{wall:.2f} times {what} (by CPU time {cpu:.2f}: {turns}); goal {least:g}: {yes(min(wall, cpu) >= least)}")


def yes(met: bool) -> str:
    """The verdict on a goal."""
    return "yes" if met else "NO"


def inspect(options: argparse.Namespace, path: str, attempts: Sequence[Any], device: str, dtype: str) -> Any:
    """Inspect AI's provider on the same attempts as text, in a process of its own; loading is not counted."""
    import inference_attempts as made
    from transformers import AutoTokenizer

    text = AutoTokenizer.from_pretrained(path).decode
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        turns = [[(turn.limit, text(turn.shown)) for turn in attempt.turns] for attempt in attempts]
        prompts = [text(attempt.prompt) for attempt in attempts]
        json.dump([{"prompt": p, "turns": t} for p, t in zip(prompts, turns, strict=True)], file)
        file.flush()
        words = [options.inspect, "-c", INSPECT, path, file.name, str(options.threads), device, dtype]
        words.append(str(2 * options.within))
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"Inspect AI failed: {done.stderr[-2000:]}")
    return made.Timing(**json.loads(done.stdout.rpartition("RESULT")[2]))


if __name__ == "__main__":
    main()
