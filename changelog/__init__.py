"""The log: all that both machines must agree on, for any SQLite schema. README.md has the formats.

What a module is for, by subject:

    the file        connection (the one place that opens databases), schema, errors
    capture         layout and triggers (the SQL), install, ddl and reconcile (the schema changes), log (who signs)
    the primary     reader, primary (snapshots, frames), commits (who has just written), snapshot
    how much stays  retention (trimming), acks (what replicas have), gaps (where a log is not whole)
    the wire        position, values, wire, compression
    the replica     replay, apply, reshape (DDL), definitions, guard, fulltext, bootstrap, room, pull
    gone back       rescue/ (what a primary lost and its replica holds: found, kept, played back)
    looking at it   render, audit, doctor; asof/ (what was), verify/ (whether two sides hold the same)
    cli/            `python -m changelog`
    node/           what both roles are as a process; nothing else in here imports it
"""

VERSION = "1.0"
