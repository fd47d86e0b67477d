"""The web application: pages and the programs' interface over one database, behind the limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio.to_thread
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from testbed.board import exports_api, pages, submission_api
from testbed.board.accounts import check
from testbed.board.answers import API, PROBLEMS, AnyTextJSON, Problem, answer, handled
from testbed.board.bodies import BodyLimit
from testbed.board.database import BoardDatabase
from testbed.board.limits import Answering, RateLimit, TokenLimit, WriteLimit
from testbed.board.public import PublicAddress, public_address
from testbed.board.remote import api as remote_api
from testbed.board.service import Steps, Worker
from testbed.board.settings import Settings
from testbed.errors import TestbedError

__all__ = ["Settings", "create_app"]


def create_app(db: BoardDatabase, settings: Settings) -> FastAPI:
    """The application over an open database, which stays open when it ends.

    Its endpoints find the database, the settings and the worker in `request.app.state`, as `db`, `settings` and
    `worker` (None where another process does that work).

    Args:
        db: the board's database.
        settings: its limits.

    Raises:
        UsageError: the public address is none.
    """
    address = public_address(settings.public_url)
    worker = Worker(db, Steps.usual(settings)) if settings.work else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = settings.threads
        if worker is not None:
            worker.start()
        yield
        if worker is not None:
            await anyio.to_thread.run_sync(worker.stop)

    app = FastAPI(
        title="Capability testbed: leaderboard",
        version="1",
        lifespan=lifespan,
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        servers=[{"url": address}] if address else None,
        responses=_problems(),
        default_response_class=AnyTextJSON,
    )
    app.state.db, app.state.settings, app.state.worker = db, settings, worker
    for part in (submission_api, remote_api, exports_api, pages):
        app.include_router(part.router)
    for kind in (TestbedError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, handled)
    app.add_middleware(WriteLimit, settings=settings)
    app.add_middleware(BodyLimit, settings=settings, admit=partial(check, db))
    app.add_middleware(TokenLimit, check=partial(check, db), verified=db.verified)
    if address:
        app.add_middleware(PublicAddress, address=address)
    app.add_middleware(RateLimit, settings=settings, verified=db.verified)
    app.add_middleware(Answering, answer=answer)
    return app


def _problems() -> dict[int | str, dict[str, Any]]:
    """What any address may answer besides."""
    # One names the model, which the document describes then; the others refer to it. Of each that names it FastAPI
    # makes a reader for each address when the first request comes, which would take most of that request.
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}}}
    told: dict[int | str, dict[str, Any]] = {
        status: {"description": text, "content": content} for status, text in PROBLEMS.items()
    }
    told[400] = {"description": PROBLEMS[400], "model": Problem}
    return told
