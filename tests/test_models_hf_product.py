"""Compiled products: what they come to, and that a row's depends on that row alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

from testbed.models import hf_product
from testbed.models.hf_product import Weights

VECTORS = (1, 4)  # in a panel: for processors with narrow and with wide registers


@pytest.fixture(params=VECTORS)
def vectors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(hf_product, "_vectors", lambda: request.param)
    return int(request.param)


@pytest.fixture(autouse=True)
def no_derivatives() -> Iterator[None]:
    with torch.no_grad():
        yield


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [0, 1, 5, 6, 7, 64])
@pytest.mark.parametrize(("columns", "width"), [(1, 1), (15, 40), (16, 3), (17, 128), (64, 64), (130, 7), (200, 384)])
def test_a_product_is_that_of_exact_arithmetic_but_for_rounding(
    rows: int, columns: int, width: int, vectors: int
) -> None:
    given, weights, bias = numbers(rows, width), numbers(columns, width, seed=1), numbers(columns, seed=2)
    found = Weights(weights, bias).times(given)
    exact = given.double() @ weights.double().T + bias.double()
    # A sum of n terms, added up in order, is off by at most n roundings of the terms' sizes (Higham 2002, eq. 3.5).
    most = (width + 1) * 2**-24 * (given.abs().double() @ weights.abs().double().T + bias.abs().double())
    assert found.shape == (rows, columns)
    assert bool(((found.double() - exact).abs() <= most).all())


def test_each_sum_is_that_of_one_row_in_order(vectors: int) -> None:
    given, weights = numbers(9, 33), numbers(20, 33, seed=1)
    whole = Weights(weights).times(given)
    for row in range(9):
        assert torch.equal(Weights(weights).times(given[row : row + 1])[0], whole[row])
    assert torch.equal(Weights(weights).times(given.flip(0)).flip(0), whole)
    assert torch.equal(Weights(weights[5:7]).times(given), whole[:, 5:7])


def test_wide_and_narrow_registers_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for vectors in VECTORS:
        monkeypatch.setattr(hf_product, "_vectors", lambda vectors=vectors: vectors)
        found.append(Weights(numbers(100, 50)).times(numbers(30, 50, seed=1)))
    assert torch.equal(*found)


def test_several_threads_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch, vectors: int) -> None:
    weights, given = Weights(numbers(300, 50)), numbers(30, 50, seed=1)
    alone = weights.times(given)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(hf_product, "_APART", 1)
    assert torch.equal(weights.times(given), alone)


def test_code_lives_as_long_as_whoever_calls_it() -> None:
    """Two threads that compile it at once get one each, of which one is kept to be found again."""
    hf_product.compiled.cache_clear()
    weights, given = Weights(numbers(70, 20)), numbers(8, 20, seed=1)
    right = weights.times(given)
    hf_product.compiled.cache_clear()
    gc.collect()
    assert torch.equal(
        Weights(numbers(70, 20)).times(given), right
    )  # compiled where the first one's code may have lain
    assert torch.equal(weights.times(given), right)


def test_a_row_that_is_no_number_spoils_no_other() -> None:
    given, weights = numbers(8, 20), Weights(numbers(70, 20, seed=1))
    right = weights.times(given)
    given[3, 4], given[6, 0] = torch.nan, torch.inf
    found = weights.times(given)
    others = [0, 1, 2, 4, 5, 7]
    assert torch.equal(found[others], right[others])
    assert bool(found[3].isnan().all())
    assert not found[6].isfinite().any()


def test_rows_may_lie_anywhere_and_in_any_shape() -> None:
    given, weights = numbers(20, 4, 6), Weights(numbers(10, 4, seed=1))
    crosswise = given.transpose(1, 2)
    assert torch.equal(weights.times(crosswise), weights.times(crosswise.contiguous()))
    assert weights.times(crosswise).shape == (20, 6, 10)
    assert weights.times(crosswise[0, 0]).shape == (10,)


def test_nothing_is_written_behind_the_product() -> None:
    """The last panel and the last rows are not whole."""
    weights, given = Weights(numbers(70, 20)), numbers(8, 20, seed=1)
    memory = torch.full((8 * 70 + 64,), 5.0)

    class Given(torch.Tensor):
        def new_empty(self, *_: object, **__: object) -> torch.Tensor:
            return memory[: 8 * 70].view(8, 70)

    right = weights.times(given)
    assert torch.equal(weights.times(given.as_subclass(Given)), right)
    assert torch.equal(memory[: 8 * 70].view(8, 70), right)
    assert bool((memory[8 * 70 :] == 5.0).all())
