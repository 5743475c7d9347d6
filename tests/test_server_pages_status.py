"""The status API, the button that asks for a resync, and what is told to those who watch over the server."""

from __future__ import annotations

from pathlib import Path

import pytest
from office_farm import make_replica
from office_pages import Office, ToldToResync, make_office, numbers, token_in

pytestmark = pytest.mark.usefixtures("patience")

# The status API


FIELDS = ["running", "sync_interval", "last_sync_time", "total_syncs", "successful_syncs", "failed_syncs", "total_records_synced"]
FIELDS += ["state", "source", "bucket_at", "epoch", "seq", "head", "lag_changes", "lag_seconds", "push"]
FIELDS += ["last_error", "alarm", "verifying", "last_verify", "last_verify_at", "last_verify_ok"]


def test_the_status_has_the_fields_of_the_document_first(office: Office) -> None:
    office.store.record_sync("pull", "ok", rows=3)
    office.state.position("e" * 32, 41)
    office.state.following(43)
    body = office.client().get("/office/api/sync-status").json
    assert body["success"] is True
    assert list(body["data"]) == FIELDS
    data = body["data"]
    assert (data["running"], data["sync_interval"], data["total_syncs"], data["total_records_synced"]) == (True, 10, 1, 3)
    assert (data["state"], data["seq"], data["head"], data["lag_changes"]) == ("following", 41, 43, 2)


def test_the_status_needs_a_session_a_token_or_loopback(office: Office) -> None:
    stranger, token = office.client(None), office.store.add_token("curl")
    address = "/office/api/sync-status"
    answer = stranger.get(address)
    assert (answer.status_code, answer.mimetype, answer.json["success"]) == (401, "application/problem+json", False)
    assert stranger.get(address, headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert stranger.get(address, headers={"Authorization": "Bearer wrong"}).status_code == 401
    here = office.app.test_client()
    assert here.get(address).status_code == 200
    assert here.get(address, headers={"X-Forwarded-For": "192.0.2.7"}).status_code == 401


def test_loopback_can_be_distrusted(tmp_path: Path) -> None:
    make_replica(tmp_path / "replica.db").close()
    office = make_office(tmp_path, trust_loopback=False)
    assert office.app.test_client().get("/office/api/sync-status").status_code == 401


def test_the_status_answers_before_there_is_a_replica(tmp_path: Path) -> None:
    data = make_office(tmp_path).app.test_client().get("/office/api/sync-status").json["data"]
    assert (data["state"], data["seq"], data["running"]) == ("pages-only", None, False)


def test_pages_only_tells_the_position_of_the_file(tmp_path: Path) -> None:
    make_replica(tmp_path / "replica.db").close()
    assert make_office(tmp_path).app.test_client().get("/office/api/sync-status").json["data"]["seq"] > 0


def test_a_resync_is_for_admins_tokens_and_loopback(office: Office) -> None:
    address, token = "/office/api/resync", office.store.add_token("ops")
    assert office.client(None).post(address).status_code == 401
    user, admin = office.client("user"), office.client("admin")
    assert user.post(address, headers={"X-CSRF-Token": token_in(user.get("/office/pens").text)}).status_code == 401
    assert admin.post(address).status_code == 403
    assert admin.post(address, headers={"X-CSRF-Token": token_in(admin.get("/office/pens").text)}).status_code == 202
    assert office.client(None).post(address, headers={"Authorization": f"Bearer {token}"}).status_code == 202
    here = office.app.test_client()
    assert here.post(address).status_code == 202
    assert here.post(address, headers={"Origin": "https://evil.example"}).status_code == 403
    assert len(office.sync.reasons) == 3


def test_the_resync_button_is_for_admins(office: Office) -> None:
    admin, user = office.client("admin"), office.client("user")
    assert "Fetch a fresh copy" not in user.get("/office/replication").text
    token = token_in(user.get("/office/replication").text)
    assert user.post("/office/replication/resync", data={"csrf_token": token}).status_code == 403
    token = token_in(admin.get("/office/replication").text)
    assert admin.post("/office/replication/resync", data={"csrf_token": token}).status_code == 302
    assert office.sync.reasons == ["asked for by admin"]
    assert "was asked for" in admin.get("/office/replication").text


def test_readyz_says_no_while_the_replica_is_far_behind(tmp_path: Path) -> None:
    office = make_office(tmp_path, ToldToResync())
    client = office.app.test_client()
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 503
    make_replica(tmp_path / "replica.db").close()
    assert client.get("/readyz").status_code == 503
    office.state.position("e" * 32, 5)
    office.state.following(5)
    assert client.get("/readyz").status_code == 200


def test_a_damaged_replica_is_an_error_page_and_never_an_empty_farm(office: Office) -> None:
    client = office.client()
    assert numbers(client.get("/office/batches").text)
    office.path.unlink()
    assert numbers(client.get("/office/batches").text), "old rows while the file is away"
    office.path.write_bytes(b"x" * 8192)
    assert numbers(client.get("/office/batches").text), "old rows while something else is in its place"
