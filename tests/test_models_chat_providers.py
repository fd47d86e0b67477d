"""Providers of chat models: a wrong name is told with the nearest one, and no unknown package is advised."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from testbed.errors import UnknownName
from testbed.models import make_model
from testbed.models.chat_providers import PACKAGES, canonical, known_providers


@pytest.mark.parametrize(("name", "meant"), [("opena1", "openai"), ("Antropic", "anthropic"), ("mistral", "mistralai")])
def test_a_misspelled_provider_gets_the_nearest_and_no_package_of_its_name(name: str, meant: str) -> None:
    with pytest.raises(UnknownName, match=f"Did you mean '{meant}'") as raised:
        make_model(f"chat:{name}:model")
    assert "pip" not in str(raised.value)
    assert f"langchain-{name}" not in str(raised.value)


def test_what_an_installed_langchain_knows_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "langchain" / "chat_models"
    package.mkdir(parents=True)
    (tmp_path / "langchain" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "base.py").write_text('_BUILTIN_PROVIDERS = {"brandnew": ("langchain_brandnew", "Chat", None)}')
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert known_providers() == {*PACKAGES, "brandnew"}
        make_model("chat:brandnew:model")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "langchain"]:
            del sys.modules[name]


@pytest.mark.parametrize(
    ("told", "meant"),
    [("OpenAI:GPT-x", "openai:GPT-x"), ("google-genai:g", "google_genai:g"), ("xAI:Grok", "xai:Grok")],
)
def test_another_spelling_of_a_provider_is_the_same_model(told: str, meant: str) -> None:
    assert canonical(told) == canonical(meant) == meant


def test_an_arm_is_the_same_however_its_provider_is_spelled(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text('["openai:x"]\ninput = 1\noutput = 2\n', encoding="utf-8")
    one, other = (make_model(f"chat:{name}:x", {"prices": str(prices)}) for name in ("openai", "OpenAI"))
    assert dict(one.fingerprint()) == dict(other.fingerprint())
    assert (one.name, one.priced, one.gives_logprobs) == (other.name, other.priced, other.gives_logprobs)
