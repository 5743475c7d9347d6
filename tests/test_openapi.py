"""The descriptions of both APIs: they name every route, method, role and range that the code has, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from farm_processes import Farm, make_certificate
from office_pages import ELSEWHERE, Office

import pi.openapi
import server.openapi
from changelog.acks import Acks
from changelog.connection import connect
from changelog.errors import NotFound
from changelog.node.problems import PROBLEM
from changelog.node.settings import Settings
from changelog.primary import Primary
from pi import farm as farm_file
from pi.app import create_app
from pi.herd.rows import LARGEST_ID, PENS, read_row
from pi.keys import ROLES, Keys
from pi.measures import Measures
from pi.writer import Writer

ROOT = Path(__file__).parent.parent
METHODS = {"get", "post", "patch", "put", "delete"}
AUTOMATIC = {"HEAD", "OPTIONS"}  # of Flask, for each route
PROGRAMS = ("/api/", "/office/api/", "/metrics", "/livez", "/readyz")  # where programs ask; the rest of the office are pages


class Pi:
    """The application of a Pi, in this process."""

    def __init__(self, folder: Path) -> None:
        settings = Settings(data_dir=folder, trust_loopback=True)
        farm_file.open_farm(settings.farm_db)
        make_certificate(folder)
        self.writer = Writer(settings.farm_db, 5)
        self.writer.start()
        self.parts = (Primary(settings.farm_db), Keys(settings.pi_db), Acks(settings.pi_db))
        primary, keys, acks = self.parts
        self.app = create_app(settings, self.writer, primary, keys, acks, measures=Measures())
        self.keys = {role: keys.add(role, role) for role in ROLES}

    def close(self) -> None:
        self.writer.stop()
        for part in self.parts:
            part.close()


@pytest.fixture(scope="module")
def the_pi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pi]:
    made = Pi(tmp_path_factory.mktemp("pi"))
    yield made
    made.close()


@pytest.fixture(params=["pi", "server"])
def role(request: pytest.FixtureRequest, the_pi: Pi) -> tuple[Any, dict[str, Any]]:
    """An application and its description."""
    if request.param == "pi":
        return the_pi.app, pi.openapi.described()
    return request.getfixturevalue("office").app, server.openapi.described()


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert method in METHODS, method
            yield method.upper(), path, operation


def routes(app: Any) -> set[tuple[str, str]]:
    """(method, path as OpenAPI writes it) of all that programs ask for."""
    return {
        (method, re.sub(r"<(?:[^:>]+:)?([^>]+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith(PROGRAMS)
        for method in rule.methods - AUTOMATIC
    }


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for each in node:
            yield from references(each)


def test_every_route_for_programs_is_described_and_nothing_else(role: tuple[Any, dict[str, Any]]) -> None:
    app, described = role
    assert {(method, path) for method, path, _ in operations(described)} == routes(app)


def test_the_documents_that_are_committed_are_fresh() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts/describe_api.py", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}: run scripts/describe_api.py"


def test_a_description_is_whole(role: tuple[Any, dict[str, Any]]) -> None:
    """Every reference leads somewhere, every operation has a name of its own and words, every parameter of a path is there."""
    _, described = role
    for found in references(described):
        place: Any = described
        for part in found.removeprefix("#/").split("/"):
            place = place[part]
    names = [operation["operationId"] for _, _, operation in operations(described)]
    assert len(names) == len(set(names)) > 5
    for _, path, operation in operations(described):
        assert operation["summary"] and operation["responses"]
        named = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path)), path


def test_every_error_is_described_as_a_problem_document(role: tuple[Any, dict[str, Any]]) -> None:
    _, described = role
    for method, path, operation in operations(described):
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert response == {"$ref": f"#/components/responses/Problem{status}"}, (method, path)
    for response in described["components"]["responses"].values():
        assert list(response["content"]) == [PROBLEM] and response["description"]


def test_the_description_is_served_to_anybody(the_pi: Pi, office: Office) -> None:
    for app, path, described in (
        (the_pi.app, pi.openapi.PATH, pi.openapi.described()),
        (office.app, server.openapi.PATH, server.openapi.described()),
    ):
        client = app.test_client()
        client.environ_base |= ELSEWHERE
        answer = client.get(path)
        assert answer.status_code == 200 and answer.json == described


def test_each_operation_opens_for_the_roles_that_are_described_and_for_no_other(the_pi: Pi) -> None:
    client, asked = the_pi.app.test_client(), 0
    client.environ_base |= ELSEWHERE
    for method, path, operation in operations(pi.openapi.described()):
        allowed = {role for each in operation["security"] for role in each.get("key", ())}
        address = re.sub(r"{\w+_id}", "0", path).replace("{name}", "nobody")
        if not operation["security"]:
            assert client.open(address, method=method).status_code < 400 or path == "/api/pair", path  # which needs a code
            continue
        assert client.open(address, method=method).status_code == 401, path
        assert client.open(address, method=method, headers={"X-API-Key": "wrong"}).status_code in (401, 429), path
        refused = {role for role, key in the_pi.keys.items() if refuses(client, method, address, key)}
        assert refused == set(ROLES) - allowed, (method, path)
        asked += 1
    assert asked > 25


def refuses(client: Any, method: str, address: str, key: str) -> bool:
    """Whether a key of this role does not open it; with no body, and with no person whom it names, no write comes further."""
    answer = client.open(address, method=method, headers={"X-API-Key": key}, json={} if method in ("POST", "PATCH") else None)
    return answer.status_code == 403 and "has the role" in answer.json["message"]


def test_what_is_open_on_the_office_is_what_is_described_as_open(office: Office) -> None:
    client, kept = office.client(None), 0
    for method, path, operation in operations(server.openapi.described()):
        status = client.open(path, method=method).status_code
        assert (status == 401) == bool(operation["security"]), (method, path, status)
        kept += bool(operation["security"])
    assert kept == 5


@pytest.mark.parametrize("outside", [-1, 1])
def test_a_number_in_an_address_is_taken_at_both_ends_of_its_range_and_not_beyond(the_pi: Pi, outside: int) -> None:
    """What JSON schema calls minimum and maximum is what the code enforces."""
    client, seen = the_pi.app.test_client(), 0
    for method, path, operation in operations(pi.openapi.described()):
        for parameter in operation.get("parameters", ()):
            schema = parameter["schema"]
            if parameter["in"] != "query" or schema.get("type") != "integer":
                continue
            end = schema["minimum"] if outside < 0 else schema["maximum"]
            asked = {"ranges": 1} if path.endswith("/digest") else {}
            asked |= {"epoch": "0" * 32, "check": 0} if parameter["name"] == "check" else {}

            def status(value: int, name: str = parameter["name"], path: str = path, asked: dict[str, Any] = asked) -> int:
                return client.get(path, query_string=asked | {name: value}, headers={"X-API-Key": the_pi.keys["replica"]}).status_code

            assert method == "GET" and status(end) != 400, (path, parameter["name"])
            assert status(end + outside) == 400, (path, parameter["name"])
            seen += 1
    assert seen >= 10


@pytest.mark.parametrize(
    ("address", "headers", "said"),
    [
        ("changes?check=7", {}, "epoch and check go together"),
        ("changes?epoch=" + "0" * 32, {}, "epoch and check go together"),
        ("changes?upto_check=x", {}, "upto_check must be a whole number"),
        ("changes", {"X-Replica-Id": "r" * 65}, "X-Replica-Id may have 64 characters"),
        ("full-export", {"X-Replica-Id": "r" * 65}, "X-Replica-Id may have 64 characters"),
        ("digest?log_from=-1", {}, "log_from must be a whole number"),
    ],
)
def test_what_would_be_left_out_of_account_is_refused(the_pi: Pi, address: str, headers: dict[str, str], said: str) -> None:
    """Once these were taken for requests without it, and of two replicas with long names one was made."""
    answer = the_pi.app.test_client().get(f"/api/sync/{address}", headers={"X-API-Key": the_pi.keys["replica"], **headers})
    assert answer.status_code == 400 and answer.json["message"].startswith(said)


@pytest.mark.parametrize("wrong", [{"schema": None}, {"schema": 7}, {"log_from": 2**63}, {"log_from": "0"}, {"parts": 0}])
def test_a_question_of_a_verify_is_looked_at_before_it_is_answered(the_pi: Pi, wrong: dict[str, Any]) -> None:
    asked = {"schema": "another", "log_from": 0, "parts": 1, "ranges": []}
    headers = {"X-API-Key": the_pi.keys["replica"]}
    assert the_pi.app.test_client().post("/api/sync/digest", json=asked, headers=headers).json["ranges"] is None
    answer = the_pi.app.test_client().post("/api/sync/digest", json=asked | wrong, headers=headers)
    assert answer.status_code == 400 and next(iter(wrong)) in answer.json["message"]


@pytest.mark.parametrize("path", ["/api/nothing", "/api/sync", "/api/pens/x", "/nothing"])
def test_a_path_that_is_not_there_is_told_so_with_where_to_look(the_pi: Pi, path: str) -> None:
    answer = the_pi.app.test_client().get(path)
    assert (answer.status_code, answer.mimetype) == (404, PROBLEM)
    assert answer.json["message"] == f"There is no {path} here: /api/openapi.json describes what there is"


def test_another_method_is_answered_405_with_those_that_there_are(role: tuple[Any, dict[str, Any]]) -> None:
    """Before anybody is asked for a key or for the token of a form."""
    app, described = role
    client = app.test_client()
    client.environ_base |= ELSEWHERE
    for path, methods in described["paths"].items():
        address = re.sub(r"{\w+}", "1", path)
        for method in METHODS - set(methods):
            answer = client.open(address, method=method.upper())
            assert (answer.status_code, answer.mimetype) == (405, PROBLEM), (method, path)
            given = {each.strip() for each in answer.headers["Allow"].split(",")}
            assert given - AUTOMATIC == {each.upper() for each in methods}
            assert answer.json["message"].startswith(f"{address} takes ") and answer.json["message"].endswith(f"not {method.upper()}")


def test_options_are_told_to_anybody_and_head_is_answered_as_get_is(role: tuple[Any, dict[str, Any]], the_pi: Pi) -> None:
    app, described = role
    client, stranger = app.test_client(), app.test_client()
    stranger.environ_base |= ELSEWHERE
    for method, path, operation in operations(described):
        address = re.sub(r"{\w+}", "1", path)
        options = stranger.options(address)
        assert options.status_code == 200 and method in options.headers["Allow"] and "Content-Type" not in options.headers
        roles = [role for each in operation["security"] for role in each.get("key", ())]
        headers = {"X-API-Key": the_pi.keys[roles[0]]} if roles else {}
        if method == "GET":
            got, head = client.get(address, headers=headers), client.head(address, headers=headers)
            assert (head.status_code, head.mimetype, head.data) == (got.status_code, got.mimetype, b""), path
            assert got.mimetype in operation["responses"][str(got.status_code)].get("content", {got.mimetype: 0})


def test_an_id_that_no_table_can_hold_is_not_found_whatever_the_method(the_pi: Pi) -> None:
    """Once DELETE was answered 405: the route for PATCH had refused the number first."""
    db = connect(the_pi.parts[0].path, readonly=True)
    for row_id in (LARGEST_ID, LARGEST_ID + 1, 10**30):
        with pytest.raises(NotFound, match="there is no pen with"):
            read_row(db, PENS, row_id)
    db.close()
    rules = the_pi.app.url_map.bind("pi")
    assert {rules.match(f"/api/pens/{10**30}", method=method)[1]["pen_id"] for method in ("PATCH", "DELETE")} == {10**30}


def test_what_a_resync_is_asked_must_be_known(office: Office) -> None:
    """Once `wait=true` was taken for no wish to wait."""
    client = office.app.test_client()
    for path in ("resync?wait=true", "resync?from=usb", "resync?from=bucket&force=yes", "verify?repair=on"):
        answer = client.post(f"/office/api/{path}")
        assert answer.status_code == 400 and "must be" in answer.json["message"], path
    assert office.sync.reasons == office.sync.jobs == []


def test_a_comparison_while_the_pi_is_away_is_no_fault_of_the_server(farm: Farm) -> None:
    """Once it was a 500."""
    farm.start()
    farm.pi.stop()
    answer = farm_answer(farm, "verify")
    assert (answer.status_code, answer.headers["Content-Type"]) == (503, PROBLEM)
    assert int(answer.headers["Retry-After"]) > 0 and "cannot be reached" in answer.json()["message"]
    assert farm_answer(farm, "resync?wait=1").status_code == 503


def farm_answer(farm: Farm, path: str) -> Any:
    import requests

    return requests.post(f"{farm.server.url}/office/api/{path}", timeout=60)
