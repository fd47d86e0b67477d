"""`testbed corpus search`: what a model would be shown for a query."""

from __future__ import annotations

from typing import Annotated

import typer

RESULTS = 5


def search(
    corpus: Annotated[
        str, typer.Argument(help="Folder that `testbed corpus build` made, JSONL file, or an environment.")
    ],
    query: Annotated[str, typer.Argument(help="What a model would ask.")],
    k: Annotated[int, typer.Option("--k", help="Passages at most.")] = RESULTS,
    retrieve: Annotated[bool, typer.Option("--retrieve", help="With the tool retrieve, by meaning.")] = False,
) -> None:
    """Search a corpus and print what a model would be shown."""
    import asyncio

    from testbed.budget import Budget, Meter
    from testbed.registry import make_tool
    from testbed.tool import ToolSet
    from testbed.types import ToolCall

    async def ask() -> str:
        tool = make_tool("retrieve" if retrieve else "search", corpus=corpus, k=k)
        tools = ToolSet([tool])
        try:
            await tools.start()
            answered = await tools.open(Meter(Budget()), len).call(ToolCall(tool.name, {"query": query}))
        finally:
            await tools.aclose()
        return answered.text

    print(asyncio.run(ask()))
