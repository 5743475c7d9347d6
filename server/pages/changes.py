"""The changelog as pages: what was changed, by whom and when; one change cell by cell; and a row as it stood at any change."""

from __future__ import annotations

from typing import Any

import apsw
from flask import render_template, request

from changelog.audit import UNKNOWN
from changelog.connection import one, rows
from changelog.errors import BadRequest, CannotRebuild
from changelog.gaps import gaps_of
from server.audit import shell
from server.audit.changes import Change, epoch_at, neighbours, read_change, read_changes
from server.audit.chosen import FIELDS, KINDS, Chosen, chosen_from
from server.audit.schema_words import schema_parts
from server.audit.search import Found, actors_of, find
from server.audit.standing import standing
from server.login import signed_in
from server.office import office
from server.pages.routes import ROW_ID, pages, without_blanks
from server.paging import PAGE_SIZE, Page

LARGEST_SEQ = 2**62


@pages.get("/office/changes")
@signed_in
def changes(db: apsw.Connection) -> Any:
    """The changelog, the newest first, or those of its changes that fit what is asked for."""
    if (shorter := without_blanks("pages.changes", FIELDS)) is not None:
        return shorter
    chosen = chosen_from(request.args)
    found, page = _page(db, chosen)
    answer = render_template(
        "changes.html",
        chosen=chosen,
        page=page,
        looked_from=found.looked_from,
        kinds=KINDS,
        tables=[name for (name,) in rows(db, "SELECT DISTINCT tbl FROM changelog_cols ORDER BY tbl")],
        columns=[name for (name,) in rows(db, "SELECT DISTINCT col FROM changelog_cols WHERE ? IN ('', tbl) ORDER BY 1", (chosen.table,))],
        actors=[UNKNOWN, *actors_of(db)],
        begins=one(db, "SELECT min(seq) FROM changelog") or 0,
        gaps=gaps_of(db),
        command=None if chosen.problem else shell.command(office().settings.replica_db, shell.sql_of_list(chosen, found.seqs)),
    )
    return answer, 400 if chosen.problem else 200


@pages.get(f"/office/changes/<{ROW_ID}:seq>")
@signed_in
def change(db: apsw.Connection, seq: int) -> str:
    """One change: the row before and after it, who made it and when. Raises NotFound."""
    found = read_change(db, seq)
    earlier, later = neighbours(db, found)
    return render_template(
        "change.html",
        change=found,
        epoch=epoch_at(db, seq),
        earlier=earlier,
        later=later,
        parts=schema_parts(db, seq) if found.op == "X" else [],
        command=shell.command(office().settings.replica_db, shell.sql_of_change(found)),
    )


@pages.get(f"/office/changes/<{ROW_ID}:seq>/row")
@signed_in
def row_at(db: apsw.Connection, seq: int) -> Any:
    """The row of a change as it stood right after it, or after the change `at`. Raises NotFound."""
    of = read_change(db, seq)
    if of.op not in ("I", "U", "D"):
        raise BadRequest(f"Change {seq} is one of the schema, and of no single row.")
    typed, problem, found, sql = request.args.get("at", str(seq)).strip(), "", None, None
    try:
        at = _seq(typed)
        found = standing(db, of, at)
        sql = shell.sql_of_row(db, found)
    except (BadRequest, CannotRebuild) as exc:
        problem = exc.message
    earlier, later = neighbours(db, found.change) if found and found.source == "change" and found.change else (None, None)
    command = shell.command(office().settings.replica_db, sql) if sql else None
    shown = render_template("row_at.html", of=of, typed=typed, found=found, problem=problem, command=command, earlier=earlier, later=later)
    return shown, 400 if problem and found is None and not _is_seq(typed) else 200


def _page(db: apsw.Connection, chosen: Chosen) -> tuple[Found, Page]:
    """The page that the address asks for: below `onward`, above `back`, or the newest."""
    if chosen.problem:
        return Found([], False), Page([])
    back, onward = (_seq(request.args[name]) if name in request.args else None for name in ("back", "onward"))
    timeline = office().timeline
    found = find(db, timeline, chosen, PAGE_SIZE, above=back) if back is not None else Found([], False)
    if back is None or not found.more:  # the beginning is shown as a full page
        back = None
        found = find(db, timeline, chosen, PAGE_SIZE, below=onward)
    told: list[Change] = read_changes(db, found.seqs)
    newest, oldest = (found.seqs[0], found.seqs[-1]) if found.seqs else (None, None)
    further = oldest if back is not None or found.more else found.looked_from
    return found, Page(told, str(newest) if newest and (back or onward) else None, str(further) if further else None)  # type: ignore[arg-type]


def _seq(text: str) -> int:
    if not _is_seq(text):
        raise BadRequest(f"“{text[:40]}” is no number of a change.")
    return int(text)


def _is_seq(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text[:20]) <= LARGEST_SEQ
