"""Joining a server to a Pi: one code, one key, the certificate that was meant and no other; and what is wrong is said."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
from attacker import attacking, showing
from clock import Clock
from farm_processes import ROOT, Farm, eventually, free_port, make_certificate

from changelog.errors import (
    BadRequest,
    ConfigError,
    Conflict,
    DroverError,
    Forbidden,
    NotFound,
    TooMany,
    Unauthorized,
    Unreachable,
)  # fmt: skip
from changelog.node.certificates import certificates_in, fingerprint, parse_fingerprint
from changelog.node.env_file import with_setting
from changelog.node.settings import Settings
from pi.keys import Keys
from pi.pairing import LETTERS, TRIES, Pairing, plain
from server import pairing as on_the_server
from server.pairing import Paired
from server.pairing import pair as join

ENV = (
    "# the office\r\nexport SERVER_PORT={port}   # for the pages\nSERVER_BIND=127.0.0.1\n"
    "#PI_API_KEY=   # as the Pi prints it\n\nDB_SYNC_INTERVAL=60\n"
)
NOT_A_CODE = "0000-0000-0000"


@dataclass(frozen=True)
class Begun:
    """What is typed on the server."""

    fingerprint: str
    code: str


@dataclass
class Joining:
    """A Pi that runs, and a server's folder that knows nothing of it yet."""

    farm: Farm

    @property
    def folder(self) -> Path:
        return self.farm.server.folder

    @property
    def address(self) -> str:
        return f"localhost:{self.farm.pi.settings['PI_PORT']}"

    @property
    def env(self) -> dict[str, str]:
        """What stands in the server's .env."""
        return dict(line.split("=", 1) for line in (self.folder / ".env").read_text().splitlines() if re.match(r"[A-Z_]+=", line))

    def begin(self, name: str = "office", role: str = "office", **more: float) -> Begun:
        """What `python -m pi pair` begins, and shows."""
        with closing(Pairing(self.farm.pi.data / "pi.db")) as pairing:
            code = pairing.begin(name, role, more.get("lasts", 600))
        return Begun(fingerprint(certificates_in(self.farm.pi.data / "pi-cert.pem")[0]), code)

    def join(self, begun: Begun, address: str = "", **settings: Any) -> Paired:
        """What `python -m server pair` does in the server's folder. Raises what it raises."""
        env = self.folder / ".env"
        found = Settings.load(env, {})
        found = replace(found, data_dir=self.farm.server.data, pi_cert=settings.get("pi_cert", self.farm.server.data / "pi-cert.pem"))
        return join(found, env, address or self.address, parse_fingerprint(begun.fingerprint), begun.code)

    def refused(self, kind: type[DroverError], begun: Begun, *words: str, address: str = "", **settings: Any) -> None:
        """It is, in one line with these words."""
        with pytest.raises(kind) as failure:
            self.join(begun, address, **settings)
        assert "\n" not in failure.value.message and begun.code not in failure.value.message
        for word in words:
            assert word in failure.value.message, failure.value.message

    def command(self, begun: Begun, typed: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        """The command itself, the code by standard input."""
        command = [sys.executable, "-m", "server", "pair", self.address, "--fingerprint", begun.fingerprint]
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ}
        code = begun.code if typed is None else typed
        return subprocess.run(command, cwd=self.folder, env=env, input=f"{code}\n", capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def joining(farm: Farm) -> Iterator[Joining]:
    (farm.server.data / "pi-cert.pem").unlink()
    farm.server.folder.mkdir(exist_ok=True)
    (farm.server.folder / ".env").write_bytes(ENV.format(port=farm.server.settings["SERVER_PORT"]).encode())
    farm.pi.start()
    yield Joining(farm)


def test_a_server_is_joined_by_two_commands_and_follows_with_a_key_of_its_own(joining: Joining) -> None:
    farm = joining.farm
    printed = json.loads(farm.pi.command("pair", "--name", "desk", "--json").stdout)
    begun = Begun(printed["fingerprint"], printed["code"])
    assert (printed["host"], printed["port"]) == ("127.0.0.1", farm.pi.settings["PI_PORT"])
    wrong = joining.command(begun, NOT_A_CODE)
    assert (wrong.returncode, len(wrong.stderr.splitlines()), "not the code" in wrong.stderr) == (1, 1, True)
    done = joining.command(begun)
    assert done.returncode == 0, done.stderr
    assert "lets it write" in done.stdout and begun.code not in done.stdout + done.stderr
    text = (joining.folder / ".env").read_bytes().decode()
    kept = ENV.format(port=farm.server.settings["SERVER_PORT"]).partition("#PI_API_KEY")[0]
    assert text.startswith(kept) and "# as the Pi prints it\nPI_API_KEY=hxb_" in text and "DB_SYNC_INTERVAL=60\n" in text
    assert stat.S_IMODE((joining.folder / ".env").stat().st_mode) == 0o600
    assert (farm.server.data / "pi-cert.pem").read_text().split() == (farm.pi.data / "pi-cert.pem").read_text().split()
    farm.server.settings |= joining.env
    farm.server.start()
    farm.assert_identical()
    [desk] = [row for row in json.loads(farm.pi.command("key", "list", "--json").stdout) if row["name"] == "desk"]
    assert (desk["role"], desk["last_used_from"]) == ("office", "127.0.0.1")
    assert eventually(lambda: farm.status()["push"])


def test_a_code_works_once_and_only_the_newest_one(joining: Joining) -> None:
    former, begun = joining.begin(), joining.begin("desk", "replica")
    joining.refused(Unauthorized, former, "not the code", "401")
    paired = joining.join(begun)
    assert (paired.role, paired.writes) == ("replica", False), "of this role the office only reads"
    joining.refused(NotFound, begun, "no pairing is open", "python -m pi pair")


def test_a_server_that_is_paired_again_gets_the_second_key_of_its_name_and_the_first_one_goes_on(joining: Joining) -> None:
    joining.join(joining.begin())
    rows = json.loads(joining.farm.pi.command("key", "list", "--json").stdout)
    assert [(row["name"], row["older"]) for row in rows] == [("office", True), ("office", False)]
    assert joining.farm.sync("/schema")["success"], "the key of before"
    joining.refused(Conflict, joining.begin(), "two keys", "key retire")


def test_wrong_codes_end_the_pairing_after_five_tries(joining: Joining) -> None:
    begun = joining.begin()
    for left in reversed(range(TRIES)):
        joining.refused(Unauthorized, replace(begun, code=NOT_A_CODE), f"tries left: {left}")
    joining.refused(TooMany, begun, "Too many")
    eventually(lambda: _ended(joining, begun))
    assert "wrong code for pairing" in joining.farm.pi.log
    assert (joining.folder / ".env").read_text().count("hxb_") == 0 and not (joining.farm.server.data / "pi-cert.pem").exists()


def _ended(joining: Joining, begun: Begun) -> bool:
    with suppress(TooMany):
        joining.refused(NotFound, begun, "ended after 5 wrong codes")
        return True
    return False


def test_who_guesses_codes_is_slowed_down_and_learns_nothing(joining: Joining) -> None:
    joining.begin()
    with ThreadPoolExecutor(8) as pool:
        guess = lambda number: joining.farm.ask("POST", "/api/pair", json={"code": f"{number:012d}"}).status_code  # noqa: E731
        answers = list(pool.map(guess, range(40)))
    assert 1 <= answers.count(401) <= TRIES and set(answers) <= {401, 404, 429} and answers.count(429) > 20


def test_another_certificate_is_refused_with_both_fingerprints_and_nothing_is_sent_to_it(joining: Joining, tmp_path: Path) -> None:
    begun = joining.begin()
    joining.farm.pi.stop()
    with attacking(joining.farm, tmp_path) as attacker:
        shown = fingerprint(certificates_in(tmp_path / "attacker-cert.pem")[0])
        joining.refused(Unreachable, begun, "nothing was sent", f"it shows {shown}", f"expected was {begun.fingerprint}")
    assert attacker.heard == b""
    assert not (joining.farm.server.data / "pi-cert.pem").exists()


def test_what_else_goes_wrong_is_said_in_one_line(joining: Joining, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = joining.begin()
    joining.refused(Unreachable, begun, "refused", address=f"localhost:{free_port()}")
    joining.refused(Unreachable, begun, "no-such-pi.invalid:5001", address="no-such-pi.invalid")
    joining.refused(BadRequest, begun, "needs TLS", address=f"http://{joining.address}")
    joining.refused(BadRequest, begun, "no address of a Pi", address="https://pi/api/pair")
    joining.refused(BadRequest, replace(begun, fingerprint="12:34"), "64 hexadecimal digits")
    joining.refused(ConfigError, begun, "/nowhere/pi-cert.pem cannot be written", pi_cert=Path("/nowhere/pi-cert.pem"))
    joining.refused(ConfigError, begun, "is the certificate of a Pi on this machine", pi_cert=_own_certificate(joining))
    monkeypatch.setenv("PI_API_KEY", "hxb_from_the_environment")
    joining.refused(ConfigError, begun, "PI_API_KEY is set in the environment")
    monkeypatch.delenv("PI_API_KEY")
    (joining.folder / ".env").write_text("PI_API_KEY\n")
    broken = joining.command(begun)
    assert (broken.returncode, "line 1 cannot be read" in broken.stderr, broken.stderr.count("\n")) == (1, True, 1)
    (joining.folder / ".env").unlink()
    done = joining.command(begun, "", PAIRING_CODE=begun.code.lower().replace("-", " "))
    assert done.returncode == 0, "and none of them used the code up"


def _own_certificate(joining: Joining) -> Path:
    folder = joining.folder / "pi of this machine"
    folder.mkdir()
    make_certificate(folder)
    return folder / "pi-cert.pem"


def test_plain_http_is_refused_by_both_sides(joining: Joining, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_the_server, "TIMEOUT", 1.5)  # what speaks http waits for more of our handshake
    farm, begun = joining.farm, joining.begin()
    farm.pi.stop()
    farm.pi.settings["PI_TLS"] = False
    farm.pi.start()
    joining.refused(Unreachable, begun, "PI_TLS=True")
    answer = requests.post(f"{farm.pi.url}/api/pair", json={"code": begun.code}, timeout=10)
    assert (answer.status_code, "needs TLS" in answer.json()["message"]) == (403, True)
    asked = farm.pi.command("pair")
    assert (asked.returncode, "PI_TLS" in asked.stderr, asked.stderr.count("\n")) == (1, True, 1)


def test_what_is_no_pi_is_said_to_be_none(joining: Joining, monkeypatch: pytest.MonkeyPatch) -> None:
    """A web server with TLS, which shows the expected certificate and knows no pairing."""
    monkeypatch.setattr(on_the_server, "TIMEOUT", 1.5)  # it waits for another form of request
    begun, data = joining.begin(), joining.farm.pi.data
    with showing(data / "pi-cert.pem", data / "pi-key.pem") as other:
        joining.refused(DroverError, begun, f"localhost:{other.remote_pi_port}", address=f"localhost:{other.remote_pi_port}")
    assert not (joining.farm.server.data / "pi-cert.pem").exists()


def test_the_code_is_asked_for_on_the_terminal_and_not_shown_there(joining: Joining) -> None:
    begun = joining.begin()
    master, terminal = os.openpty()
    command = ["setsid", "--ctty", sys.executable, "-m", "server", "pair", joining.address, "--fingerprint", begun.fingerprint]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=joining.folder, env=env, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    shown = b""
    while b"code:" not in shown:
        shown += os.read(master, 1000)
    line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    os.write(master, f"{begun.code}\n".encode())
    assert process.wait(30) == 0
    with pytest.raises(OSError):  # at the end a terminal has an error
        while True:
            shown += os.read(master, 1000)
    os.close(master)
    assert b"paired with" in shown and begun.code.encode() not in shown
    assert b"--fingerprint" in line and begun.code.encode() not in line


def test_a_pi_whose_clock_is_years_off_is_joined_and_its_clock_named(joining: Joining) -> None:
    """The certificate is not valid yet by the server's clock, or no more: what is pinned counts all the same."""
    done = joining.command(joining.begin(), LD_PRELOAD=_faketime(), FAKETIME="@2061-01-01 00:00:00")
    assert done.returncode == 0, done.stderr
    assert "the Pi's clock says 20" in done.stdout and "lets it write" in done.stdout


def _faketime() -> str:
    found = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if found is None:
        pytest.skip("apt-get install faketime")
    return str(found)


# --- the code itself, on the Pi


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pi.db"


def test_a_code_has_sixty_bits_and_is_stored_hashed(path: Path) -> None:
    with closing(Pairing(path)) as pairing:
        codes = {pairing.begin("office", "office", 60) for _ in range(50)}
        assert len(codes) == 50 and all(re.fullmatch(rf"(?:[{LETTERS}]{{4}}-){{2}}[{LETTERS}]{{4}}", code) for code in codes)
        raw = path.read_bytes() + path.with_name("pi.db-wal").read_bytes()
        assert not any(form.encode() in raw for code in codes for form in (code, plain(code)))


def test_a_code_expires_by_a_clock_that_nobody_sets(path: Path, clock: Clock) -> None:
    with closing(Pairing(path, clock)) as pairing:
        code = pairing.begin("office", "office", 600)
        clock.now += 600
        with pytest.raises(NotFound, match="expired after 10 minutes"):
            pairing.redeem(code)
        clock.now -= 1
        assert pairing.redeem(code)[:2] == ("office", "office")
        code = pairing.begin("other", "office", 600)
        clock.now = 5  # the machine was started anew
        with pytest.raises(NotFound, match="expired"):
            pairing.redeem(code)


def test_a_code_is_good_for_one_of_many_who_send_it_at_once(path: Path) -> None:
    with closing(Pairing(path)) as pairing:
        code = pairing.begin("office", "replica", 60)

    def send(_: int) -> str | None:
        with closing(Pairing(path)) as pairing:
            try:
                return pairing.redeem(code)[2]
            except NotFound:
                return None

    with ThreadPoolExecutor(8) as pool:
        got = [key for key in pool.map(send, range(8)) if key]
    assert len(got) == 1
    with closing(Keys(path)) as keys:
        assert (keys.role_of(got[0]).name, len(keys.rows())) == ("office", 1)


def test_a_name_keeps_its_role_and_never_has_three_keys(path: Path) -> None:
    with closing(Keys(path)) as keys, closing(Pairing(path)) as pairing:
        keys.add("scale", "writer")
        with pytest.raises(Forbidden, match="role writer"):
            pairing.begin("scale", "office", 60)
        keys.add("office", "office")
        keys.rotate("office")
        code = pairing.begin("office", "office", 60)
        with pytest.raises(Conflict, match="two keys"):
            pairing.redeem(code)
        keys.retire("office", unused_too=True)
        assert keys.role_of(pairing.redeem(code)[2]).role == "office"


def test_a_wrong_code_is_refused_whatever_it_is(path: Path) -> None:
    with closing(Pairing(path)) as pairing:
        code = pairing.begin("office", "office", 60)
        for wrong in ("", "x" * 10_000, "\ud800"):
            with pytest.raises(Unauthorized):
                pairing.redeem(wrong)
        assert pairing.redeem(code.lower().replace("0", "o").replace("1", "l"))[0] == "office"


@pytest.mark.parametrize("form", ["{}", "sha256 Fingerprint={}", "SHA256:{}"])
def test_a_fingerprint_is_taken_in_the_forms_in_which_people_copy_it(form: str) -> None:
    shown = fingerprint(b"a certificate")
    for text in (shown, shown.lower(), shown.replace(":", "")):
        assert parse_fingerprint(form.format(text)) == shown


# --- .env


@pytest.mark.parametrize(
    ("line", "above"),
    [
        ("PI_API_KEY=old", ""),
        ("export PI_API_KEY=old", ""),
        ("  PI_API_KEY = 'old'   # mine", "# mine"),
        ('PI_API_KEY="o # ld"', ""),
        ("PI_API_KEY=old # mine", "# mine"),
        ("PI_API_KEY=", ""),
        ("#PI_API_KEY=          # what the Pi prints", "# what the Pi prints"),
        ('PI_API_KEY="two\nlines"', ""),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_setting_is_replaced_as_the_reader_takes_it_and_all_else_stays(tmp_path: Path, line: str, above: str, end: str) -> None:
    before, after = f"# a farm{end}{end}SERVER_PORT=5000 # pages{end}", f"{end}# the end{end}DB_SYNC_INTERVAL=7{end}"
    env = tmp_path / ".env"
    text = with_setting(before + line + end + after, "PI_API_KEY", "hxb_newkey123")
    env.write_bytes(text.encode())
    assert text.startswith(before) and text.endswith(after) and above in text
    assert re.search(r"^\s*PI_API_KEY=hxb_newkey123\r?$", text, re.MULTILINE) and "old" not in text
    settings = Settings.load(env, {})
    assert (settings.pi_api_key, settings.server_port, settings.db_sync_interval) == ("hxb_newkey123", 5000, 7)


def test_a_setting_that_stands_nowhere_gets_a_line_of_its_own() -> None:
    assert with_setting("", "PI_API_KEY", "x") == "PI_API_KEY=x\n"
    assert with_setting("A=1", "PI_API_KEY", "x") == "A=1\nPI_API_KEY=x\n"
    assert with_setting("MY_PI_API_KEY=1\n", "PI_API_KEY", "x") == "MY_PI_API_KEY=1\nPI_API_KEY=x\n"
