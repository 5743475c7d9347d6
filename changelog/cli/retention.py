"""The command that trims a log by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import click

from changelog.acks import Ack, read_acks
from changelog.audit import is_replica, moment, printable
from changelog.cli.group import FILE, JSON, opened_log, print_json, progress
from changelog.gaps import trimmed_upto
from changelog.guard import pass_guards
from changelog.log import head
from changelog.retention import Limits, Plan, Survey, counted, cutoff, file_bytes, log_bytes, plan
from changelog.retention import trim as trim_rows

COMPANION = "pi.db"  # where the Pi keeps acknowledgements, beside its database


@click.command()
@FILE
@click.option("--keep-days", type=click.IntRange(min=0), help="Rows that are older than this may go.")
@click.option("--before", metavar="SEQ|TIME", help="Rows from before this seq, or older than this time (UTC), may go.")
@click.option("--max-bytes", type=click.IntRange(min=0), help="Oldest rows go until the log is about so large, whoever needs them.")
@click.option(
    "--acks",
    "acks_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"The file with what replicas have acknowledged. [{COMPANION} beside a primary, if it is there]",
)
@click.option("--no-acks", is_flag=True, help="Do not ask what replicas have acknowledged: those that are behind take a snapshot.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do it: what is trimmed here is gone.")
@JSON
def trim(
    file: Path,
    keep_days: int | None,
    before: str | None,
    max_bytes: int | None,
    *,
    acks_file: Path | None,
    no_acks: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Let the oldest rows of FILE's log go: those that are old enough and that all replicas have; or, above a size, the oldest.

    \b
    python -m changelog trim farm.db --keep-days 30 --dry-run
    python -m changelog trim farm.db --before 120000 --max-bytes 268435456 --yes

    The newest row stays in any case. Of --keep-days and --before both must hold. It works in short transactions, also while a Pi has the
    file open, which does the same by itself (CHANGELOG_KEEP_DAYS, CHANGELOG_MAX_BYTES). A replica keeps its own log.
    """
    if dry_run == yes:
        raise click.UsageError("this deletes history; say --dry-run to see what would go, or --yes to do it")
    if keep_days is None and before is None and max_bytes is None:
        raise click.UsageError("say what may go: --keep-days, --before or --max-bytes")
    if acks_file and no_acks:
        raise click.UsageError("--acks and --no-acks contradict each other")
    with opened_log(file, readonly=True) as db:  # looking takes a while, and no lock
        acks = None if no_acks else _acks(db, file, acks_file)
        db.execute("BEGIN")
        limits = replace(_limits(keep_days, before), cap=_cap(db, max_bytes))
        found = plan(db, limits, acks)
        facts = _facts(db, found, acks)
    if yes:
        _trim(file, limits, facts, found, acks)
    if as_json:
        print_json({"file": str(file), "dry_run": dry_run, **facts})
    else:
        _print(facts, dry_run)


def _acks(db: apsw.Connection, file: Path, named: Path | None) -> list[Ack] | None:
    beside = file.absolute().with_name(COMPANION)
    if named is None and (is_replica(db) or not beside.exists()):  # a replica's log is its own affair
        return None
    return read_acks(named or beside)


def _limits(keep_days: int | None, before: str | None) -> Limits:
    at = None if before is None else moment(before)
    times = [*([cutoff(keep_days)] if keep_days is not None else []), *([at] if isinstance(at, str) else [])]
    return Limits(min(times, default=None), at if isinstance(at, int) else None)


def _cap(db: apsw.Connection, max_bytes: int | None) -> int:
    """The last seq that goes because of the log's size."""
    if max_bytes is None or file_bytes(db) <= max_bytes:
        return 0
    survey = Survey(db)
    survey.read()
    return survey.over(max_bytes)


def _facts(db: apsw.Connection, found: Plan, acks: list[Ack] | None) -> dict[str, Any]:
    reached = counted(db, acks or ())
    return {
        "oldest": found.oldest,
        "head": found.head,
        "log_bytes": log_bytes(db),
        "goes": {"first": found.oldest, "last": found.upto, "rows": found.rows, "why": found.why} if found.rows else None,
        "stays_from": max(found.oldest, found.upto + 1),
        "replicas_asked": acks is not None,
        "replicas": [_replica(ack, reached.get(ack), found) for ack in acks or ()],
        "trimmed": 0,
    }


def _replica(ack: Ack, reached: int | None, found: Plan) -> dict[str, Any]:
    over = reached is not None and reached < found.upto
    behind = None if reached is None else found.head - reached
    return {"id": ack.replica_id, "key": ack.key_name, "seq": ack.seq, "behind": behind, "heard": ack.at, "snapshot": over}


def _trim(file: Path, limits: Limits, facts: dict[str, Any], found: Plan, acks: list[Ack] | None) -> None:
    with opened_log(file) as db, progress("trimming the log") as show:
        if is_replica(db):
            pass_guards(db)
        for gone in trim_rows(db, limits, acks):
            facts["trimmed"] += gone.rows
            show(facts["trimmed"], found.rows)
    with opened_log(file, readonly=True) as db:
        db.execute("BEGIN")
        facts |= {"stays_from": trimmed_upto(db) + 1, "head": head(db), "log_bytes": log_bytes(db)}


def _print(facts: dict[str, Any], dry_run: bool) -> None:
    why = {"age": "they are old enough", "cap": "the log is larger than --max-bytes"}
    goes = facts["goes"]
    if goes is None:
        click.echo(f"nothing goes: {_reason(facts)}")
    else:
        verb = "would go" if dry_run else "went"
        click.echo(f"{verb:<11}seq {goes['first']} to {goes['last']}, {goes['rows']} rows: {why[goes['why']]}")
    click.echo(f"{'stays':<11}seq {facts['stays_from']} to {facts['head']}, the log has {facts['log_bytes']} bytes")
    for replica in facts["replicas"]:
        said = f"{replica['id']} (key {replica['key']}, heard {replica['heard']}) has seq {replica['seq']}"
        if replica["behind"] is None:
            said += " of another history: it holds nothing back"
        elif replica["snapshot"]:
            said += ": it needs rows that " + ("would go" if dry_run else "are gone") + ", and will take a snapshot"
        click.echo(printable(f"{'replica':<11}{said}"))


def _reason(facts: dict[str, Any]) -> str:
    counting = [replica for replica in facts["replicas"] if replica["behind"] is not None]
    if facts["replicas_asked"] and not counting:
        return "no replica has acknowledged anything of this log; --no-acks does not ask"
    slowest = min((replica for replica in counting), key=lambda replica: replica["seq"], default=None)
    if slowest and slowest["seq"] <= facts["oldest"]:
        return printable(
            f"replica {slowest['id']} has only seq {slowest['seq']}; `python -m pi replica forget` lets go of one that is no more"
        )
    return "no row is old enough, and the log is not too large"
