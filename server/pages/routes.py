"""The blueprint on which all pages stand, and what their addresses have in common."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from flask import Blueprint, redirect, request, url_for
from flask.sansio.blueprints import BlueprintSetupState
from werkzeug.routing import IntegerConverter, Map

from changelog.errors import BadRequest

LONGEST_SEARCH = 100  # characters
ROW_ID = "row"  # in a route: see RowId
LAST_CHARACTER = "\U0010ffff"

pages = Blueprint("pages", __name__)


class RowId(IntegerConverter):
    """The id of a row, in an address: what SQLite can hold, also below 0; a larger one is no route."""

    def __init__(self, map: Map) -> None:
        super().__init__(map, min=-(2**63), max=2**63 - 1, signed=True)


@pages.record_once
def know_ids(state: BlueprintSetupState) -> None:
    """Let the routes name ids; runs before they are added."""
    state.app.url_map.converters[ROW_ID] = RowId


@pages.get("/")
def start() -> Any:
    """The first page of the office."""
    return redirect(url_for("pages.dashboard"))


def without_blanks(endpoint: str, names: Sequence[str]) -> Any:
    """A redirect to the same page without the arguments that a form sent empty, or None where there are none: addresses are passed on."""
    if all(request.args.values()):
        return None
    given: dict[str, Any] = {name: request.args[name] for name in names if request.args.get(name)}
    return redirect(url_for(endpoint, **given))


def search_text() -> str:
    """What is searched for, without outer spaces. Raises BadRequest."""
    text = request.args.get("q", "").strip()
    if len(text) > LONGEST_SEARCH:
        raise BadRequest(f"A search may have {LONGEST_SEARCH} characters.")
    return text


def begins(text: str) -> tuple[str, str]:
    """The bounds between which, the upper one excluded, all texts are that begin with `text`."""
    return text, text + LAST_CHARACTER


def chosen_order(names: Collection[str], otherwise: str) -> tuple[str, bool]:
    """The order that the address asks for, `sort=name` or `sort=-name`, and whether it is the descending one. Raises BadRequest."""
    asked = request.args.get("sort") or otherwise
    name = asked.removeprefix("-")
    if name not in names:
        raise BadRequest(f"This list can be sorted by {', '.join(names)}.")
    return name, asked.startswith("-")


def stated(**state: Any) -> dict[str, Any]:
    """What of the page's state has to stand in its address: all that is not empty."""
    return {name: value for name, value in state.items() if value not in ("", None)}
