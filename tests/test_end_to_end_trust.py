"""Who may ask, and whom the server believes: keys, certificates, settings that do not fit each other."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import pytest
import requests
from attacker import attacking
from farm_processes import Farm, eventually, free_port, make_certificate

_HEAD, _BODY = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "none"}, {"sub": "admin"}))
FORGED_JWT = f"{_HEAD}.{_BODY}."
SYNC = [f"/api/sync/{name}" for name in ("changes", "full-export", "schema", "digest")]
GUARDED = [*SYNC, "/api/lora/buffer-status", "/api/lora/payloads"]
REFUSED = (401, 429)  # the latter to those who try many keys a second


def last_error(farm: Farm) -> str:
    """What the status says is wrong, as soon as something is."""
    return eventually(lambda: farm.status()["last_error"])


def test_a_wrong_key_is_named_as_the_cause_in_status_log_and_page_and_the_rows_stay(farm: Farm) -> None:
    farm.fill(3)
    farm.start()
    browser = farm.login()
    farm.server.stop()
    farm.server.settings["PI_API_KEY"] = "hxb_" + "x" * 43
    farm.server.start()
    error = last_error(farm)
    assert f"localhost:{farm.pi.settings['PI_PORT']}" in error and "key" in error and "401" in error
    status = farm.status()
    assert status["state"] == "refused" and status["failed_syncs"] >= 1 and status["running"]
    assert "BATCH001" in farm.page(browser)
    assert "401" in farm.page(browser, "/office/replication")
    assert farm.server.log.count("Database sync failed") == 1 and "xxxx" not in farm.server.log
    farm.server.stop()
    farm.server.settings["PI_API_KEY"] = farm.api_key
    farm.server.start()
    farm.assert_identical()


def test_a_key_that_is_revoked_while_the_server_runs_ends_its_access_at_once(farm: Farm) -> None:
    farm.start()
    assert farm.pi.command("key", "revoke", "office").returncode == 0
    assert "401" in last_error(farm)
    key = farm.pi.command("key", "add", "office", "--role", "replica").stdout.strip()
    farm.server.stop()
    farm.server.settings["PI_API_KEY"] = key
    farm.server.start()
    farm.assert_identical()


def test_a_pi_without_any_key_refuses_every_key(farm: Farm) -> None:
    assert farm.pi.command("key", "revoke", "office").returncode == 0
    farm.pi.start()
    for path in GUARDED:
        for key in (None, "", "x", "hxb_", farm.api_key, "null", "None"):
            answer = farm.ask("GET", path, key)
            assert answer.status_code in REFUSED, f"{path} {key!r} {answer.text}"
            assert answer.json()["success"] is False and "data" not in answer.json()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "wrong"},
        {"X-API-Key": "' OR 1=1 --"},
        {"Authorization": f"Bearer {FORGED_JWT}"},
        {"Authorization": "Basic YWRtaW46YWRtaW4="},
        {"Cookie": "drover=eyJ1c2VyIjoxfQ.aaaa.bbbb"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Replica-Id": "office"},
    ],
    ids=lambda headers: " ".join(headers) or "nothing",
)
def test_absent_and_forged_credentials_open_nothing_on_the_pi(running_farm: Farm, headers: dict[str, str]) -> None:
    for path in GUARDED:
        answer = running_farm.ask("GET", path, headers=headers)
        assert answer.status_code in (REFUSED if "X-API-Key" in headers else (401,)), path


def test_no_credential_that_is_absent_or_forged_opens_the_office(farm: Farm) -> None:
    farm.server.settings["TRUST_LOOPBACK"] = False
    farm.pi.start()
    farm.server.start()
    url = farm.server.url
    forged = ({}, {"Authorization": f"Bearer {FORGED_JWT}"}, {"Authorization": "Bearer "}, {"Cookie": "drover=eyJ1c2VyIjoxfQ.aaaa.bbbb"})
    for headers in forged:
        assert requests.get(f"{url}/office/api/sync-status", headers=headers, timeout=10).status_code == 401, headers
        page = eventually(lambda headers=headers: _page_or_login(f"{url}/office/batches", headers))
        assert page == 302, headers
    token = farm.server.command("token", "add", "monitor").stdout.strip()
    answer = requests.get(f"{url}/office/api/sync-status", headers={"Authorization": f"Bearer {token}"}, timeout=10)
    assert answer.status_code == 200 and answer.json()["data"]["running"] is True


def _page_or_login(url: str, headers: dict[str, str]) -> int | None:
    """The status of the page once the replica is there: 503 is before that."""
    status = requests.get(url, headers=headers, allow_redirects=False, timeout=10).status_code
    return None if status == 503 else status


def test_loopback_needs_no_key_to_send_payloads_unless_that_is_switched_off(farm: Farm) -> None:
    farm.pi.settings["TRUST_LOOPBACK"] = False
    farm.pi.start()
    refused = farm.post("hxb:KEY:LF1:UHF1")
    assert refused.status_code == 401 and "device" in refused.json()["message"] and "LORA_OPEN_INGEST" in refused.json()["message"]
    device = farm.pi.command("key", "add", "gate", "--role", "device").stdout.strip()
    assert farm.ask("POST", "/api/lora/receive", device, json={"payload": "hxb:KEY:LF1:UHF1"}).status_code == 201
    assert farm.ask("GET", "/api/sync/changes", device).status_code == 403
    assert farm.pi.sql("SELECT DISTINCT actor FROM changelog WHERE tbl='cattle'") == "api:gate"


def test_another_certificate_under_the_pis_address_is_refused_and_nothing_is_sent_to_it(farm: Farm, tmp_path: Path) -> None:
    farm.fill(3)
    farm.start()
    browser = farm.login()
    farm.pi.stop()
    with attacking(farm, tmp_path) as attacker:
        eventually(lambda: "certificate" in (farm.status()["last_error"] or ""))
        eventually(lambda: attacker.broken_off >= 2)
        error = farm.status()["last_error"]
        assert f"localhost:{farm.pi.settings['PI_PORT']}" in error and "pi-cert.pem" in error and "nothing was sent" in error
        assert "BATCH001" in farm.page(browser)
    assert attacker.heard == b""
    farm.pi.start()
    farm.pi.sql("UPDATE cattle SET weight=5")
    farm.assert_identical()


def test_without_pinning_a_certificate_that_nobody_vouches_for_is_refused_too(farm: Farm, tmp_path: Path) -> None:
    farm.server.settings["USE_SELF_SIGNED_CERT"] = False
    with attacking(farm, tmp_path) as attacker:
        farm.server.start()
        assert "is not trusted" in last_error(farm)
        eventually(lambda: attacker.broken_off)
    assert attacker.heard == b""


def test_a_server_without_the_file_to_pin_says_so_in_one_line_and_ends(farm: Farm) -> None:
    (farm.server.data / "pi-cert.pem").unlink()
    farm.server.launch()
    assert farm.server.wait_for_exit() == 1
    (line,) = [line for line in farm.server.log.splitlines() if "[ERROR]" in line]
    assert "data/pi-cert.pem cannot be read" in line and "copy it from the Pi" in line
    assert "Traceback" not in farm.server.log


def test_a_pin_that_is_no_certificate_says_so_in_one_line(farm: Farm) -> None:
    (farm.server.data / "pi-cert.pem").write_text("not a certificate\n")
    failed = farm.server.command("resync")
    assert failed.returncode == 1 and len(failed.stderr.splitlines()) == 1
    assert "pi-cert.pem cannot be read" in failed.stderr


def test_the_certificate_of_a_renewed_pi_is_trusted_when_it_is_carried_over(farm: Farm) -> None:
    make_certificate(farm.pi.data)
    shutil.copy(farm.pi.data / "pi-cert.pem", farm.server.data)
    farm.start()
    assert farm.status()["state"] == "following"


def test_a_server_that_speaks_tls_to_a_pi_without_says_which_setting_to_look_at(farm: Farm) -> None:
    farm.pi.settings["PI_TLS"] = False
    farm.pi.start()
    farm.server.start()
    error = last_error(farm)
    assert f"localhost:{farm.pi.settings['PI_PORT']}" in error and "USE_SSL_FOR_PI" in error


def test_a_server_that_speaks_plain_http_to_a_pi_with_tls_says_which_setting_to_look_at(farm: Farm) -> None:
    farm.server.settings["USE_SSL_FOR_PI"] = False
    farm.pi.start()
    farm.server.start()
    error = last_error(farm)
    assert f"localhost:{farm.pi.settings['PI_PORT']}" in error and "USE_SSL_FOR_PI" in error


def test_both_sides_without_tls_work_together(farm: Farm) -> None:
    farm.pi.settings["PI_TLS"] = farm.server.settings["USE_SSL_FOR_PI"] = False
    farm.start()
    assert farm.post("hxb:PLAIN:LF1:UHF1").status_code == 201
    farm.assert_identical()


def test_a_pi_that_nobody_listens_at_and_a_name_that_nobody_has_are_told_apart(farm: Farm) -> None:
    farm.server.settings |= {"REMOTE_PI_PORT": free_port()}
    farm.server.start()
    assert "refused" in last_error(farm)
    farm.server.stop()
    farm.server.settings |= {"REMOTE_PI_HOST": "no-such-pi.invalid"}
    farm.server.start()
    error = last_error(farm)
    assert "no-such-pi.invalid" in error and "refused" not in error


def test_no_key_stands_in_any_log(running_farm: Farm) -> None:
    running_farm.ask("GET", "/api/sync/changes", "hxb_" + "w" * 43)
    for role in running_farm.roles:
        text = role.log + "".join(path.read_text() for path in (role.data / "log").iterdir())
        assert text and running_farm.api_key not in text and "wwww" not in text
