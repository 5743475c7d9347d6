"""What a stranger does with a fresh checkout: scripts/run.sh, resync.sh, the units for systemd, and the commands of README."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from changelog_parts import damage
from checkout import ROOT, STOP_LIMIT, Checkout
from farm_processes import eventually
from ltx_parts import ship
from packaging.markers import default_environment
from packaging.requirements import Requirement
from small_disk import small_disk

from changelog.ltx.store.folder import FolderStore

START_LIMIT = 10.0  # s that a later start may take beside other tests; it takes under 5 on a machine that does nothing else
LEFT_ALONE = (".env", "data/pi-cert.pem", "data/pi-key.pem")
WORST_EXPOSURE = 3.0  # of 10, by systemd-analyze


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "a farm")


def password_of(printed: str) -> str:
    match = re.search(r"password (\S+) \(shown this once", printed)
    assert match, printed
    return match[1]


def shipper_of(checkout: Checkout) -> dict[str, Any]:
    url = f"https://localhost:{checkout.settings['PI_PORT']}/api/sync/health"
    found: dict[str, Any] = requests.get(url, timeout=10, verify=False).json()
    return found.get("ship", {})


def sign_in(url: str, password: str) -> requests.Response:
    with requests.Session() as browser:
        form = browser.get(f"{url}/office/login", timeout=10).text
        token = re.search(r'name="csrf_token" value="([^"]+)"', form)
        assert token, form
        sent = {"csrf_token": token[1], "username": "admin", "password": password}
        return browser.post(f"{url}/office/login", data=sent, timeout=10)


def test_one_command_brings_up_the_farm_and_ctrl_c_ends_it(checkout: Checkout) -> None:
    master, terminal = os.openpty()
    process = checkout.start(terminal=terminal)
    os.close(terminal)
    os.set_blocking(master, False)
    shown = bytearray()

    def drained() -> str:
        with suppress(OSError):  # nothing there yet, or all ends are closed
            shown.extend(os.read(master, 65_536))
        return shown.decode(errors="replace")

    eventually(lambda: "Drover runs" in drained() and "radio  " in drained(), 30)
    password = eventually(lambda: password_of(drained()))
    assert sign_in(checkout.url, password).url.endswith("/office/")
    eventually(lambda: "BATCH" in checkout.run("sqlite3", "data/replica.db", "SELECT batch_number FROM batches").stdout)
    for name, mode in ((".env", 0o600), ("data/pi-key.pem", 0o600), ("data", 0o2770), ("data/farm.db", 0o660)):
        assert (checkout.folder / name).stat().st_mode & 0o7777 == mode, name

    os.write(master, b"\x03")
    began = time.monotonic()
    eventually(lambda: drained() and process.poll() is not None, STOP_LIMIT + 1)
    assert time.monotonic() - began < STOP_LIMIT
    os.close(master)
    assert process.returncode == 0, shown.decode()
    assert checkout.processes() == {}
    assert not (checkout.data / "lora").is_symlink()
    assert "Traceback" not in shown.decode()


def test_who_interrupts_the_first_start_has_been_told_the_login_that_it_made(checkout: Checkout) -> None:
    process = checkout.start()
    eventually(lambda: checkout.run("sqlite3", "data/farm.db", "SELECT username FROM users").stdout == "admin\n", 30)
    process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_LIMIT) == 0
    password = password_of(checkout.printed)
    with checkout.running():
        assert sign_in(checkout.url, password).url.endswith("/office/")


@pytest.mark.parametrize("free", [64_000, 160_000, 220_000, 300_000])
def test_a_disk_that_is_full_at_the_first_start_is_one_line_and_with_room_the_next_one_succeeds(checkout: Checkout, free: int) -> None:
    checkout.data.mkdir()
    with small_disk(checkout.data, 4 * 2**20) as disk:
        disk.fill(leave=free)
        full = checkout.run("scripts/run.sh", "pi", "--prepare")
        assert full.returncode == 1
        assert "full" in full.stderr.splitlines()[-1] and "Traceback" not in full.stderr, full.stderr
        disk.clear()
        done = checkout.run("scripts/run.sh", "pi", "--prepare")
        assert done.returncode == 0 and password_of(done.stderr)


def test_the_data_and_the_bucket_may_be_in_folders_with_spaces_in_their_names(checkout: Checkout) -> None:
    stick = checkout.folder.parent / "USB stick of März"
    with checkout.running(DATA_DIR=str(stick / "the data"), LITESTREAM_BUCKET=str(stick / "the bucket"), LITESTREAM_PATH="my farm"):
        eventually(lambda: list(stick.glob("the bucket/my farm/ltx/0/*.ltx")))
        copy = stick / "the data" / "replica.db"
        eventually(lambda: "BATCH" in checkout.run("sqlite3", str(copy), "SELECT batch_number FROM batches").stdout)


def test_a_later_start_is_quick_changes_nothing_and_sigterm_ends_it(checkout: Checkout) -> None:
    with checkout.running():
        password = password_of(checkout.printed)
    before = [(checkout.folder / name).read_bytes() for name in LEFT_ALONE]
    began = time.monotonic()
    with checkout.running() as process:
        assert time.monotonic() - began < START_LIMIT
        assert "as printed at the first start" in checkout.printed
        assert sign_in(checkout.url, password).url.endswith("/office/")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_LIMIT) == 0
    assert checkout.processes() == {}
    assert [(checkout.folder / name).read_bytes() for name in LEFT_ALONE] == before


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_with_a_bucket_everything_is_shipped_to_the_end_and_a_later_start_goes_on(checkout: Checkout) -> None:
    bucket = checkout.folder.parent / "bucket"
    for _ in range(2):
        with checkout.running(LITESTREAM_BUCKET=str(bucket)) as process:
            assert str(bucket) in checkout.printed
            eventually(lambda: shipper_of(checkout).get("state") == "shipping")
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_LIMIT) == 0
        assert checkout.processes() == {}
        restored = checkout.run(".venv/bin/python", "-m", "changelog", "ltx", "restore", str(bucket), "restored.db", "--force")
        assert restored.returncode == 0, restored.stderr
        assert (checkout.folder / "restored.db").read_bytes() == (checkout.data / "farm.db").read_bytes()
    log = (checkout.data / "log" / "ship.log").read_text()
    assert log.count("shipping begins with a whole database") == 1
    assert log.count("shipping goes on") == 1


def test_the_certificate_names_this_machine(checkout: Checkout) -> None:
    assert checkout.run("scripts/run.sh", "pi", "--prepare").returncode == 0
    shown = checkout.run("openssl", "x509", "-in", "data/pi-cert.pem", "-noout", "-ext", "subjectAltName", "-enddate").stdout
    host = socket.gethostname()
    for name in (f"DNS:{host}", f"DNS:{host}.local", "DNS:pi", "DNS:localhost", "IP Address:127.0.0.1", "IP Address:0:0:0:0:0:0:0:1"):
        assert name in shown
    years = (ssl.cert_time_to_seconds(shown.partition("notAfter=")[2].strip()) - time.time()) / 86_400 / 365
    assert 9.9 < years < 10.1


def test_an_env_file_and_a_database_that_are_there_are_kept(checkout: Checkout) -> None:
    own = "# mine\nDB_SYNC_INTERVAL=7  # seconds\nSECRET_KEY=0123456789abcdef0123\n"
    (checkout.folder / ".env").write_text(own)
    with checkout.running():
        assert requests.get(f"{checkout.url}/office/api/sync-status", timeout=10).json()["data"]["sync_interval"] == 7
    text = (checkout.folder / ".env").read_text()
    assert text.startswith(own)
    assert re.fullmatch(r"PI_API_KEY=hxb_\S+\n", text.removeprefix(own))


def test_another_database_is_replicated_and_the_demo_says_what_it_has_not(checkout: Checkout, tmp_path: Path) -> None:
    database = tmp_path / "it.db"
    checkout.run("sqlite3", str(database), "CREATE TABLE t(a INTEGER PRIMARY KEY); INSERT INTO t VALUES(7)")
    with checkout.running(PI_DATABASE=str(database)):
        eventually(lambda: checkout.run("sqlite3", "data/replica.db", "SELECT a FROM t").stdout == "7\n")
        eventually(lambda: "login         none: this database has no tables of a farm" in checkout.printed)
        assert f"{database} is the Pi's" in checkout.printed


def test_data_that_was_deleted_is_made_again_with_a_key_that_fits(checkout: Checkout) -> None:
    with checkout.running():
        pass
    shutil.rmtree(checkout.data)
    with checkout.running():
        eventually(lambda: requests.get(f"{checkout.url}/readyz", timeout=10).ok)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("DB_SYNC_INTERVALL=5", "did you mean DB_SYNC_INTERVAL?"),
        ("PI_PORT=many", "a whole number from 1 to 65535"),
        ("no setting at all", "cannot be read"),
        ("DATA_DIR=/proc/nowhere", "cannot be written"),
    ],
)
@pytest.mark.parametrize("role", ["", "pi", "server"])
def test_a_mistake_in_the_settings_is_one_line_and_exit_code_1(checkout: Checkout, role: str, setting: str, complaint: str) -> None:
    del checkout.settings["PI_PORT"]
    (checkout.folder / ".env").write_text(f"{setting}\n")
    done = checkout.run("scripts/run.sh", *role.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["pie"], ["pi", "--prepar"], ["server", "now"], ["ship", "it"]])
def test_what_run_does_not_know_is_exit_code_2_and_starts_nothing(checkout: Checkout, words: list[str]) -> None:
    done = checkout.run("scripts/run.sh", *words)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("usage: ")
    assert not checkout.data.exists()
    assert checkout.run("scripts/run.sh", "--help").stdout == done.stderr


@pytest.mark.parametrize("port", ["PI_PORT", "SERVER_PORT"])
def test_a_taken_port_is_one_line_and_exit_code_1(checkout: Checkout, port: str) -> None:
    with socket.create_server(("127.0.0.1", int(checkout.settings[port]))):
        done = checkout.run("scripts/run.sh")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"error: 127.0.0.1:{checkout.settings[port]} is taken by another program: stop that, or choose another {port}"
    ]


def test_a_role_that_dies_ends_all_with_exit_code_1(checkout: Checkout) -> None:
    with checkout.running() as process:
        (master,) = (pid for pid, words in checkout.processes().items() if "-m pi serve" in words and parent_of(pid) == process.pid)
        os.kill(master, signal.SIGKILL)
        assert process.wait(STOP_LIMIT + 1) == 1
    assert "a part of Drover has ended" in checkout.printed
    eventually(lambda: checkout.processes() == {})


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_where_nobody_reads_what_it_prints_everything_ends_and_nothing_runs_on_unseen(checkout: Checkout) -> None:
    script = checkout.folder / "scripts" / "run.sh"
    process = subprocess.Popen(
        [script], env=checkout.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdout
    process.stdout.close()  # as `scripts/run.sh | head` does
    assert process.wait(60) != 0
    eventually(lambda: checkout.processes() == {})


def test_a_server_without_pin_and_key_says_what_to_bring_from_the_pi(checkout: Checkout) -> None:
    done = checkout.run("scripts/run.sh", "server")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "copy its data/pi-cert.pem to data/pi-cert.pem" in done.stderr
    assert "python -m pi key add" in done.stderr
    assert not list(checkout.data.iterdir())


def test_a_server_that_follows_the_bucket_alone_needs_nothing_of_the_pi(checkout: Checkout, tmp_path: Path) -> None:
    bucket = {"FOLLOW": "bucket", "LITESTREAM_BUCKET": str(tmp_path / "bucket")}
    assert checkout.run("scripts/run.sh", "pi", "--prepare").returncode == 0
    ship(FolderStore(tmp_path / "bucket"), [(checkout.data / "farm.db").read_bytes()])
    shutil.rmtree(checkout.data)
    assert checkout.run("scripts/run.sh", "server", "--prepare", **bucket).returncode == 0
    with checkout.running("server", SERVER_BIND="127.0.0.1", **bucket):
        eventually(lambda: requests.get(f"{checkout.url}/readyz", timeout=10).ok)
        assert checkout.run("sqlite3", "data/replica.db", "SELECT username FROM users").stdout == "admin\n"
        status = requests.get(f"{checkout.url}/office/api/sync-status", timeout=10).json()["data"]
        assert (status["state"], status["source"], status["last_error"]) == ("following", "bucket", None)


def test_the_pi_alone_is_the_process_that_was_started_and_tells_systemd_when_it_listens(checkout: Checkout, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(30)
        with checkout.running("pi", NOTIFY_SOCKET=str(tmp_path / "notify"), PI_BIND="127.0.0.1") as process:
            assert notified.recv(4096).startswith(b"READY=1")
            assert "-m pi serve" in checkout.processes()[process.pid]
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_LIMIT) == 0
    assert checkout.processes() == {}


def test_resync_proves_that_both_sides_are_identical_and_finds_a_corrupted_cell(checkout: Checkout) -> None:
    with checkout.running(DB_SYNC_INTERVAL="1"):
        eventually(lambda: requests.get(f"{checkout.url}/readyz", timeout=10).ok)
        for arguments in ([], ["--json"]):
            done = checkout.run("scripts/resync.sh", *arguments)
            assert done.returncode == 0, done.stderr
            assert re.search(r"position before +\w+/\d+/\S+\nposition after +\w+/\d+/\S+\nrows +\d+\nboth sides +identical", done.stdout), (
                done.stdout
            )
            damage(checkout.data / "replica.db", "UPDATE users SET username='somebody else'")
            corrupted = checkout.run("scripts/resync.sh", *arguments)
            assert corrupted.returncode == 3
            assert "DIFFERED from the Pi in users" in corrupted.stdout
            assert "both sides       identical" in corrupted.stdout


def test_resync_with_the_pi_away_fails_in_one_line_and_the_replica_goes_on_serving(checkout: Checkout) -> None:
    with checkout.running():
        eventually(lambda: requests.get(f"{checkout.url}/readyz", timeout=10).ok)
    with checkout.running("server", REMOTE_PI_PORT=checkout.settings["PI_PORT"], SERVER_BIND="127.0.0.1"):
        began = time.monotonic()
        done = checkout.run("scripts/resync.sh", REMOTE_PI_PORT=checkout.settings["PI_PORT"])
        assert time.monotonic() - began < 10
        assert (done.returncode, done.stdout) == (1, "")
        assert f"localhost:{checkout.settings['PI_PORT']} cannot be reached" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert requests.get(f"{checkout.url}/office/login", timeout=10).ok


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd on this machine")
@pytest.mark.parametrize("role", ["pi", "ship", "server"])
def test_the_unit_is_sound_and_hardened(checkout: Checkout, role: str) -> None:
    unit = checkout.folder.parent / f"drover-{role}.service"
    text = (ROOT / "scripts" / unit.name).read_text()
    unit.write_text(text.replace("/opt/drover/scripts", str(ROOT / "scripts")))
    verified = checkout.run("systemd-analyze", "verify", "--man=no", str(unit))
    assert verified.stdout + verified.stderr == ""  # its exit code is 0 for mistakes too
    judged = checkout.run("systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)).stdout
    exposure = re.search(r"exposure level for \S+: ([0-9.]+)", judged)
    assert exposure and float(exposure[1]) <= WORST_EXPOSURE


@pytest.mark.parametrize("files", [["requirements.txt"], ["requirements.txt", "tests/requirements.txt"]])
def test_everything_that_pip_would_install_is_pinned(files: list[str]) -> None:
    lines = [line.partition("#")[0].strip() for name in files for line in (ROOT / name).read_text().splitlines()]
    pins = [Requirement(line) for line in lines if line]
    assert all(re.fullmatch(r"==[0-9][0-9A-Za-z.]*", str(pin.specifier)) for pin in pins)
    names = {canonical(pin.name) for pin in pins}
    assert len(names) == len(pins)
    for pin in pins:
        installed = importlib.metadata.distribution(pin.name)
        assert str(pin.specifier) == f"=={installed.version}"
        for text in installed.requires or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({**default_environment(), "extra": ""}):
                assert canonical(needed.name) in names, f"{pin.name} needs {needed.name}, which is not pinned"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_a_python_without_venv_is_told_which_package_to_install(checkout: Checkout, tmp_path: Path) -> None:
    shutil.rmtree(checkout.folder / ".venv")
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    done = checkout.run("scripts/run.sh", PYTHON=str(python))
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["error: this Python has no venv module: sudo apt-get install python3-venv"]
