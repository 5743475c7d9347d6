"""The blueprint on which all pages stand, and what their addresses have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, redirect, request, url_for

from changelog.errors import BadRequest

LONGEST_SEARCH = 100  # characters
ROW_ID = f"int(max={2**63 - 1})"  # what SQLite can hold; a larger one is no route

pages = Blueprint("pages", __name__)


@pages.get("/")
@pages.get("/office/")
def start() -> Any:
    """The first page of the office."""
    return redirect(url_for("pages.batches"))


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
