"""The environment service: attempts at private tasks, driven from elsewhere over HTTP or a WebSocket.

Tasks, tools, graders and limits stay here. An agent sees prompts, tool schemas, results, and whether it was right.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Path, Request, WebSocket, WebSocketDisconnect
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from testbed.board.accounts import Principal, check, principal
from testbed.board.bodies import nesting
from testbed.board.database import BoardDatabase
from testbed.board.faults import boundary, own, record
from testbed.board.refusals import NotAllowed, NotSignedIn, NotValid, Refused, TooLarge, message_of, status_of
from testbed.board.remote import entries as remote_entries
from testbed.board.remote import serving as remote_serving
from testbed.board.remote.bench import Bench
from testbed.board.remote.entries import RemoteEntry
from testbed.board.remote.forms import Closed, EntryShown, Id, NewEntry, NewSession, NewStep, Reply, SessionShown
from testbed.board.remote.serving import Served
from testbed.board.remote.sessions import Sessions, close_sessions, sessions_in
from testbed.board.settings import Settings

T = TypeVar("T")

DENIED = 1008  # code with which a WebSocket is closed that may not be open


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await run_in_threadpool(close_sessions, app.state)


router = APIRouter(prefix="/api", tags=["remote"], lifespan=_lifespan)
Submitter = Annotated[Principal, Depends(principal("submit"))]
EntryId = Annotated[Id, Path(description="Id of a remote entry of yours.")]
SessionId = Annotated[Id, Path(description="Id of a session of yours.")]
Slug = Annotated[str, Path(description="A private board.", pattern="^[a-z0-9-]{1,64}$")]


@router.post("/boards/{slug}/remote-entries", status_code=201)
async def begin_entry(slug: Slug, form: NewEntry, who: Submitter, request: Request) -> EntryShown:
    """Begin an entry to a private board, whose attempts are made against this server."""
    settings: Settings = request.app.state.settings
    db, sessions = _parts(request.app.state)
    bench = await sessions.run(lambda: sessions.bench(slug))
    manifest = form.manifest.model_dump(exclude_defaults=True)
    entry = await run_in_threadpool(
        remote_entries.create, db, settings, bench, who.account, form.title, manifest, list(dict.fromkeys(form.arms))
    )
    return await run_in_threadpool(_shown, db, bench, entry)


@router.get("/remote-entries/{entry_id}")
async def look_at_entry(entry_id: EntryId, who: Submitter, request: Request) -> EntryShown:
    """What an entry may still be served, and which of its sessions are open."""
    db, bench, entry = await _going_on(request.app.state, entry_id, who)
    return await run_in_threadpool(_shown, db, bench, entry)


@router.post("/remote-entries/{entry_id}/close")
async def close_entry(entry_id: EntryId, who: Submitter, request: Request) -> Closed:
    """Close an entry for which everything was served and has ended; its results are then worked out."""
    db, bench, entry = await _going_on(request.app.state, entry_id, who)
    await run_in_threadpool(remote_entries.close, db, bench, entry)
    if request.app.state.worker is not None:
        request.app.state.worker.wake()
    return Closed(entry=entry.id, state="closed")


@router.post("/remote-entries/{entry_id}/sessions", status_code=201)
async def begin_session(entry_id: EntryId, form: NewSession, who: Submitter, request: Request) -> SessionShown:
    """Begin an attempt: its task counts as served from now on, whatever becomes of the session."""
    db, sessions = _parts(request.app.state)
    entry, bench = await _entry(db, sessions, entry_id, who)
    number = None if form.task == "next" else form.task
    served = await run_in_threadpool(remote_serving.serve, db, bench, entry.id, entry.arms, form.arm, number)
    return SessionShown.model_validate(await sessions.run(lambda: sessions.begin(bench, served)))


@router.get("/sessions/{session_id}")
async def look_at_session(session_id: SessionId, who: Submitter, request: Request) -> SessionShown:
    """How a session stands, with its last observation: for whoever comes back to it."""
    return SessionShown.model_validate(await _in_session(request.app.state, session_id, who, Sessions.look))


@router.post("/sessions/{session_id}/steps")
async def take_step(session_id: SessionId, form: NewStep, who: Submitter, request: Request) -> Reply:
    """Take one step; sending the same one again gets the same reply, and is charged once."""
    found = await _in_session(request.app.state, session_id, who, Sessions.step, form.n, form.action)
    return Reply.model_validate(found)


@router.post("/sessions/{session_id}/end")
async def end_session(session_id: SessionId, who: Submitter, request: Request) -> SessionShown:
    """End a session without an answer: a failure, at once instead of when its seconds are over."""
    return SessionShown.model_validate(await _in_session(request.app.state, session_id, who, Sessions.give_up))


@router.websocket("/sessions/{session_id}/ws")
async def converse(websocket: WebSocket, session_id: str) -> None:
    """A session over a WebSocket: first how it stands, then a reply to each step; errors have "error" and "status"."""
    db, sessions = _parts(websocket.app.state)
    await websocket.accept()
    with suppress(WebSocketDisconnect, RuntimeError):  # the latter where the peer is gone while it is told something
        admitted = await _or_told(_admit(websocket, db, sessions, session_id), websocket, session_id, close=DENIED)
        if admitted is None:
            return
        served, bench, standing = admitted
        await websocket.send_text(standing)
        while (message := await websocket.receive())["type"] == "websocket.receive":
            work = _take(message.get("text"), websocket, sessions, bench, served)
            if (reply := await _or_told(work, websocket, session_id)) is not None:
                await websocket.send_text(reply)


async def _admit(websocket: WebSocket, db: BoardDatabase, sessions: Sessions, id_: str) -> tuple[Served, Bench, str]:
    """The session with its board, and how it stands, for its agent."""
    who = await run_in_threadpool(_need_token, websocket, db)
    served, bench = await _session(db, sessions, id_, who)
    return served, bench, _text(await sessions.run(lambda: sessions.look(bench, served)))


async def _take(text: str | None, websocket: WebSocket, sessions: Sessions, bench: Bench, served: Served) -> str:
    """The reply to a message; None is one of bytes."""
    if text is None:
        raise NotValid('write {"n": NUMBER, "action": TEXT} as text, not as bytes.')
    state = websocket.app.state
    step = _read_step(text, state.settings.depth, state.settings.body)
    await run_in_threadpool(_need_token, websocket, state.db)
    return _text(await sessions.run(lambda: sessions.step(bench, served, step.n, step.action)))


async def _or_told(work: Awaitable[T], websocket: WebSocket, id_: str, *, close: int | None = None) -> T | None:
    """The result; None where there is an error, which the peer is told as over HTTP: it has no status of its own."""
    with boundary() as fault:
        return await work
    assert fault.error is not None
    if own(fault.error):
        record(fault.error, "session %.40r failed over a WebSocket", id_)
    await websocket.send_text(_text({"error": message_of(fault.error), "status": status_of(fault.error)}))
    if close is not None:
        await websocket.close(close)
    return None


def _need_token(websocket: WebSocket, db: BoardDatabase) -> Principal:
    kind, _, token = websocket.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer":
        raise NotSignedIn("this needs a token: send the header Authorization: Bearer TOKEN.")
    who = check(db, token)
    if not who.may("submit"):
        raise NotAllowed("this needs a token of scope 'submit'.")
    return who


def _read_step(text: str, depth: int, size: int) -> NewStep:
    body = text.encode("utf-8", "surrogatepass")
    if len(body) > size:
        raise TooLarge(f"a message has at most {size} bytes.")
    if nesting(body, depth) > depth:
        raise Refused(f"the message is nested more than {depth} deep.")
    try:
        return NewStep.model_validate(json.loads(text))
    except (ValueError, ValidationError, RecursionError):
        raise NotValid('write {"n": NUMBER, "action": TEXT}.') from None


def _text(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _parts(state: Any) -> tuple[BoardDatabase, Sessions]:
    return state.db, sessions_in(state)


async def _entry(db: BoardDatabase, sessions: Sessions, id_: str, who: Principal) -> tuple[RemoteEntry, Bench]:
    entry = await run_in_threadpool(remote_entries.find, db, id_, who.account)
    return entry, await sessions.run(lambda: sessions.bench(entry.board))


async def _going_on(state: Any, id_: str, who: Principal) -> tuple[BoardDatabase, Bench, RemoteEntry]:
    """An entry whose sessions are all under way here, also those that a restart interrupted."""
    db, sessions = _parts(state)
    entry, bench = await _entry(db, sessions, id_, who)
    await sessions.run(lambda: sessions.resume_all(bench, entry.id))
    return db, bench, entry


async def _session(db: BoardDatabase, sessions: Sessions, id_: str, who: Principal) -> tuple[Served, Bench]:
    served = await run_in_threadpool(remote_serving.session_of, db, id_, who.account)
    entry = await run_in_threadpool(remote_entries.find, db, served.entry, who.account)
    return served, await sessions.run(lambda: sessions.bench(entry.board))


async def _in_session(
    state: Any, id_: str, who: Principal, method: Callable[..., Coroutine[Any, Any, T]], *more: Any
) -> T:
    """What a method of the sessions does with one of an agent's own."""
    db, sessions = _parts(state)
    served, bench = await _session(db, sessions, id_, who)
    return await sessions.run(lambda: method(sessions, bench, served, *more))


def _shown(db: BoardDatabase, bench: Bench, entry: RemoteEntry) -> EntryShown:
    entry = remote_entries.find(db, entry.id, entry.account)
    served = remote_serving.sessions_of(db, entry.id)
    arms = [
        {
            "name": name,
            "control": str((arm := bench.arm(name)).spec.control),
            "tools": arm.tools.schemas,
            "budget": arm.spec.budget.as_dict(),
            "samples": arm.spec.samples,
            "seconds": arm.seconds,
            "left": remote_serving.left(bench, served, name) if entry.open else {},
        }
        for name in entry.arms
    ]
    numbers = {task.hash: n for n, task in enumerate(bench.board.tasks)}
    under_way = [{"session": s.id, "arm": s.arm, "task": numbers[s.task]} for s in served if s.state == "open"]
    said = {"entry": entry.id, "board": entry.board, "title": entry.title, "tasks": len(bench.board.tasks)}
    said |= {"state": "open" if entry.open else "closed", "arms": arms, "open": under_way}
    return EntryShown.model_validate(said)
