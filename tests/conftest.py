"""What tests of several files share."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clock import Clock
from farm_processes import LOG_SHOWN, Farm, Seed
from office_farm import make_replica
from office_pages import Office, ToldToResync, make_office

from server import login

LONG = ("test_proofs_on_processes.py", "test_faults.py", "test_end_to_end_bucket.py", "test_model.py", "test_power.py")


@pytest.fixture(scope="session")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Seed:
    """A certificate, an API key and a farm.db with one user, made once."""
    return Seed(tmp_path_factory.mktemp("seed"))


@pytest.fixture
def farm(tmp_path: Path, seed: Seed) -> Iterator[Farm]:
    """A Pi and a server that nobody else uses, not started yet."""
    made = Farm(tmp_path, seed)
    try:
        yield made
    finally:
        made.close()
        gc.collect()  # see pytest_collection_modifyitems: here, not in somebody else's test


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test begins with a limit on logins that remembers nobody."""
    monkeypatch.setattr(login, "failures", login.Failures())


@pytest.fixture
def office(tmp_path: Path, patience: None) -> Office:
    """An office over a small replica."""
    make_replica(tmp_path / "replica.db").close()
    return make_office(tmp_path, ToldToResync())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium; skipped where there is none."""
    import office_browser  # playwright takes a second, and few tests have a use for it

    with office_browser.running_browser() as browser:
        yield browser


@pytest.fixture
def context(browser: Any, address: str, session: Any) -> Iterator[Any]:
    """A browser's window on the server at `address` for whoever `session` signed in; both are fixtures of the module."""
    from office_browser import DESK

    context = browser.new_context(base_url=address, viewport=DESK, storage_state=session, timezone_id="UTC", locale="en-US")
    yield context
    context.close()


@pytest.fixture
def page(context: Any, address: str) -> Iterator[Any]:
    """A page of which nothing bad may be heard: that the policy refuses a style is said on the console."""
    from office_browser import faults_of

    page = context.new_page()
    faults = faults_of(page, address)
    yield page
    assert faults == []


@pytest.fixture
def entered_by_all() -> Iterator[Path]:
    """An empty folder that every user may enter: pytest's own belong to whom it runs for."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def clock() -> Clock:
    """Seconds that the test moves."""
    return Clock()


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """moto's S3 server, an `S3Server`, whose keys are in the environment."""
    import ltx_parts  # boto3 takes a second, and few tests have a use for it

    with ltx_parts.keys(ltx_parts.KEYS), ltx_parts.moto_server(tmp_path_factory.mktemp("moto") / "log") as server:
        yield server


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real S3 server that checks signatures, likewise."""
    import ltx_parts
    import swift_server

    if not swift_server.is_installed():
        pytest.skip(f"no real S3 server: apt-get install --no-install-recommends {' '.join(swift_server.PACKAGES)}")
    with ltx_parts.keys(swift_server.KEYS), swift_server.swift_server(tmp_path_factory.mktemp("swift")) as server:
        ltx_parts.s3_client(server.endpoint, path_style=True).create_bucket(Bucket=server.bucket)
        yield server


@pytest.fixture(scope="module")
def running_farm(tmp_path_factory: pytest.TempPathFactory, seed: Seed) -> Iterator[Farm]:
    """A Pi and a server that run, for all tests of a file that only add to them."""
    made = Farm(tmp_path_factory.mktemp("farm"), seed)
    try:
        made.start()
        yield made
    finally:
        made.close()
        gc.collect()  # see pytest_collection_modifyitems: here, not in somebody else's test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take minutes begin first, or one worker would be left alone with them in the end.

    And urllib3 leaves its socket to the garbage collector when a server is killed in the middle of a handshake: no fault of ours.
    """
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
    for item in items:
        if {"farm", "running_farm"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"))
        if item.path.name.startswith(("test_ltx", "test_ship", "test_end_to_end_bucket")):  # botocore keeps its connections likewise
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket.socket:ResourceWarning"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """A failed test shows what its processes printed."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Farm):
                report.sections += [(f"{role.name} printed", role.log[-LOG_SHOWN:]) for role in value.roles]
    return report
