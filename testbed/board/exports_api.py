"""What a board found, for programs: in its own form, as a table, and in those that others read."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from testbed.board import forms, shown
from testbed.board.public import address_of

router = APIRouter(prefix="/api", tags=["results"])


def _answers(media: str, example: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": example, "content": {media: {}}}}


@router.get("/boards/{slug}/results.json", responses=_answers("application/json", "Every entry with its arms."))
def board_json(slug: str, request: Request) -> Response:
    """All results of a board: entries that were checked, their arms, every figure with its limits."""
    db = request.app.state.db
    text = forms.as_json(*shown.board_results(db, slug), address_of(request), shown.not_shown(db, slug))
    return Response(text, media_type="application/json")


@router.get("/boards/{slug}/results.csv", responses=_answers("text/csv", "A row for each arm of each entry."))
def board_csv(slug: str, request: Request) -> Response:
    """All results of a board as a table, a row for each arm of each entry."""
    text = forms.as_csv(*shown.board_results(request.app.state.db, slug), address_of(request))
    return _file(text, "text/csv", f"{slug}.csv")


@router.get(
    "/entries/{entry}/eval_results.yaml", responses=_answers("application/yaml", "For the folder `.eval_results`.")
)
def eval_results(
    entry: str,
    request: Request,
    dataset: Annotated[str, Query(description="Id of the dataset on the hub.", pattern=r"^[\w.-]+/[\w.-]+$")],
    task: Annotated[str, Query(description="Its task there; by default the board's slug.", max_length=200)] = "",
) -> Response:
    """An entry's results for a model repository on the Hugging Face hub."""
    board, found = shown.entry_results(request.app.state.db, entry)
    text = forms.as_eval_results(board, found, address_of(request), dataset, task)
    return _file(text, "application/yaml", f"{board.slug}.yaml")


@router.get(
    "/entries/{entry}/every_eval_ever.json", responses=_answers("application/json", "A log for each model of it.")
)
def every_eval_ever(entry: str, request: Request) -> Response:
    """An entry's results as logs of Every Eval Ever, in a list: one for each model in it."""
    board, found = shown.entry_results(request.app.state.db, entry)
    logs = list(forms.as_every_eval_ever(board, found, address_of(request)))
    return Response(json.dumps(logs, indent=1, ensure_ascii=False), media_type="application/json")


def _file(text: str, media: str, name: str) -> Response:
    return Response(text, media_type=media, headers={"Content-Disposition": f'attachment; filename="{name}"'})
