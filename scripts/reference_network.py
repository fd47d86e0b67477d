"""The reference model's recipe, its batches, its network and its optimizers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import reference_data as data
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

#: Padded tokens per forward pass: enough for efficient products, little enough for the cache.
TOKENS_AT_ONCE = 2048


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out of a run.

    Attributes:
        seed: Seed of the weights and of the transcripts.
        steps: Optimizer steps.
        batch: Transcripts per step.
        layers, width, inner, heads: Shape of the model.
        matrix_rate: Peak learning rate of Muon, for the weight matrices.
        rate: Peak learning rate of AdamW, for embeddings and norms.
        warmup: Steps of linear warm-up.
        decay: Share of the steps, at the end, over which the rates fall linearly to nothing.
        environment_weight: Loss weight of tool results at the start and at the end; the model's own turns have 1.
        vocabulary: Size of the vocabulary.
        quote: Whether the model restates the supporting sentence.
    """

    seed: int = 0
    steps: int = 4000
    batch: int = 112
    layers: int = 4
    width: int = 128
    inner: int = 384
    heads: int = 4
    matrix_rate: float = 8e-3
    rate: float = 4e-3
    warmup: int = 100
    decay: float = 0.5
    environment_weight: tuple[float, float] = (0.3, 0.1)
    vocabulary: int = 768
    quote: bool = True


SMOKE = Recipe(steps=60, batch=24, width=64, inner=192, layers=2, warmup=10)


class Encoder:
    """Turns transcripts into token ids and loss weights.

    Args:
        tokenizer: The reference tokenizer.
        settings: What the transcripts are about.
        recipe: Sizes, seed and weights.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: data.Settings, recipe: Recipe) -> None:
        self.tokenizer, self.settings, self.recipe = tokenizer, settings, recipe

    def rows(self, step: int) -> list[tuple[list[int], list[float]]]:
        """Return (token ids, loss weight of each token) of every transcript of a step, shortest first."""
        recipe = self.recipe
        progress = step / recipe.steps
        first, last = recipe.environment_weight
        weight_of = {"prompt": 0.0, "own": 1.0, "environment": first + (last - first) * progress}
        batch = data.transcripts(recipe.seed, step, recipe.batch, self.settings, progress)
        pieces = [transcript.segments() for transcript in batch]
        encoded = iter(
            self.tokenizer([text for row in pieces for _, text in row], add_special_tokens=False)["input_ids"]
        )
        rows = []
        for row in pieces:
            ids: list[int] = []
            weights: list[float] = []
            for kind, _ in row:
                piece = next(encoded)
                ids += piece
                weights += [0.0] + [weight_of[kind]] * (
                    len(piece) - 1
                )  # A piece opens with a marker, which the testbed writes.
            rows.append((ids, weights))
        return sorted(rows, key=lambda row: len(row[0]))

    def batches(self, step: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (ids, weights), each of shape (rows, length) and padded on the right, of similar total size."""
        group: list[tuple[list[int], list[float]]] = []
        for row in reversed(self.rows(step)):
            # Rows come longest first: the first of a group is its width, and a much shorter one opens a new group.
            if group and (len(row[0]) < 0.75 * len(group[0][0]) or len(group) * len(group[0][0]) > TOKENS_AT_ONCE):
                yield _padded(group)
                group = []
            group.append(row)
        yield _padded(group)


def _padded(group: list[tuple[list[int], list[float]]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = len(group[0][0])
    ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in group])
    weights = torch.tensor([row + [0.0] * (width - len(row)) for _, row in group])
    return ids, weights


def _float32_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: object,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention in float32, also under autocast: on a CPU, bfloat16 attention takes longer than all else."""
    with torch.autocast(query.device.type, enabled=False):
        mixed = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), is_causal=True)
    return mixed.transpose(1, 2).contiguous(), None


def make_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return an untrained model of the recipe's shape, its weights drawn from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    code = tokenizer.convert_tokens_to_ids
    ends = [code("</tool_call>"), code("</answer>"), code("<|end|>")]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        intermediate_size=recipe.inner,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        pad_token_id=code("<pad>"),
        bos_token_id=None,
        eos_token_id=ends,
    )
    ALL_ATTENTION_FUNCTIONS.register("float32", _float32_attention)
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("float32")
    model.generation_config.eos_token_id = ends
    model.generation_config.pad_token_id = code("<pad>")
    return model


def make_optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return Muon for the weight matrices of the layers and AdamW for all else."""
    named = list(model.named_parameters())
    matrices = [weight for name, weight in named if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in named if weight.ndim != 2 or "embed" in name]
    adamw = torch.optim.AdamW(others, lr=recipe.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    if recipe.matrix_rate <= 0:
        adamw.add_param_group({"params": matrices, "weight_decay": 0.05})
        return [adamw]
    muon = torch.optim.Muon(matrices, lr=recipe.matrix_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    return [muon, adamw]
