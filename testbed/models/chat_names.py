"""Whether a server has a model of the name that it is asked for: of a wrong one, some say only that they failed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from testbed.edges import Kept
from testbed.errors import ModelUnavailable, TestbedError, did_you_mean
from testbed.models.chat_clients import model_of
from testbed.models.chat_errors import Refused

PATIENCE = 10.0  # seconds for the list


class ServedNames:
    """What a server calls its models: asked for once, when a request has failed and none was answered before.

    Args:
        client: the langchain client by which the server is asked; None where a request was answered.
    """

    def __init__(self, client: Callable[[], Any]) -> None:
        self._client = client
        self._asking = asyncio.Lock()  # for many fail at one time
        self._known: tuple[str, ...] | None = None

    async def explain(self, error: TestbedError) -> None:
        """Adds to an error that the server's list of its models lacks the model's name, with the nearest that it has.

        No more than that, since some servers take names that are not in their list. What the list has, with or without
        a prefix or Ollama's ":latest", and a server that tells no list, whatever the cause, leave the error as it is.
        """
        client = self._client()
        # Azure's list has models, and requests name deployments of them.
        if type(client).__name__ != "ChatOpenAI" or not (type(error) is ModelUnavailable or isinstance(error, Refused)):
            return
        name, known = model_of(client), await self._names(client.root_async_client)
        if known and not any(f"/{one}".endswith((f"/{name}", f"/{name}:latest")) for one in known):
            said = str(error).removesuffix(".")
            error.args = (f"{said}. Its list of models has no {name!r}.{did_you_mean(name, known)}",)

    async def _names(self, client: Any) -> tuple[str, ...]:
        if self._known is None:
            async with self._asking:
                self._known = await _listed(client) if self._known is None else self._known
        return self._known


async def _listed(client: Any) -> tuple[str, ...]:
    with Kept(Exception) as kept:  # whatever a server answers, and a client makes of it
        async with asyncio.timeout(PATIENCE):
            kept.result = tuple(str(model.id) for model in (await client.models.list()).data)
    return kept.result or ()
