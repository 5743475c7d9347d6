"""Users over the write API: one's own password, and what the admins of an office may do."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from farm_processes import USER, Farm
from werkzeug.security import generate_password_hash

HASH = generate_password_hash("another long password", method="scrypt")


@pytest.fixture
def pi(farm: Farm) -> Farm:
    """A Pi that serves, with the admin `boss`, and a server that does not run."""
    farm.pi.start()
    return farm


@pytest.fixture
def ask(pi):
    """(status, JSON) of a write by somebody at the office, or with another key."""

    def ask(method, path, body, actor=USER, key=None):
        headers = {"X-Actor": quote(actor, safe="")} if key is None else {}
        answer = pi.ask(method, f"/api/users{path}", key or pi.api_key, json=body, headers=headers)
        return answer.status_code, answer.json()

    return ask


def newest_actor(pi):
    return pi.pi.sql("SELECT actor FROM changelog WHERE tbl='users' ORDER BY seq DESC LIMIT 1")


def test_somebody_who_is_no_admin_changes_their_own_password_and_nobody_elses(pi, ask):
    writer = pi.pi.command("key", "add", "scale", "--role", "writer").stdout.strip()
    old = pi.pi.sql(f"SELECT password_hash FROM users WHERE username='{USER}'")
    body = {"password_hash": HASH, "expected": {"password_hash": old}}
    path = f"/{USER}/password"
    assert ask("POST", path, body, actor="somebody")[0] == 403
    assert ask("POST", path, body, key=pi.api_key)[0] == 403, "without a name"
    assert ask("POST", path, body, key=writer)[0] == 403
    status, answer = ask("POST", path, body)
    assert (status, answer["user"]["username"]) == (200, USER)
    assert HASH not in json.dumps(answer)
    assert pi.pi.sql(f"SELECT password_hash FROM users WHERE username='{USER}'") == HASH
    assert newest_actor(pi) == f"office:{USER}"
    status, answer = ask("POST", path, body)
    assert (status, old in json.dumps(answer), HASH in json.dumps(answer)) == (409, False, False)
    assert ask("POST", "/nobody/password", body, actor="nobody")[0] == 404


def test_an_admin_gives_somebody_a_new_password(pi, ask):
    assert ask("POST", "", {"username": "ida", "password_hash": HASH, "role": "user"})[0] == 201
    assert ask("POST", "", {"username": "bea", "password_hash": HASH, "role": "user"})[0] == 201
    body = {"password_hash": HASH.replace("$", "$x", 1)}
    for actor in ("bea", "nobody"):
        assert ask("POST", "/ida/password", body, actor=actor)[0] == 403
    status, answer = ask("POST", "/ida/password", body)
    assert (status, answer["user"]["username"], HASH[:9] in json.dumps(answer)) == (200, "ida", False)
    assert pi.pi.sql("SELECT password_hash FROM users WHERE username='ida'") == body["password_hash"]
    assert newest_actor(pi) == f"office:{USER}"
    assert ask("POST", "/nobody/password", body)[0] == 404


def test_a_password_or_another_hash_is_refused(pi, ask):
    wrong = ["plain password", "", None, 7, "!", "$2b$12$abcdefghijklmnopqrstuv", "pbkdf2:sha256:1000$abcdefgh$" + "0" * 64, HASH + "0"]
    wrong += [HASH.replace("32768", cost) for cost in ("1024", "33000", "1048576")] + [HASH.replace(":8:1", ":8:9")]
    for value in wrong:
        status, answer = ask("POST", f"/{USER}/password", {"password_hash": value})
        assert (status, answer.get("field")) == (400, "password_hash"), value


def test_an_admin_makes_users_and_says_what_they_may(pi, ask):
    status, made = ask("POST", "", {"username": "maría", "password_hash": HASH, "role": "user"})
    assert (status, made["user"]["username"], made["user"]["is_active"]) == (201, "maría", 1)
    assert "password_hash" not in made["user"]
    maria = made["user"]["id"]
    status, taken = ask("POST", "", {"username": "maría", "password_hash": HASH, "role": "user"})
    assert (status, taken["field"]) == (409, "username")
    status, changed = ask("PATCH", f"/{maria}", {"role": "admin", "is_active": 0, "expected": {"role": "user"}})
    assert (status, changed["user"]["role"], changed["user"]["is_active"]) == (200, "admin", 0)
    assert ask("PATCH", f"/{maria}", {"is_active": 1, "expected": {"is_active": 1}})[0] == 409
    for body in ({"role": "root"}, {"is_active": 2}, {"is_active": True}, {"password_hash": HASH}, {"username": "x"}, {}):
        assert ask("PATCH", f"/{maria}", body)[0] == 400, body
    for body in ({"username": "", "password_hash": HASH, "role": "user"}, {"username": "x", "role": "user"}):
        assert ask("POST", "", body)[0] == 400, body
    assert ask("PATCH", "/4711", {"role": "user"})[0] == 404
    assert newest_actor(pi) == f"office:{USER}"


def test_only_an_admin_of_the_pi_may_and_the_last_one_stays(pi, ask):
    new = {"username": "x", "password_hash": HASH, "role": "admin"}
    pi.pi.command("user", "add", "maria", "--password-stdin", typed="a long enough password\n")
    boss = int(pi.pi.sql(f"SELECT id FROM users WHERE username='{USER}'"))
    assert (
        ask("POST", "", new, actor="maria")[0] == ask("POST", "", new, actor="nobody")[0] == ask("POST", "", new, key=pi.api_key)[0] == 403
    )
    for change in ({"role": "user"}, {"is_active": 0}):
        status, answer = ask("PATCH", f"/{boss}", change)
        assert (status, "last active admin" in answer["message"]) == (409, True)
    pi.pi.command("user", "role", "maria", "admin")
    assert ask("PATCH", f"/{boss}", {"role": "user"}, actor="maria")[0] == 200
    assert ask("POST", "", new)[0] == 403, "who is no admin any more"


@pytest.mark.parametrize("name", ["a/b", "..", "/", "777", "o'hara?#%2F", "password"])
def test_a_password_is_changed_whatever_the_user_is_called(pi, ask, name):
    assert ask("POST", "", {"username": name, "password_hash": HASH, "role": "user"})[0] == 201
    other = HASH.replace("$", "$x", 1)
    assert ask("POST", "/password", {"username": name, "password_hash": other}, actor="somebody")[0] == 403
    status, answer = ask("POST", "/password", {"username": name, "password_hash": other})
    assert (status, answer["user"]["username"]) == (200, name)
    own = {"username": name, "password_hash": HASH, "expected": {"password_hash": other}}
    assert ask("POST", "/password", own, actor=name)[0] == 200
    assert ask("POST", "/password", own, actor=name)[0] == 409
    for wrong in ({}, {"username": 7}, {"username": ""}, {"username": None}):
        assert ask("POST", "/password", {"password_hash": HASH} | wrong)[0] == 400
    assert ask("POST", "/password", {"username": name})[0] == 400
