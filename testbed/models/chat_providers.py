"""Which providers of chat models langchain knows, and the package that each needs."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

# As langchain 1.5 has them: where it is not installed it cannot be asked, and a package must not be guessed from a
# provider's name: whoever registers that name would be installed.
PACKAGES = {
    "anthropic": "langchain-anthropic",
    "anthropic_bedrock": "langchain-aws",
    "azure_ai": "langchain-azure-ai",
    "azure_openai": "langchain-openai",
    "bedrock": "langchain-aws",
    "bedrock_converse": "langchain-aws",
    "cohere": "langchain-cohere",
    "deepseek": "langchain-deepseek",
    "fireworks": "langchain-fireworks",
    "google_anthropic_vertex": "langchain-google-vertexai",
    "google_genai": "langchain-google-genai",
    "google_vertexai": "langchain-google-vertexai",
    "groq": "langchain-groq",
    "huggingface": "langchain-huggingface",
    "ibm": "langchain-ibm",
    "litellm": "langchain-litellm",
    "mistralai": "langchain-mistralai",
    "nvidia": "langchain-nvidia-ai-endpoints",
    "ollama": "langchain-ollama",
    "openai": "langchain-openai",
    "openrouter": "langchain-openrouter",
    "perplexity": "langchain-perplexity",
    "together": "langchain-together",
    "upstage": "langchain-upstage",
    "xai": "langchain-xai",
}


def known_providers() -> frozenset[str]:
    """Names of providers: those of `PACKAGES`, and those that langchain adds where it is installed."""
    if find_spec("langchain") is None:
        return frozenset(PACKAGES)
    base = import_module("langchain.chat_models.base")  # it has no public list of them
    return frozenset(PACKAGES) | frozenset(getattr(base, "_BUILTIN_PROVIDERS", ()))


def canonical(model: str) -> str:
    """The model under its provider's name as langchain writes it, where that is told in another case or with hyphens.

    So both spellings are one model: to an arm's hash, to a list of prices, and to the variable that has its key. What
    no provider is called in any spelling stays as it is.

    Args:
        model: "PROVIDER:MODEL".
    """
    provider, colon, name = model.partition(":")
    plain = provider.lower().replace("-", "_")
    known = plain in PACKAGES or (plain != provider and plain in known_providers())
    return f"{plain}{colon}{name}" if known else model
