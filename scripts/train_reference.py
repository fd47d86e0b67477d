"""Train the reference model from scratch: ``python scripts/train_reference.py --out DIR``.

One seeded run of a fixed number of steps; batch i is a pure function of (seed, i), so that a run resumes exactly.
``--smoke`` trains for about half a minute, enough to see the loss fall and the files load.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import reference_data as data
import reference_tokenizer
import torch
import torch.nn.functional as F
from reference_network import SMOKE, Encoder, Recipe, make_model, make_optimizers
from transformers import LlamaForCausalLM

from testbed.envs import world

WORLD_SEED = 7


def rate_factor(step: int, recipe: Recipe) -> float:
    """Return the learning rates' factor at a step: linear warm-up, plateau, linear decay to a hundredth."""
    left = (recipe.steps - step) / recipe.steps
    return max(0.01, min(1.0, (step + 1) / recipe.warmup, left / recipe.decay))


def train_step(model: LlamaForCausalLM, encoder: Encoder, step: int, *, bf16: bool) -> dict[str, float]:
    """Accumulate one step's gradients; return the mean losses of own turns and of tool results, and the tokens."""
    batches = list(encoder.batches(step))
    total = sum(float(weights.sum()) for _, weights in batches)
    sums = dict.fromkeys(("own", "own_tokens", "environment", "environment_tokens", "tokens"), 0.0)
    for ids, weights in batches:
        ids, weights = ids.to(model.device), weights.to(model.device)
        scored = weights[:, 1:] > 0
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=bf16):
            hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
            logits = model.lm_head(hidden[scored])
        losses = F.cross_entropy(logits.float(), ids[:, 1:][scored], reduction="none")
        weight = weights[:, 1:][scored]
        ((losses * weight).sum() / total).backward()  # type: ignore[no-untyped-call]
        own = weight == 1
        losses = losses.detach()
        sums["own"] += float(losses[own].sum())
        sums["own_tokens"] += int(own.sum())
        sums["environment"] += float(losses[~own].sum())
        sums["environment_tokens"] += int((~own).sum())
        sums["tokens"] += int((ids != 0).sum())
    return {
        "own": sums["own"] / max(1, sums["own_tokens"]),
        "environment": sums["environment"] / max(1, sums["environment_tokens"]),
        "tokens": sums["tokens"],
    }


class Run:
    """One training run: a model, its optimizers and where it stands; saved whole, resumed exactly.

    Args:
        recipe: What to train.
        out: Folder of the finished model.
        bf16: Whether matrix products run in bfloat16; the weights stay float32.
        device: Where it trains; the shipped model was trained on "cpu", and other devices round differently.
    """

    def __init__(self, recipe: Recipe, out: Path, *, bf16: bool, device: str = "cpu") -> None:
        self.recipe, self.out, self.bf16 = recipe, out, bf16
        settings = data.Settings(world.make_world(WORLD_SEED), quote=recipe.quote)
        sample = data.transcripts(recipe.seed, -1, 6000, settings)
        self.tokenizer = reference_tokenizer.make_tokenizer((row.render() for row in sample), recipe.vocabulary)
        self.encoder = Encoder(self.tokenizer, settings, recipe)
        self.model = make_model(recipe, self.tokenizer).to(device)
        self.optimizers = make_optimizers(self.model, recipe)
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self.tokens = self.wall = self.cpu = 0.0

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same recipe.

        Raises:
            SystemExit: if the checkpoint belongs to another recipe.
        """
        state = torch.load(path, weights_only=True, map_location=self.model.device)
        if state["recipe"] != json.dumps(asdict(self.recipe)):
            raise SystemExit(f"{path} was written by another recipe: {state['recipe']}")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.curve = state["step"], state["curve"]
        self.tokens, self.wall, self.cpu = state["tokens"], state["wall"], state["cpu"]

    def checkpoint(self, path: Path) -> None:
        """Write everything that `load` needs, whole or not at all."""
        state = {
            "recipe": json.dumps(asdict(self.recipe)),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "curve": self.curve,
            "tokens": self.tokens,
            "wall": self.wall,
            "cpu": self.cpu,
        }
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def advance(self) -> dict[str, float]:
        """Take one optimizer step and return its losses."""
        wall, cpu = time.monotonic(), time.process_time()
        factor = rate_factor(self.step, self.recipe)
        peaks = (self.recipe.matrix_rate, self.recipe.rate) if len(self.optimizers) == 2 else (self.recipe.rate,)
        losses = train_step(self.model, self.encoder, self.step, bf16=self.bf16)
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0))
        for optimizer, peak in zip(self.optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += losses["tokens"]
        self.wall += time.monotonic() - wall
        self.cpu += time.process_time() - cpu
        return {"step": self.step, "own": losses["own"], "environment": losses["environment"], "gradient": norm}

    def train(self, checkpoint: Path | None, every: int, log_every: int) -> None:
        """Take the steps that are left, print the curve, and write a checkpoint every ``every`` steps."""
        window: list[dict[str, float]] = []
        while self.step < self.recipe.steps:
            window.append(self.advance())
            if self.step % log_every == 0 or self.step == self.recipe.steps:
                point = {
                    key: round(sum(row[key] for row in window) / len(window), 4)
                    for key in ("own", "environment", "gradient")
                }
                self.curve.append(
                    {
                        "step": self.step,
                        **point,
                        "tokens": self.tokens,
                        "wall": round(self.wall),
                        "cpu": round(self.cpu),
                    }
                )
                print(json.dumps(self.curve[-1]), flush=True)
                if not math.isfinite(point["own"]):
                    raise SystemExit(f"the loss is not finite at step {self.step}")
                window = []
            if checkpoint is not None and self.step % every == 0:
                self.checkpoint(checkpoint)
                self.save(checkpoint.with_suffix(".model"))

    def save(self, folder: Path) -> None:
        """Write the model, its tokenizer and `training.json`, replacing what is there."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        (folder / "model.safetensors").chmod(
            0o644
        )  # It is written for its owner alone, and the package is for everybody.
        record: dict[str, Any] = {
            "recipe": asdict(self.recipe),
            "bf16": self.bf16,
            "world_seed": WORLD_SEED,
            "parameters": sum(weight.numel() for weight in self.model.parameters()),
            "steps_taken": self.step,
            "tokens": self.tokens,
            "wall_seconds": round(self.wall, 1),
            "cpu_seconds": round(self.cpu, 1),
            "threads": torch.get_num_threads(),
            "curve": self.curve,
        }
        (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")


def main(argv: list[str] | None = None) -> None:
    """Train, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="optimizer steps (default: the recipe's)")
    parser.add_argument("--smoke", action="store_true", help="train a smaller model for about half a minute")
    parser.add_argument("--no-quote", action="store_true", help="ablation: answer without restating the sentence")
    parser.add_argument("--bf16", action="store_true", help="matrix products in bfloat16")
    parser.add_argument("--device", default="cpu", help="torch device; the default is what the recipe was made for")
    parser.add_argument("--checkpoint", type=Path, help="file to save the run's state in every few minutes")
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from --checkpoint")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="another field of the recipe, as JSON"
    )
    options = parser.parse_args(argv)
    changes: dict[str, Any] = {
        name: json.loads(value) for name, _, value in (item.partition("=") for item in options.set)
    }
    changes |= {"seed": options.seed, "quote": not options.no_quote}
    if options.steps is not None:
        changes["steps"] = options.steps
    recipe = replace(SMOKE if options.smoke else Recipe(), **changes)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    run = Run(recipe, options.out, bf16=options.bf16, device=options.device)
    if options.resume:
        if options.checkpoint is None:
            parser.error("--resume needs --checkpoint")
        run.load(options.checkpoint)
    run.train(options.checkpoint, options.every, log_every=max(1, min(50, recipe.steps // 12)))
    run.save(options.out)


if __name__ == "__main__":
    main()
