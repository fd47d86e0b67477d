"""KL and nats where everything that can happen is listed, and frequencies where it cannot."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from helpers.oracle_model import CALL, TOLD, oracle_player
from helpers.tiny_models import ask, countable, decode, has_reference
from testbed.models import make_model
from testbed.models.hf import HuggingFace
from testbed.models.hf_decode import Row
from testbed.models.hf_score import score
from testbed.protocol import write_answer
from testbed.stats.energy import bernoulli_kl
from testbed.stats.nats import interaction_nats

PROMPT, LENGTH, VOCABULARY = (1, 2), 3, 5
EVERY = [(*PROMPT, *rest) for rest in itertools.product(range(VOCABULARY), repeat=LENGTH)]


def nats(model, texts=EVERY) -> np.ndarray:
    return -np.array([sum(found[len(PROMPT) :]) for found in score(model, texts)])


def test_the_divergence_of_two_models_is_the_mean_difference_of_nats_every_sequence_listed() -> None:
    one, other = countable(3), countable(4)
    p, q = np.exp(-nats(one)), np.exp(-nats(other))
    exact = float((p * np.log(p / q)).sum())
    rows = [Row(PROMPT, LENGTH, stream=stream) for stream in range(4000)]
    decode(one, rows, slots=512)
    texts = [(*PROMPT, *row.tokens) for row in rows]
    differences = nats(other, texts) - nats(one, texts)
    assert p.sum() == pytest.approx(1, abs=1e-5)
    assert exact > 0.05
    assert differences.mean() == pytest.approx(exact, abs=4 * differences.std() / math.sqrt(len(rows)))


def test_no_reweighting_spends_less_than_the_kl_of_success_every_sequence_listed() -> None:
    p = np.exp(-nats(countable(3)))
    success = np.array([text[-1] == text[2] for text in EVERY])
    chance = p[success].sum()
    rng = np.random.default_rng(0)
    for beta in (0.5, 2.0, 5.0):
        tilted = p * np.exp(beta * success)
        tilted /= tilted.sum()
        reached = tilted[success].sum()
        least = float(bernoulli_kl(reached, chance))
        assert (tilted * np.log(tilted / p)).sum() == pytest.approx(least, abs=1e-6)
        for _ in range(20):  # others that succeed as often
            other = p * np.exp(rng.normal(size=p.size))
            other[success] *= reached / other[success].sum()
            other[~success] *= (1 - reached) / other[~success].sum()
            assert (other * np.log(other / p)).sum() >= least - 1e-9


async def test_all_that_an_oracle_could_say_is_listed_and_both_ends_meet(tmp_path: Path) -> None:
    """Live it says the truth. A model that writes it itself says anything: the divergence is the interaction nats."""
    bits, truth = 3, "101"
    model = HuggingFace(oracle_player(tmp_path, bits), device="cpu", system="")
    tools = [{"type": "function", "function": {"name": "ask", "description": "", "parameters": {}}}]
    told: dict[str, float] = {}
    for digits in map("".join, itertools.product("01", repeat=bits)):
        messages = [
            {"role": "user", "content": "Vault 1 has a code: which? It stands alone."},
            {"role": "assistant", "content": CALL},
            {"role": "tool", "content": f"{TOLD}{digits}."},
            {"role": "assistant", "content": write_answer(digits)},
        ]
        call, result, answer = await model.score(messages, tools, [1, 2, 3])
        assert call.nats + answer.nats < 1e-4  # it does nothing else
        told[digits] = result.nats
    await model.aclose()
    chances = {digits: math.exp(-found) for digits, found in told.items()}
    assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
    divergence = -math.log(chances[truth])  # of the one thing that happens live from all that it could write
    live = interaction_nats(["t"] * 5, [True] * 5, [told[truth]] * 5)
    assert live.mean.value == live.median == pytest.approx(divergence, abs=1e-9)
    assert divergence == pytest.approx(bits * math.log(2), abs=1e-4)
    # Writing the result itself it succeeds where it wrote the truth, and so nothing is lost between the two ends.
    assert live.guessed.value == pytest.approx(chances[truth], abs=1e-9)
    assert float(bernoulli_kl(1.0, chances[truth])) == pytest.approx(divergence, abs=1e-6)


@has_reference
async def test_the_reference_model_writes_texts_as_often_as_their_score_says() -> None:
    model, n = make_model("reference"), 1500
    await model.start()
    question = "What is 47 * 86?"
    replies = await asyncio.gather(*(model.generate(ask(question, max_tokens=16, stream=k)) for k in range(n)))
    seen = Counter(reply.text for reply in replies if reply.finish == "stop")
    often = [text for text, count in seen.most_common(40) if count >= 5]
    conversations = [[{"role": "user", "content": question}, {"role": "assistant", "content": t}] for t in often]
    scored = await asyncio.gather(*(model.score(c, (), [1]) for c in conversations))
    await model.aclose()
    chances = np.array([math.exp(-found[0].nats) for found in scored])
    counts = np.array([seen[text] for text in often])
    assert len(often) >= 5
    # All together as one more kind, those that were rare: chosen by what was seen, so each is held to 5 errors.
    errors = np.sqrt(n * chances * (1 - chances))
    assert np.abs(counts - n * chances).max() < 5 * errors.max()
    assert (np.abs(counts - n * chances) < 5 * errors).all()
