"""Who guesses passwords waits, by address and by name; who has signed in from an address is not shut out there by others."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clock import Clock
from flask import Flask
from flask.testing import FlaskClient
from office_farm import PASSWORD, make_replica

from changelog.errors import TooMany
from changelog.node import access
from changelog.node.settings import Settings
from server import lockout, login
from server.app import create_app
from server.lockout import BURST, PER_SECOND, Failures
from server.replica import Replica
from server.state import SyncState
from server.store import Store


@pytest.fixture
def failures(clock: Clock) -> Failures:
    return Failures(clock)


def wait(failures: Failures, name: str, address: str) -> int:
    """How many seconds this login has to wait."""
    try:
        failures.check(name, address)
    except TooMany as exc:
        assert f"wait {exc.facts['retry_after']} s" in exc.message
        return int(str(exc.facts["retry_after"]))
    return 0


def test_an_address_that_guesses_many_names_waits_and_then_may_try_again(failures: Failures, clock: Clock) -> None:
    for number in range(BURST):
        assert wait(failures, f"user{number}", "a") == 0
        failures.failed(f"user{number}", "a")
    assert wait(failures, "other", "a") == 0, "so many are free"
    failures.failed("other", "a")
    seconds = wait(failures, "any", "a")
    assert 0 < seconds <= 1 / PER_SECOND
    assert wait(failures, "any", "b") == 0
    clock.now += seconds - 0.5
    assert wait(failures, "any", "a") == 1
    clock.now += 0.5
    assert wait(failures, "any", "a") == 0


def test_a_name_that_is_guessed_from_many_addresses_waits(failures: Failures) -> None:
    for number in range(BURST + 1):
        assert wait(failures, "maria", f"10.0.0.{number}") == 0
        failures.failed("maria", f"10.0.0.{number}")
    with pytest.raises(TooMany, match="for this user name"):
        failures.check("maria", "10.9.9.9")
    assert wait(failures, "jose", "10.9.9.9") == 0


def test_who_signed_in_from_an_address_is_not_shut_out_there_by_others(failures: Failures, clock: Clock) -> None:
    failures.succeeded("maria", "office")
    for number in range(1_000):
        failures.failed("maria", f"10.0.{number // 256}.{number % 256}")
        failures.failed("somebody", "office")
        clock.now += 0.01
    assert wait(failures, "maria", "elsewhere") > 0
    assert wait(failures, "somebody", "office") > 0
    assert wait(failures, "maria", "office") == 0


def test_even_from_a_good_address_guessing_one_name_is_slowed_down_but_never_for_long(failures: Failures, clock: Clock) -> None:
    failures.succeeded("maria", "office")
    for _ in range(200):
        failures.failed("maria", "office")
    assert 0 < wait(failures, "maria", "office") <= 1 / PER_SECOND
    clock.now += 1 / PER_SECOND
    assert wait(failures, "maria", "office") == 0
    assert wait(failures, "jose", "office") == 0, "her mistakes are not his"


def test_memory_is_bounded_however_many_names_and_addresses_come(failures: Failures, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockout, "KNOWN", 50)
    monkeypatch.setattr(access, "CALLERS_REMEMBERED", 100)
    for number in range(500):
        failures.succeeded(f"user{number}", "a")
        for _ in range(BURST + 2):
            failures.failed("x" * 10_000 + str(number), f"address {number}")
        clock.now += 1
    assert len(failures._good) == 50
    assert len(failures._limit._buckets) <= 100
    assert len(failures._closed) <= 2 / PER_SECOND + 2
    assert wait(failures, "user499", "a") == 0


# In the office


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Flask]:
    """An office without a Pi, with the users admin and user."""
    make_replica(tmp_path / "replica.db").close()
    monkeypatch.setattr(login, "failures", Failures(clock))
    settings = Settings(data_dir=tmp_path, is_server_ui=False)
    replica, store = Replica(settings.replica_db), Store(settings.server_db)
    yield create_app(settings, replica, store, SyncState(settings.stale_after, "pages-only"), None)
    replica.release()
    store.close()


def at(office: Flask, address: str) -> FlaskClient:
    """Somebody at this address."""
    client = office.test_client()
    client.environ_base |= {"REMOTE_ADDR": address}
    return client


def sign_in(client: FlaskClient, name: str, password: str) -> Any:
    """What the login answers."""
    token = re.findall(r'name="csrf_token" value="([^"]+)"', client.get("/office/login").text)[0]
    return client.post("/office/login", data={"username": name, "password": password, "csrf_token": token})


def test_the_login_says_how_long_to_wait_and_keeps_the_name_and_a_right_password_opens_afterwards(office: Flask, clock: Clock) -> None:
    client = at(office, "192.0.2.7")
    for _ in range(BURST + 1):
        assert sign_in(client, "admin", "a guess").status_code == 401
    answer = sign_in(client, "admin", PASSWORD)
    assert answer.status_code == 429
    seconds = int(answer.headers["Retry-After"])
    assert f"Too many failed logins from this address: wait {seconds} s and try again." in html.unescape(answer.text)
    assert 'value="admin"' in answer.text
    clock.now += seconds
    assert sign_in(client, "admin", PASSWORD).status_code == 302


def test_an_attack_on_a_name_from_everywhere_leaves_its_owner_in(office: Flask) -> None:
    assert sign_in(at(office, "192.0.2.7"), "admin", PASSWORD).status_code == 302
    for number in range(BURST + 1):
        assert sign_in(at(office, f"198.51.100.{number}"), "admin", "a guess").status_code == 401
    assert sign_in(at(office, "198.51.100.200"), "admin", "a guess").status_code == 429
    assert sign_in(at(office, "192.0.2.7"), "admin", PASSWORD).status_code == 302
    assert sign_in(at(office, "198.51.100.200"), "user", PASSWORD).status_code == 302


def test_a_name_that_nobody_has_is_counted_alike(office: Flask) -> None:
    for number in range(BURST + 1):
        assert sign_in(at(office, f"198.51.100.{number}"), "nobody", "a guess").status_code == 401
    assert sign_in(at(office, "198.51.100.200"), "nobody", "a guess").status_code == 429
