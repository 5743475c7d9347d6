"""Forms when something is away or not allowed: a Pi that hangs, a key that may not write, passwords that change, users that come and go."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time

import pytest
from farm_processes import PASSWORD, USER, Farm, eventually, make_certificate
from office_forms import Desk, flashed, kill_pi, wrong

from changelog.connection import connect

OTHER_PASSWORD = "  another long password "


# The Pi is away


def test_a_form_outlives_a_pi_that_hangs_or_is_dead_and_is_written_once_when_it_is_back(farm: Farm) -> None:
    farm.start()
    farm.fill(3)
    farm.assert_identical()
    desk = Desk(farm)
    assert desk.form("/office/cattle/1/weight").send(weight="200").status_code == 303
    form = desk.form("/office/cattle/2/weight")
    pids = farm.pi.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    answer = form.send(weight="301", recorded_at="2024-01-15 10:30")
    took = time.monotonic() - began
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    assert (answer.status_code, took < 15) == (503, True)
    assert "It may be written or not: send it again, it is not written twice." in wrong(answer.text)
    form = form.again(answer)
    assert (form.values["weight"], form.values["recorded_at"]) == ("301", "2024-01-15 10:30")
    eventually(lambda: farm.pi.sql("SELECT count(*) FROM weight_records WHERE cattle_id=2") == "1")  # what had arrived when it hung
    kill_pi(farm)
    answer = form.send()
    assert answer.status_code == 503
    assert "Nothing was written." in wrong(answer.text)
    form = form.again(answer)
    assert form.values["weight"] == "301"
    farm.pi.start()
    assert form.send().status_code == 303
    assert farm.pi.sql("SELECT weight, recorded_at FROM weight_records WHERE cattle_id=2") == "301.0|2024-01-15T10:30:00"
    assert desk.get("/office/cattle/3/weight").status_code == 200, "a form is shown whatever the Pi does"


def test_a_change_that_does_not_come_back_in_time_is_announced(farm: Farm) -> None:
    farm.server.settings["DB_SYNC_INTERVAL"] = 1
    farm.start()
    farm.fill(1)
    farm.assert_identical()
    desk = Desk(farm)
    form = desk.form("/office/cattle/1/notes")
    holder = connect(farm.server.database)  # whoever holds the write lock keeps replay from committing, as a slow disk does
    try:
        holder.execute("BEGIN IMMEDIATE")
        answer = form.send(notes="late")
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    assert answer.status_code == 303
    assert "appears here as soon as it has" in flashed(desk)
    farm.assert_identical()


def test_a_pi_that_was_restarted_between_two_forms_is_no_matter(farm: Farm) -> None:
    farm.start()
    farm.fill(1)
    farm.assert_identical()
    desk = Desk(farm)
    for number in range(3):
        assert desk.form("/office/cattle/1/notes").send(notes=f"note {number}").status_code == 303
        form = desk.form("/office/cattle/1/weight")  # over the connection that the Pi closes now
        farm.pi.restart()
        assert form.send(weight="300").status_code == 303
    assert farm.pi.sql("SELECT count(*) FROM weight_records") == "3"


def test_a_stranger_at_the_pis_address_is_not_written_to(farm: Farm, tmp_path) -> None:
    farm.start()
    farm.fill(1)
    farm.assert_identical()
    desk = Desk(farm)
    make_certificate(tmp_path)
    shutil.copy(tmp_path / "pi-cert.pem", farm.server.data / "pi-cert.pem")  # what the Pi shows is another one than is trusted here now
    answer = desk.form("/office/cattle/1/notes").send(notes="secret")
    assert answer.status_code == 503
    assert "is not the one pinned" in wrong(answer.text)
    assert "Nothing was written." in wrong(answer.text)


# Keys that may not write, and servers that do not follow


def test_with_a_replicas_key_the_office_only_reads_and_says_how_that_is_changed(farm: Farm) -> None:
    farm.server.settings["PI_API_KEY"] = farm.pi.command("key", "add", "copy", "--role", "replica").stdout.strip()
    farm.start()
    farm.fill(1)
    farm.assert_identical()
    desk = Desk(farm)
    form = desk.form("/office/cattle/1/notes")
    assert "key add NAME --role office" in form.text
    assert re.search(r"<fieldset\s+disabled", form.text)
    answer = form.send(notes="typed all the same")
    assert answer.status_code == 403
    assert form.again(answer).values["notes"] == "typed all the same"
    assert farm.pi.sql("SELECT count(*) FROM cattle WHERE notes IS NOT NULL") == "0"


def test_a_key_that_was_revoked_is_named_and_nothing_typed_is_lost(farm: Farm) -> None:
    farm.start()
    farm.fill(1)
    farm.assert_identical()
    desk = Desk(farm)
    form = desk.form("/office/cattle/1/notes")
    farm.pi.command("key", "revoke", "office")
    answer = form.send(notes="typed")
    assert answer.status_code == 401
    assert "does not know this server's key" in wrong(answer.text) + form.again(answer).text
    assert form.again(answer).values["notes"] == "typed"


def test_pages_only_shows_the_forms_closed_with_the_cause(farm: Farm) -> None:
    farm.start()
    farm.fill(1)
    farm.assert_identical()
    farm.server.stop()
    farm.server.settings["IS_SERVER_UI"] = "False"
    farm.server.start()
    form = Desk(farm).form("/office/cattle/1/notes")
    assert "IS_SERVER_UI=False" in form.text
    assert form.send(notes="x").status_code == 403


# Passwords


def test_a_new_password_ends_the_other_sessions_and_keeps_this_one(farm: Farm) -> None:
    farm.start()
    here, there = Desk(farm), Desk(farm)
    form = here.form("/office/account/password")
    for typed, field in (
        ({"old": "wrong", "new": OTHER_PASSWORD, "again": OTHER_PASSWORD}, "old"),
        ({"old": PASSWORD, "new": "short", "again": "short"}, "new"),
        ({"old": PASSWORD, "new": OTHER_PASSWORD, "again": OTHER_PASSWORD.strip()}, "again"),
    ):
        answer = form.send(**typed)
        assert answer.status_code == 400
        wrong(answer.text, field)
        assert OTHER_PASSWORD.strip() not in answer.text and PASSWORD not in answer.text
    answer = form.send(old=PASSWORD, new=OTHER_PASSWORD, again=OTHER_PASSWORD)
    assert answer.status_code == 303, answer.text
    assert "Your password was changed." in flashed(here)
    assert here.get("/office/pens").status_code == 200
    assert there.get("/office/pens").status_code == 302
    with pytest.raises(AssertionError):
        Desk(farm)
    Desk(farm, password=OTHER_PASSWORD)
    assert farm.pi.sql("SELECT actor FROM changelog WHERE tbl='users' AND op='U'") == f"office:{USER}"
    for role in farm.roles:
        assert OTHER_PASSWORD.strip() not in role.log
    farm.pi.command("user", "password", USER, "--password-stdin", typed=f"{PASSWORD}\n")
    farm.assert_identical()
    assert here.get("/office/pens").status_code == 302, "a password of the Pi's own ends this session too"


def test_a_password_that_is_unchanged_on_the_pi_only_is_not_overwritten(farm: Farm) -> None:
    farm.start()
    desk = Desk(farm)
    form = desk.form("/office/account/password")
    holder = connect(farm.server.database)
    holder.execute("BEGIN IMMEDIATE")
    try:
        farm.pi.command("user", "password", USER, "--password-stdin", typed="set on the Pi\n")
        answer = form.send(old=PASSWORD, new=OTHER_PASSWORD, again=OTHER_PASSWORD)
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    assert (answer.status_code, "was changed meanwhile" in wrong(answer.text)) == (409, True)


# Users


def test_an_admin_makes_a_user_who_signs_in_and_is_ended_again(farm: Farm) -> None:
    farm.start()
    boss = Desk(farm)
    assert boss.form("/office/users/new").send(username="ann/o", role="user", new="short", again="short").status_code == 400
    answer = boss.form("/office/users/new").send(username="ann/o", role="user", new=OTHER_PASSWORD, again=OTHER_PASSWORD)
    assert answer.status_code == 303
    assert "User ann/o was made." in flashed(boss, "/office/users")
    ann = Desk(farm, "ann/o", OTHER_PASSWORD)
    for path in ("/office/users", "/office/users/new", "/office/users/1/edit"):
        assert ann.get(path).status_code == 403
    assert "/office/users" not in ann.get("/office/pens").text
    number = int(farm.pi.sql("SELECT id FROM users WHERE username='ann/o'"))
    assert f'href="/office/users/{number}/password"' in boss.get("/office/users").text
    assert ann.get("/office/users/1/password").status_code == 403
    assert boss.get("/office/users/1/password").status_code == 403, "one's own is changed with the old one"
    assert boss.form(f"/office/users/{number}/password").send(new=OTHER_PASSWORD, again=PASSWORD).status_code == 400
    forgotten = boss.form(f"/office/users/{number}/password")
    assert forgotten.send(new="another of theirs", again="another of theirs").status_code == 303
    assert "ann/o has a new password" in flashed(boss, "/office/users")
    assert ann.get("/office/pens").status_code == 302, "the session of before has ended"
    ann = Desk(farm, "ann/o", "another of theirs")
    assert boss.form(f"/office/users/{number}/edit").send(is_active="0").status_code == 303
    assert ann.get("/office/pens").status_code == 302
    assert re.search(r"ann/o</a></th>.*?May sign in\">no<", boss.get("/office/users").text, re.DOTALL)
    answer = boss.form("/office/users/1/edit").send(role="user")
    assert answer.status_code == 409
    assert "last active admin" in wrong(answer.text)
