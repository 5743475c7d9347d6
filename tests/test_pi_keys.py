"""Keys and users: made by command, stored hashed, known at once, and nothing else opens the door."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from flask import Flask, g
from pi_parts import rows, shell, wait_until
from werkzeug.security import check_password_hash

from changelog import companion
from changelog.acks import Acks, read_acks
from changelog.companion import Companion
from changelog.connection import connect
from changelog.errors import BadRequest, Conflict, NotFound, Unauthorized
from changelog.node.problems import install_problems
from changelog.position import Position
from pi import keys as keys_module
from pi.keys import Key, Keys


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "pi.db")


@pytest.fixture
def keys(path):
    with closing(Keys(path, checkpoints=True)) as keys:
        yield keys


@pytest.fixture
def client(keys):
    app = Flask(__name__)
    install_problems(app)

    @app.get("/replicas")
    @keys.require("replica", "writer")
    def replicas():
        return g.key.name

    return app.test_client()


def cli(folder, *arguments, text=None):
    environ = os.environ | {"DATA_DIR": str(folder), "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "pi", *arguments]
    return subprocess.run(command, cwd=folder, env=environ, input=text, check=False, capture_output=True, text=True)


def test_a_key_is_256_bits_shown_once_and_stored_hashed(path, keys):
    key = keys.add("office", "replica")
    assert key.startswith("hxb_")
    assert len(key) == 4 + 43
    assert keys.role_of(key) == Key("office", "replica")
    for end in ("", "-wal"):
        assert key[4:].encode() not in subprocess.check_output(["cat", path + end])
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    assert stat.S_IMODE(os.stat(path + "-wal").st_mode) == 0o660


@pytest.mark.parametrize("header", [None, "", "x", "hxb_" + "A" * 43, "hxb_é", "\xff\xfe", "hxb_" + "A" * 5_000, "' OR 1=1 --"])
def test_any_other_key_is_refused_and_none_is_known_at_first(keys, header):
    """The earlier system (failure I) took any key while none was set."""
    with pytest.raises(Unauthorized):
        keys.role_of(header)
    keys.add("office", "replica")
    with pytest.raises(Unauthorized):
        keys.role_of(header)


def test_keys_added_and_revoked_by_another_process_count_at_once(path, keys):
    with closing(Keys(path)) as other:
        key = other.add("barn", "device")
        assert keys.role_of(key).name == "barn"
        other.revoke("barn")
        with pytest.raises(Unauthorized):
            keys.role_of(key)


def test_a_name_is_given_once_and_roles_are_known(keys):
    keys.add("office", "replica")
    with pytest.raises(Conflict, match="office"):
        keys.add("office", "writer")
    with pytest.raises(BadRequest, match="metrics"):
        keys.add("x", "root")
    with pytest.raises(NotFound):
        keys.revoke("nobody")


def test_use_is_noted_at_most_once_a_minute(path, keys, monkeypatch):
    key = keys.add("office", "replica")
    keys.role_of(key)
    with closing(connect(path, readonly=True)) as watcher:
        version = watcher.pragma("data_version")
        for _ in range(50):
            keys.role_of(key)
        assert watcher.pragma("data_version") == version
        assert keys.rows()[0]["last_used_at"] is not None
        monkeypatch.setattr(keys_module, "WRITE_EVERY", 0.0)
        wait_until(lambda: keys.role_of(key) and watcher.pragma("data_version") != version)  # as soon as the second is another


def test_a_locked_pi_db_refuses_no_key(path, keys):
    key = keys.add("office", "replica")
    with closing(connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert keys.role_of(key).name == "office"
        other.execute("ROLLBACK")


def make_read_only(file: Companion) -> None:
    """As a connection is that opened the file while the disk could only be read: SQLite never asks again."""
    file._db.close()
    file._db = connect(file._path, readonly=True)


def test_a_connection_that_can_only_read_is_opened_anew_and_no_key_is_refused_meanwhile(path, keys, monkeypatch):
    monkeypatch.setattr(companion, "RETRY", 0.0)
    monkeypatch.setattr(keys_module, "WRITE_EVERY", 0.0)
    key, version = keys.add("office", "replica"), keys.version()
    make_read_only(keys._file)
    assert keys.role_of(key).name == "office" and keys.rows()[0]["last_used_at"] is None
    keys.role_of(key)
    assert keys.rows()[0]["last_used_at"] is not None
    assert keys.version() != version, "what was written between the two connections is looked for"
    keys.revoke("office")
    with pytest.raises(Unauthorized):
        keys.role_of(key)


def test_a_file_that_is_gone_is_not_made_anew_under_a_failing_connection(path, keys, monkeypatch):
    monkeypatch.setattr(companion, "RETRY", 0.0)
    monkeypatch.setattr(keys_module, "WRITE_EVERY", 0.0)
    key = keys.add("office", "replica")
    make_read_only(keys._file)
    Path(path).unlink()
    for _ in range(3):
        assert keys.role_of(key).name == "office"
    assert not Path(path).exists()


def test_acknowledgements_are_written_again_after_a_connection_that_could_only_read(path, monkeypatch):
    monkeypatch.setattr(companion, "RETRY", 0.0)
    with closing(Acks(path)) as acks:
        make_read_only(acks._file)
        for seq in (5, 6):
            acks.handed_out("r1", "office", Position("a" * 32, seq, 1))
        assert [ack.seq for ack in read_acks(path)] == [6]


def test_a_route_refuses_no_key_a_wrong_key_and_a_wrong_role_and_says_what_to_do(client, keys):
    replica, device = keys.add("office", "replica"), keys.add("barn", "device")
    assert client.get("/replicas", headers={"X-API-Key": replica}).text == "office"
    nothing = client.get("/replicas")
    assert (nothing.status_code, nothing.mimetype, nothing.json["success"]) == (401, "application/problem+json", False)
    assert "X-API-Key" in nothing.json["message"]
    assert client.get("/replicas", headers={"X-API-Key": "hxb_wrong"}).status_code == 401
    assert client.get("/replicas", headers={"X-API-Key": "schlüssel"}).status_code == 401
    other = client.get("/replicas", headers={"X-API-Key": device})
    assert (other.status_code, "needs replica or writer" in other.json["message"]) == (403, True)


def test_guessing_keys_is_slowed_down_but_never_locks_out_the_right_one(client, keys):
    replica = keys.add("office", "replica")
    answers = [client.get("/replicas", headers={"X-API-Key": f"hxb_{number}"}) for number in range(50)]
    assert {answer.status_code for answer in answers} == {401, 429}
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert client.get("/replicas", headers={"X-API-Key": replica}).status_code == 200


def test_two_keys_of_one_name_work_while_it_is_rotated_and_never_three(keys):
    first = keys.add("office", "replica")
    second = keys.rotate("office")
    assert first != second
    assert keys.role_of(first) == keys.role_of(second) == Key("office", "replica")
    with pytest.raises(Conflict, match="two keys"):
        keys.rotate("office")
    with pytest.raises(Conflict, match="office"):
        keys.add("office", "replica")
    keys.retire("office")
    with pytest.raises(Unauthorized):
        keys.role_of(first)
    assert keys.role_of(second).name == "office"
    third = keys.rotate("office")
    keys.revoke("office")
    for key in (second, third):
        with pytest.raises(Unauthorized):
            keys.role_of(key)
    for impossible in (keys.rotate, keys.retire):
        with pytest.raises(NotFound):
            impossible("office")


def test_the_older_key_is_not_retired_before_somebody_has_used_the_newer_one(keys):
    first = keys.add("office", "replica")
    second = keys.rotate("office")
    with pytest.raises(Conflict, match="nobody has used"):
        keys.retire("office")
    assert keys.role_of(first).name == "office"
    keys.role_of(second)
    keys.retire("office")
    with pytest.raises(NotFound, match="no older key"):
        keys.retire("office")


def test_which_key_was_used_when_and_from_where_is_listed(client, keys):
    keys.add("office", "replica")
    newer = keys.rotate("office")
    for address in ("192.0.2.7", "::ffff:192.0.2.8"):  # within the minute the second is not written
        assert client.get("/replicas", headers={"X-API-Key": newer}, environ_base={"REMOTE_ADDR": address}).status_code == 200
    forged = {"X-API-Key": newer, "X-Forwarded-For": "203.0.113.1"}
    client.get("/replicas", headers=forged, environ_base={"REMOTE_ADDR": "192.0.2.7"})
    first, second = keys.rows()
    assert (first["older"], first["last_used_at"], first["last_used_from"]) == (True, None, None)
    assert (second["older"], second["last_used_from"]) == (False, "192.0.2.7") and second["last_used_at"]


def test_an_address_of_ipv4_on_a_socket_of_ipv6_is_listed_as_people_know_it(client, keys):
    key = keys.add("office", "replica")
    client.get("/replicas", headers={"X-API-Key": key}, environ_base={"REMOTE_ADDR": "::ffff:192.0.2.8"})
    assert keys.rows()[0]["last_used_from"] == "192.0.2.8"


def test_each_of_two_keys_is_noted_by_itself(keys):
    first = keys.add("office", "replica")
    second = keys.rotate("office")
    keys.role_of(first, "192.0.2.1")
    keys.role_of(second, "192.0.2.2")
    assert [row["last_used_from"] for row in keys.rows()] == ["192.0.2.1", "192.0.2.2"]


EARLIER_KEYS = """
CREATE TABLE keys (
  name TEXT PRIMARY KEY,
  role TEXT NOT NULL,
  hash BLOB NOT NULL UNIQUE,                 -- SHA-256 of the key
  created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%S','now')),
  last_used_at TEXT                          -- to the minute
);
INSERT INTO keys(name, role, hash, last_used_at) VALUES('office', 'office', x'{hash}', '2026-11-01T06:00:00'),
  ('gate', 'device', x'{other}', NULL);
"""


def test_a_pi_db_of_the_time_of_one_key_a_name_is_taken_over_with_all_its_keys(path):
    key = "hxb_" + "k" * 43
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in (("hash", key), ("other", "hxb_gate"))}
    shell(path, EARLIER_KEYS.format(**hashes))
    with closing(Keys(path)) as keys, closing(Keys(path)) as other:
        assert keys.rows() == other.rows()
        assert [(row["name"], row["role"], row["last_used_at"], row["older"]) for row in keys.rows()] == [
            ("gate", "device", None, False),
            ("office", "office", "2026-11-01T06:00:00", False),
        ]
        assert other.role_of(key) == Key("office", "office")
        newer = keys.rotate("office")
        assert other.role_of(newer) == Key("office", "office")
    assert rows(path, "SELECT name FROM sqlite_schema WHERE name LIKE '%earlier%'") == []


def test_many_processes_that_open_an_earlier_pi_db_at_once_take_it_over_once(path):
    shell(path, EARLIER_KEYS.format(hash="aa", other="bb"))
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(lambda _: Keys(path), range(8)))
    for keys in opened:
        assert [row["name"] for row in keys.rows()] == ["gate", "office"]
        keys.close()


def test_commands_rotate_and_retire_a_key(tmp_path):
    first = cli(tmp_path, "key", "add", "office", "--role", "office").stdout.strip()
    second = cli(tmp_path, "key", "rotate", "office").stdout.strip()
    assert len(second) == 47 and second != first
    listed = cli(tmp_path, "key", "list").stdout.splitlines()
    assert ["older" in line for line in listed] == [True, False]
    again = cli(tmp_path, "key", "rotate", "office")
    assert (again.returncode, again.stderr.count("\n"), "key retire" in again.stderr) == (1, 1, True)
    unused = cli(tmp_path, "key", "retire", "office")
    assert (unused.returncode, "--yes" in unused.stderr, unused.stderr.count("\n")) == (1, True, 1)
    assert cli(tmp_path, "key", "retire", "office", "--yes").returncode == 0
    left = json.loads(cli(tmp_path, "key", "list", "--json").stdout)
    assert [(row["name"], row["older"], row["last_used_from"]) for row in left] == [("office", False, None)]


def test_key_commands(tmp_path):
    made = cli(tmp_path, "key", "add", "office", "--role", "replica")
    assert (made.returncode, len(made.stdout.strip()), made.stderr) == (0, 47, "")
    again = cli(tmp_path, "key", "add", "office", "--role", "replica")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.startswith("error: there is a key named 'office' already")
    listed = cli(tmp_path, "key", "list", "--json")
    assert [(row["name"], row["role"], row["last_used_at"]) for row in json.loads(listed.stdout)] == [("office", "replica", None)]
    assert made.stdout.strip() not in listed.stdout + cli(tmp_path, "key", "list").stdout
    assert cli(tmp_path, "key", "revoke", "office").returncode == 0
    assert cli(tmp_path, "key", "revoke", "office").returncode == 1
    assert cli(tmp_path, "key", "add", "office", "--role", "root").returncode == 2


def test_user_commands_make_users_that_are_signed_masked_and_hashed(tmp_path):
    path = str(tmp_path / "farm.db")
    assert cli(tmp_path, "user", "add", "ann", "--role", "admin", "--password-stdin", text="correct horse\n").returncode == 0
    assert cli(tmp_path, "user", "add", "ann", "--password-stdin", text="correct horse\n").returncode == 1
    unseen = cli(tmp_path, "user", "add", "bob", text="correct horse\n")
    assert unseen.returncode == 1 and "--password-stdin" in unseen.stderr and unseen.stderr.count("\n") == 1
    short = cli(tmp_path, "user", "add", "bob", "--password-stdin", text="short\n")
    assert (short.returncode, "8 characters" in short.stderr) == (1, True)
    [(name, role, hashed)] = rows(path, "SELECT username, role, password_hash FROM users")
    assert (name, role) == ("ann", "admin")
    assert hashed.startswith("scrypt:")
    assert check_password_hash(hashed, "correct horse")
    assert rows(path, "SELECT actor LIKE 'cli:_%' FROM changelog WHERE tbl='users'") == [1]
    assert rows(path, "SELECT password_hash FROM changelog_of_users WHERE op='I'") == ["***"]


def test_a_new_password_replaces_the_old_one_and_a_taken_over_user_has_none_until_then(tmp_path):
    path = str(tmp_path / "farm.db")
    cli(tmp_path, "user", "add", "ann", "--password-stdin", text="correct horse\n")
    shell(path, "INSERT INTO users(username) VALUES('old')")
    assert "no password yet" in cli(tmp_path, "user", "list").stdout
    assert cli(tmp_path, "user", "password", "old", "--password-stdin", text="battery staple\n").returncode == 0
    [hashed] = rows(path, "SELECT password_hash FROM users WHERE username='old'")
    assert check_password_hash(hashed, "battery staple")
    listed = json.loads(cli(tmp_path, "user", "list", "--json").stdout)
    assert [(row["username"], row["has_password"]) for row in listed] == [("ann", True), ("old", True)]
    assert cli(tmp_path, "user", "password", "nobody", "--password-stdin", text="battery staple\n").returncode == 1


def test_a_user_in_a_database_without_the_farm_is_refused_in_one_line(tmp_path):
    shell(str(tmp_path / "farm.db"), "CREATE TABLE t(a)")
    refused = cli(tmp_path, "user", "add", "ann", "--password-stdin", text="correct horse\n")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "no farm tables" in refused.stderr


def test_users_get_another_role_are_deactivated_activated_and_removed(tmp_path):
    path = str(tmp_path / "farm.db")
    for name, role in (("ann", "admin"), ("bob", "user")):
        cli(tmp_path, "user", "add", name, "--role", role, "--password-stdin", text="correct horse\n")
    assert cli(tmp_path, "user", "deactivate", "bob").returncode == 0
    assert "inactive" in cli(tmp_path, "user", "list").stdout
    assert cli(tmp_path, "user", "activate", "bob").returncode == 0
    assert cli(tmp_path, "user", "role", "bob", "admin").returncode == 0
    assert rows(path, "SELECT username, role, is_active FROM users ORDER BY 1") == [("ann", "admin", 1), ("bob", "admin", 1)]
    assert cli(tmp_path, "user", "remove", "bob").returncode == 2, "nothing destructive without --yes"
    assert cli(tmp_path, "user", "remove", "bob", "--yes").returncode == 0
    assert rows(path, "SELECT username FROM users") == ["ann"]
    for verb in (("role", "bob", "user"), ("deactivate", "bob"), ("activate", "bob"), ("remove", "bob", "--yes")):
        missing = cli(tmp_path, "user", *verb)
        assert (missing.returncode, "no user bob" in missing.stderr, missing.stderr.count("\n")) == (1, True, 1), verb
    assert rows(path, "SELECT count(*) FROM changelog WHERE tbl='users' AND actor NOT LIKE 'cli:_%'") == [0]


def test_the_last_active_admin_stays(tmp_path):
    path = str(tmp_path / "farm.db")
    for name in ("ann", "bob"):
        cli(tmp_path, "user", "add", name, "--role", "admin", "--password-stdin", text="correct horse\n")
    assert cli(tmp_path, "user", "deactivate", "bob").returncode == 0
    for verb in (("role", "ann", "user"), ("deactivate", "ann"), ("remove", "ann", "--yes")):
        refused = cli(tmp_path, "user", *verb)
        assert (refused.returncode, "last active admin" in refused.stderr) == (1, True), verb
    assert cli(tmp_path, "user", "remove", "bob", "--yes").returncode == 0, "who is inactive is not the last one"
    assert rows(path, "SELECT username, role, is_active FROM users") == [("ann", "admin", 1)]
    cli(tmp_path, "user", "add", "bob", "--role", "admin", "--password-stdin", text="correct horse\n")
    shell(path, "UPDATE users SET is_active='false' WHERE username='ann'")
    assert cli(tmp_path, "user", "deactivate", "bob").returncode == 1, "a word is no yes: ann may not sign in"


def test_an_office_may_what_a_replica_and_a_writer_may_and_no_more(client, keys):
    office = keys.add("desk", "office")
    assert client.get("/replicas", headers={"X-API-Key": office}).text == "desk"
    assert keys.still_admits(office, "replica") and keys.still_admits(office, "writer")
    assert not keys.still_admits(office, "device", "metrics")
    assert not keys.still_admits(keys.add("copy", "replica"), "office", "writer")
