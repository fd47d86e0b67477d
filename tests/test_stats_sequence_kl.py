"""KL of whole attempts and affordable attempts: against every sequence listed, and how often intervals hold."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest

from helpers.tiny_models import countable, decode
from testbed.models.hf_decode import Row
from testbed.models.hf_score import forced
from testbed.stats import StatsError
from testbed.stats.sequence_kl import affordable, kl_difference, sequence_kl

VOCABULARY, LONGEST, END = 5, 3, 4
PROMPTS = ((1, 2), (3, 1), (2, 2), (3, 3))
N = 1200  # attempts at each


def every() -> list[tuple[int, ...]]:
    """All that can be written: up to the token that ends it, or the limit."""
    words = [w for n in range(LONGEST + 1) for w in itertools.product(range(VOCABULARY - 1), repeat=n)]
    return [(*word, END) if len(word) < LONGEST else word for word in words]


def contents(text: tuple[int, ...]) -> tuple[int, ...]:
    return text[:-1] if text and text[-1] == END else text


def nats(model, prompt, texts, *, ends: bool = True) -> np.ndarray:
    """−ln of their probability, read as a stored attempt is: the contents, and how likely an end is behind them."""
    found = []
    for text, read in zip(texts, forced(model, [(*prompt, *contents(t)) for t in texts], [END]), strict=True):
        end = read.ends[-1] if ends and contents(text) != text else 0.0
        found.append(-sum(read.logprobs[len(prompt) :]) - end)
    return np.array(found)


EVERY = every()


@dataclass
class Listed:
    """One prompt: the nats of everything that can be written, and which of it was, N times."""

    own: np.ndarray
    base: np.ndarray
    base_without_ends: np.ndarray
    own_without_ends: np.ndarray
    written: np.ndarray

    @property
    def kl(self) -> float:
        return float((np.exp(-self.own) * (self.base - self.own)).sum())


@pytest.fixture(scope="module")
def listed() -> list[Listed]:
    post, base = countable(3, std=0.4), countable(4, std=0.4)
    made = []
    for prompt in PROMPTS:
        rows = [Row(prompt, LONGEST, stream=stream) for stream in range(N)]
        decode(post, rows, slots=512, stops=lambda tokens: tokens[-1] == END)
        written = np.array([EVERY.index(tuple(row.tokens)) for row in rows])
        read = [nats(model, prompt, EVERY, ends=ends) for ends in (True, False) for model in (post, base)]
        made.append(Listed(read[0], read[1], read[3], read[2], written))
    return made


TASKS = [str(prompt) for prompt in PROMPTS for _ in range(N)]


def test_the_mean_log_ratio_is_the_divergence_every_sequence_listed_and_both_estimates_meet_it(listed) -> None:
    own, base = (np.concatenate([getattr(one, name)[one.written] for one in listed]) for name in ("own", "base"))
    for one in listed:
        assert np.exp(-one.own).sum() == pytest.approx(1, abs=1e-5)
        assert np.exp(-one.base).sum() == pytest.approx(1, abs=1e-5)
    found = sequence_kl(TASKS, own, base)
    exact = np.array([one.kl for one in listed])
    error = (base - own).reshape(-1, N).std(axis=1) / math.sqrt(N)
    assert max(exact / error) > 10  # or it would show nothing
    assert (np.abs(found.per_task - exact) < 4 * error).all()
    assert found.mean.value == pytest.approx(exact.mean(), abs=4 * math.sqrt((error**2).sum()) / len(listed))
    assert found.mean.low < exact.mean() < found.mean.high
    assert found.ratio == pytest.approx(1, abs=0.1)
    noise = (base - own + np.exp(own - base)).reshape(-1, N).std(axis=1) / math.sqrt(N)
    assert found.controlled.value == pytest.approx(exact.mean(), abs=4 * math.sqrt((noise**2).sum()) / len(listed))


def test_without_the_ends_it_is_no_divergence(listed) -> None:
    """That a model stops is a choice of its own: left out, the mean lies elsewhere by more than simulation error."""
    off = []
    for one in listed:
        ratio = (one.base_without_ends - one.own_without_ends)[one.written]
        off.append(abs(ratio.mean() - one.kl) / (ratio.std() / math.sqrt(N)))
    assert max(off) > 5


@pytest.mark.parametrize("attempts", [4, 16, 64])
def test_the_share_of_affordable_attempts_is_that_of_every_sequence_listed(listed, attempts: int) -> None:
    good = np.array([text[0] in (0, 2) for text in EVERY])
    mass = sum(np.exp(-one.own[good]).sum() for one in listed)
    within = sum(np.exp(-one.own[good & (one.base <= math.log(attempts))]).sum() for one in listed)
    base = np.concatenate([one.base[one.written] for one in listed])
    found = affordable(TASKS, np.concatenate([good[one.written] for one in listed]), base, attempts)
    assert found.share.value == pytest.approx(within / mass, abs=4 * math.sqrt(0.25 / found.successes))
    assert found.share.low <= within / mass <= found.share.high
    assert found.within == round(found.share.value * found.successes)


def test_a_text_of_exactly_one_in_k_is_affordable_whichever_way_it_was_rounded() -> None:
    nats = [math.log(16) + error for error in (-5e-6, 0.0, 5e-6, 1e-3)]
    assert affordable(["a", "b", "c", "d"], [True] * 4, nats, 16).within == 3


def test_so_many_attempts_do_write_an_affordable_text_as_often_as_is_said(listed) -> None:
    base = listed[0].base
    at = int(np.argsort(base)[3])
    k = math.ceil(math.exp(base[at]))
    said = affordable(["t"], [True], [base[at]], k).written
    rows = [Row(PROMPTS[0], LONGEST, stream=stream) for stream in range(150 * k)]
    decode(countable(4, std=0.4), rows, slots=512, stops=lambda tokens: tokens[-1] == END)
    hits = np.array([tuple(row.tokens) == EVERY[at] for row in rows]).reshape(150, k).any(axis=1).mean()
    assert 0.63 < said < 0.75
    assert said - 4 * math.sqrt(0.25 / 150) <= hits < 0.95


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rng, runs, held, shares = np.random.default_rng(5), 300, 0, 0
    tasks = [str(t) for t in range(20) for _ in range(8)]
    for seed in range(runs):
        drift = rng.gamma(2.0, 0.5, size=20)[np.repeat(np.arange(20), 8)]  # KL of a task: log ratios N(d, 2d)
        ratio = drift + np.sqrt(2 * drift) * rng.normal(size=160)
        own = rng.uniform(20, 30, size=160)
        kl = sequence_kl(tasks, own, own + ratio, replicates=200, seed=seed)
        held += kl.mean.low <= 1.0 <= kl.mean.high
        likely = rng.beta(1, 2, size=20)[np.repeat(np.arange(20), 8)]
        base = np.where(rng.random(160) < likely, 1.0, 9.0)
        share = affordable(tasks, np.ones(160, bool), base, 16, replicates=200, seed=seed).share
        shares += share.low <= 1 / 3 <= share.high
    assert held / runs >= 0.93
    assert shares / runs >= 0.93


def kl_of(per_task: np.ndarray, names: list[str]):
    return sequence_kl(names, np.full(len(names), 2.0), per_task + 2.0, replicates=100)


def test_a_difference_of_two_kls_is_paired_and_turns_around_with_its_sides() -> None:
    rng = np.random.default_rng(3)
    names, near = [f"t{n}" for n in range(12)], rng.exponential(1.0, 12)
    one, other = kl_of(near, names), kl_of(near + 0.5, names)
    found, turned = (kl_difference(*pair, replicates=100) for pair in ((one, other), (other, one)))
    assert found.value == pytest.approx(0.5)
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low))
    assert found.high - found.low < other.mean.high - other.mean.low  # what tasks have in common is no noise
    same = kl_difference(one, one, replicates=100)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    with pytest.raises(StatsError, match="same tasks"):
        kl_difference(one, kl_of(near, names[::-1]))


def test_intervals_of_differences_hold_the_truth_as_often_as_they_say() -> None:
    rng, runs, tasks = np.random.default_rng(4), 200, 5
    names = [f"t{n}" for n in range(tasks)]
    held = 0
    for _ in range(runs):
        one, other = (kl_of(rng.lognormal(0.0, 1.0, tasks), names) for _ in range(2))  # a true difference of 0
        found = kl_difference(one, other, replicates=100)
        held += found.low <= 0 <= found.high
    assert held >= 0.95 * runs


def test_the_controlled_estimate_is_less_noisy_where_two_models_are_close_and_says_when_it_is_not_to_be_trusted() -> (
    None
):
    rng = np.random.default_rng(1)
    close, far = ([], []), ([], [])
    for _ in range(200):
        for drift, found in ((0.02, close), (8.0, far)):
            ratio = drift + math.sqrt(2 * drift) * rng.normal(size=100)
            kl = sequence_kl(["t"] * 100, np.full(100, 50.0), 50 + ratio)
            found[0].append(kl.mean.value - drift)
            found[1].append((kl.controlled.value - drift, kl.ratio))
    assert np.std([value for value, _ in close[1]]) < 0.5 * np.std(close[0])
    assert np.median([ratio for _, ratio in far[1]]) < 0.5
    assert np.median([value for value, _ in far[1]]) < np.median(far[0]) - 0.3


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (([], [], []), "no nats"),
        ((["a"], [1.0, 2.0], [1.0]), "do not make attempts"),
        ((["a"], [-1.0], [1.0]), "at least 0"),
        ((["a"], [1.0], [math.inf]), "finite"),
    ],
)
def test_what_are_no_nats_is_refused(arguments, wrong: str) -> None:
    with pytest.raises(StatsError, match=wrong):
        sequence_kl(*arguments)
    with pytest.raises(StatsError):
        affordable(["a"], [True], [1.0], 0.5)
    with pytest.raises(StatsError, match="outcomes"):
        affordable(["a"], [True, False], [1.0], 4)


def test_nothing_is_said_where_nothing_succeeded_and_no_interval_where_there_is_one_task() -> None:
    none = affordable(["a", "b"], [False, False], [1.0, 1.0], 4)
    assert (none.successes, none.share.value) == (0, None)
    one = sequence_kl(["a", "a"], [1.0, 2.0], [3.0, 3.0])
    assert (one.mean.value, one.mean.low, one.mean.high) == (1.5, None, None)
