"""No secret of the farm stands anywhere but where it must: planted ones are looked for in all that both roles write, show and run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests
from farm_processes import PASSWORD, USER, Farm, eventually, shell
from listener import Listener, Refused
from office_forms import Desk

PAGES = ("", "batches", "cattle", "pens", "payloads", "changes", "replication", "users", "account", "pens/new", "users/new", "no-such-page")
SECRET_KEY = "canary-of-the-sessions-Zq7"
PASSWORD_OF_ANN = "canary password of ann"
WRONG_PASSWORD = "canary that opens nothing"
AWS_SECRET = "canary/of+the+bucket/Zq7"


class Canaries:
    """The secrets of a farm, by name."""

    def __init__(self) -> None:
        self.planted = {"password": PASSWORD, "session": SECRET_KEY, "of ann": PASSWORD_OF_ANN, "wrong": WRONG_PASSWORD, "aws": AWS_SECRET}

    def found_in(self, text: str | bytes) -> list[str]:
        """The names of those that stand in this text, whole or without their hyphens."""
        raw = text.encode(errors="surrogateescape") if isinstance(text, str) else text
        forms = {name: {secret, secret.replace("-", ""), secret.removeprefix("hxb_")} for name, secret in self.planted.items()}
        return [name for name, known in forms.items() if any(form.encode() in raw for form in known)]


@pytest.fixture
def planted(farm: Farm) -> Iterator[tuple[Farm, Canaries, Desk]]:
    """A farm at LOG_LEVEL=DEBUG that has met every secret of it in every place where a caller may put it."""
    canaries = Canaries()
    for role in farm.roles:
        role.settings |= {"LOG_LEVEL": "DEBUG", "AWS_SECRET_ACCESS_KEY": AWS_SECRET}
    farm.server.settings["SECRET_KEY"] = SECRET_KEY
    farm.start()
    for name, command in (("device", ("add", "gate", "--role", "device")), ("rotated", ("rotate", "office"))):
        canaries.planted[name] = farm.pi.command("key", *command).stdout.strip()
    canaries.planted |= {"first": farm.api_key, "token": farm.server.command("token", "add", "monitor").stdout.strip()}
    added = farm.pi.command("user", "add", "ann", "--password-stdin", typed=f"{PASSWORD_OF_ANN}\n")
    assert added.returncode == 0, added.stderr
    canaries.planted["used code"] = _pair(farm)
    canaries.planted["open code"] = json.loads(farm.pi.command("pair", "--name", "other", "--json").stdout)["code"]
    farm.server.settings["PI_API_KEY"] = canaries.planted["rotated"]
    farm.server.write_env()
    desk = Desk(farm)
    _put_them_everywhere(farm, canaries)
    yield farm, canaries, desk


def _pair(farm: Farm) -> str:
    """A server that gets a key by a code; the code."""
    begun = json.loads(farm.pi.command("pair", "--name", "desk", "--json").stdout)
    address = f"localhost:{farm.pi.settings['PI_PORT']}"
    paired = farm.server.command("pair", address, "--fingerprint", begun["fingerprint"], typed=begun["code"] + "\n")
    assert paired.returncode == 0 and begun["code"] not in paired.stdout + paired.stderr
    code: str = begun["code"]
    return code


def _put_them_everywhere(farm: Farm, canaries: Canaries) -> None:
    """In addresses, headers, bodies and forms, rightly and wrongly; and into a program that meets a fault nobody foresaw."""
    for secret in canaries.planted.values():
        parameters = {"api_key": secret, "key": secret, "q": secret}
        for path in ("/api/sync/changes", "/api/sync/health", "/socket.io/", "/metrics", "/no/such/path"):
            farm.ask("GET", path, params=parameters)
        farm.ask("GET", "/api/sync/schema", secret)
        farm.ask("POST", "/api/pair", json={"code": secret + "x", "password": secret})
        farm.ask("POST", "/api/lora/process", json={"password": secret}, headers={"Authorization": f"Bearer {secret}"})
        with suppress(Refused):
            Listener(farm.pi.url, farm.pi.data / "pi-cert.pem", secret).close()
        url = farm.server.url
        requests.get(f"{url}/office/api/sync-status", headers={"Authorization": f"Bearer {secret}"}, params=parameters, timeout=10)
        requests.post(f"{url}/office/login", data={"username": USER, "password": secret}, timeout=10)
    for name, password in ((USER, WRONG_PASSWORD), ("ann", WRONG_PASSWORD), ("ann", PASSWORD_OF_ANN)):
        with suppress(AssertionError):
            Desk(farm, name, password)
    eventually(lambda: farm.status()["push"])
    keys = farm.pi.data / "pi.db"
    shell(keys, "ALTER TABLE keys RENAME TO away")
    assert farm.ask("GET", "/api/sync/schema", farm.api_key).status_code == 500
    shell(keys, "ALTER TABLE away RENAME TO keys")
    eventually(lambda: farm.status()["state"] == "following", 20)


def test_no_planted_secret_is_found_anywhere(planted: tuple[Farm, Canaries, Desk]) -> None:
    farm, canaries, desk = planted
    looked: dict[str, str | bytes] = {}
    for role in farm.roles:
        assert "Traceback" in farm.pi.log and "[DEBUG]" in role.log, "there is something to look at"
        looked[f"stderr of {role.name}"] = role.log
        looked |= {str(path): path.read_bytes() for path in (role.data / "log").iterdir()}
        looked |= {f"command line of {pid}": Path(f"/proc/{pid}/cmdline").read_bytes() for pid in role.pids()}
        looked |= {str(path): path.read_bytes() for path in role.data.glob("*.db*")}
    for path in PAGES:
        looked[f"page {path}"] = desk.get(f"/office/{path}").text
    looked["the Pi's figures"] = farm.ask("GET", "/metrics", canaries.planted["rotated"]).text
    looked["the server's figures"] = desk.get("/metrics").text
    looked["status"] = json.dumps(farm.status())
    looked["the Pi's health"] = farm.ask("GET", "/api/sync/health").text
    looked["the log"] = farm.pi.sql("SELECT * FROM changelog") + farm.pi.sql("SELECT * FROM changelog_audit")
    for command in (("key", "list"), ("key", "list", "--json"), ("replica", "list"), ("cert", "status"), ("user", "list", "--json")):
        looked[" ".join(command)] = farm.pi.command(*command).stdout
    looked["the server's tokens"] = farm.server.command("token", "list", "--json").stdout
    assert len(looked) > 30 and all(looked[name] for name in looked if name.startswith(("page", "command", "stderr")))
    assert {name: found for name, text in looked.items() if (found := canaries.found_in(text))} == {}


def test_a_secret_that_is_written_down_would_be_found() -> None:
    canaries = Canaries()
    canaries.planted["code"] = "ABCD-EFGH-JKMN"
    assert canaries.found_in("... ABCDEFGHJKMN ...") == ["code"] and canaries.found_in(f"a {SECRET_KEY} b".encode()) == ["session"]
