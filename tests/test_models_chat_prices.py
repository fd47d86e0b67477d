from __future__ import annotations

from pathlib import Path

import pytest

from testbed.errors import DataError, UnknownName, UsageError
from testbed.models import make_model
from testbed.models.chat import Chat
from testbed.models.chat_prices import Prices, prices_of

TABLE = """
read = 2026-11-05
source = "the provider's page"

["openai:large"]
input = 2
output = 8.5
cached_input = 0.5

["openai:small"]
input = 0.25
output = 2
"""


@pytest.fixture
def prices(tmp_path: Path) -> str:
    path = tmp_path / "prices.toml"
    path.write_text(TABLE)
    return str(path)


def test_a_file_has_the_prices_of_many_models(prices: str) -> None:
    assert prices_of("openai:large", None, prices) == Prices(2, 8.5, 0.5)
    assert prices_of("openai:small", None, prices) == Prices(0.25, 2)


def test_the_experiments_own_prices_come_before_the_files(prices: str) -> None:
    assert prices_of("openai:large", {"input": 1, "output": 1}, prices) == Prices(1, 1)


def test_a_model_that_the_file_lacks_is_told_with_the_nearest(prices: str) -> None:
    with pytest.raises(UnknownName, match=r"'openai:smal'\. Did you mean 'openai:small'\? Add \[\"openai:smal\"\]"):
        make_model("chat:openai:smal", {"prices": prices})


def test_what_is_no_table_is_no_model(prices: str) -> None:
    with pytest.raises(UnknownName):
        prices_of("source", None, prices)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('["openai:x"]\ninput = "1"', UsageError, r"openai:x takes input = .*, not input = '1'"),
        ('["openai:x"]\ninput = inf', UsageError, "not input = inf"),
        ('["openai:x"]\ninptu = 1', UsageError, "not inptu = 1"),
        ('["openai:x"]\ninput = nan', UsageError, "not input = nan"),
        ('["openai:x"]\ninput = 1', UsageError, "openai:x has no output = …; write 0"),
        ('["openai:x"]', UsageError, "openai:x has no input = …"),
        ("[openai:x]", DataError, r"prices\.toml are no TOML"),
    ],
)
def test_bad_prices_are_told_with_their_place(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(error, match=message):
        prices_of("openai:x", None, str(path))


def test_prompt_tokens_in_store_have_a_price_of_their_own() -> None:
    assert Prices(2, 8, 0.5).usd(prompt=1_000, cached=600, written=100) == pytest.approx(
        (400 * 2 + 600 * 0.5 + 800) / 1e6
    )
    assert Prices(2, 8).usd(prompt=1_000, cached=600, written=100) == pytest.approx((1_000 * 2 + 800) / 1e6)


def test_a_model_without_prices_is_not_priced(prices: str) -> None:
    assert not Chat("openai:large").priced
    assert not Chat("openai:large", usd_per_million={"input": 0, "output": 0}).priced
    assert Chat("openai:large", prices=prices).priced
