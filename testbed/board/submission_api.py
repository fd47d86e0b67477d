"""How entries are sent: what a board asks for, uploads in pieces, and what became of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Body, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from testbed.board import boards, entry_changes, uploads
from testbed.board.accounts import Principal, principal
from testbed.board.refusals import NotFound
from testbed.board.schema import WITHDRAWN, entries
from testbed.board.uploads import LONGEST_TITLE, Upload
from testbed.store.schema import unpack

router = APIRouter(prefix="/api", tags=["submission"])

MOST_CHUNKS = 3_500  # whose hashes a body of the usual size has room for
Submitter = Annotated[Principal, Depends(principal("submit"))]
Slug = Annotated[str, Path(max_length=64, description="The board's name in addresses.")]
Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Terms(BaseModel):
    """What an entry of a board has to share with every other, and how it is sent."""

    slug: str
    title: str
    private: bool = Field(description="Attempts are made against the server; nothing can be uploaded.")
    seed: int
    samples: dict[str, int] = Field(
        description='Attempts per task of an arm without tools ("bare") and with ("tools").'
    )
    budget: dict[str, Any]
    tools: list[str] = Field(description='Tools that arms may offer; "any" allows all.')
    corpora: dict[str, str] = Field(description="By tool: hash of the corpus that it has to work over.")
    env: list[dict[str, Any]] = Field(
        description="The environments with their options, as under [[env]] of an experiment; none of a private board."
    )
    tasks: list[str] = Field(description="Hashes of the tasks, in order; none of a private board.")
    arms: list[str] = Field(description="Of a private board: names of the arms that it serves.")
    chunk: int = Field(description="Bytes of a chunk, at most.")
    upload: int = Field(description="Bytes of a whole upload, at most.")


class Beginning(BaseModel):
    """A bundle that is about to be sent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    content: Sha256 = Field(description="SHA-256 of the whole bundle.")
    bytes: int = Field(ge=1, le=2**50)
    chunks: Annotated[list[Sha256], Field(min_length=1, max_length=MOST_CHUNKS)] = Field(
        description="SHA-256 of each piece."
    )


class Standing(BaseModel):
    """An upload as it stands."""

    upload: str
    state: str = Field(description='"open", "complete", or what became of its entry.')
    missing: list[int] = Field(description="Chunks that are still to be sent.")
    entry: str | None = Field(description="Address of its entry, once there is one.")


class Ending(BaseModel):
    """The last step of an upload."""

    model_config = ConfigDict(extra="forbid", strict=True)

    title: str = Field(default="", max_length=LONGEST_TITLE)


class Title(BaseModel):
    """What an entry is to be called."""

    model_config = ConfigDict(extra="forbid", strict=True)

    title: str = Field(min_length=1, max_length=LONGEST_TITLE)


class Account(BaseModel):
    """Whose a token is, and what it allows."""

    account: str
    scopes: list[str]


class Finding(BaseModel):
    """One thing that the check of an entry found."""

    check: str
    level: Literal["ok", "note", "unchecked", "wrong"]
    text: str
    entry: str = Field(default="", description="Id of the other entry that it is about.")


class Verdict(BaseModel):
    """What became of an entry."""

    entry: str
    board: str
    title: str
    state: Literal["waiting", "verified", "partly", "rejected", "replaced", "withdrawn"]
    reasons: list[Finding]
    created: str
    decided: str | None
    page: str = Field(description="Address of its page.")


@router.get("/boards/{slug}/terms")
def terms(slug: Slug, request: Request) -> Terms:
    """What a board asks of its entries."""
    board, settings = boards.get(request.app.state.db, slug), request.app.state.settings
    rules = board.rules
    return Terms(
        slug=board.slug,
        title=board.title,
        private=board.private,
        seed=board.seed,
        samples=board.samples,
        budget=board.budget.as_dict(),
        tools=list(rules.tools),
        corpora=dict(rules.corpora),
        env=[] if board.private else [dict(table) for table in board.spec["env"]],
        tasks=[] if board.private else [task.hash for task in board.tasks],
        arms=[arm["name"] for arm in board.spec.get("arm", [])],
        chunk=settings.chunk,
        upload=settings.upload,
    )


@router.get("/account")
def account(who: Submitter) -> Account:
    """Whose the token is: before anything large is sent, this tells whether it may be."""
    return Account(account=who.account, scopes=sorted(who.scopes))


@router.post("/boards/{slug}/uploads")
def begin(slug: Slug, beginning: Beginning, who: Submitter, request: Request) -> Standing:
    """Begin an upload, or learn how far it came: the same bundle always has the same upload."""
    state = request.app.state
    announced = uploads.Announced(beginning.content, beginning.bytes, tuple(beginning.chunks))
    return _standing(uploads.begin(state.db, state.settings, who.account, slug, announced))


@router.get("/uploads/{id}")
def standing(id: Id, who: Submitter, request: Request) -> Standing:
    """An upload as it stands."""
    return _standing(uploads.get(request.app.state.db, who.account, id))


@router.put("/uploads/{id}/chunks/{n}")
def put(
    id: Id,
    n: Annotated[int, Path(ge=0, lt=MOST_CHUNKS)],
    data: Annotated[bytes, Body(media_type="application/octet-stream")],
    who: Submitter,
    request: Request,
) -> Standing:
    """Send one piece; once this is answered, it is kept."""
    return _standing(uploads.put(request.app.state.db, who.account, id, n, data))


@router.post("/uploads/{id}/complete")
def complete(id: Id, ending: Ending, who: Submitter, request: Request, response: Response) -> Standing:
    """Make an entry of the pieces. It then waits to be checked; sending this again changes nothing."""
    state = request.app.state
    uploads.complete(state.db, state.settings, who.account, id, ending.title)
    if state.worker is not None:
        state.worker.wake()
    found = _standing(uploads.get(state.db, who.account, id))
    response.headers["Location"] = str(found.entry)
    return found


@router.get("/entries/{id}")
def verdict(id: Id, request: Request) -> Verdict:
    """What became of an entry, and why."""
    with request.app.state.db.reading() as connection:
        row = connection.execute(sa.select(entries).where(entries.c.id == id)).first()
    if row is None:
        raise NotFound(f"there is no entry {id}.")
    gone = row.state == WITHDRAWN  # nothing more is told of it
    return Verdict(
        entry=row.id,
        board=row.board,
        title="" if gone else unpack(row.title),
        state=row.state,
        reasons=[] if gone else [Finding(**reason) for reason in unpack(row.reasons)],
        created=row.created,
        decided=row.decided,
        page=f"/entries/{row.id}",
    )


@router.put("/entries/{id}/title")
def retitle(id: Id, wanted: Title, who: Submitter, request: Request) -> Verdict:
    """Give an entry of one's own another title."""
    entry_changes.retitle(request.app.state.db, id, wanted.title, who.account)
    return verdict(id, request)


@router.post("/entries/{id}/withdraw")
def withdraw(id: Id, who: Submitter, request: Request) -> Verdict:
    """Withdraw an entry of one's own, for good: nothing of it is shown any more but that it was withdrawn."""
    state = request.app.state
    entry_changes.withdraw(state.db, id, who.account)
    if state.worker is not None:
        state.worker.wake()  # ranks are of the entries that are left
    return verdict(id, request)


def _standing(upload: Upload) -> Standing:
    entry = None if upload.state == uploads.OPEN else f"/api/entries/{upload.id}"
    return Standing(upload=upload.id, state=upload.state, missing=list(upload.missing), entry=entry)
