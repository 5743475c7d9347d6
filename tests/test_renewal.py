"""Another certificate, another key: a server and a Pi that run take them up without a restart, and nothing else is trusted meanwhile."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
import requests
from attacker import showing
from farm_processes import Farm, Role, eventually, make_certificate
from office_forms import Desk, flashed

from changelog.errors import ConfigError, Unreachable
from changelog.node.certificates import certificates_in, fingerprint
from changelog.node.env_file import write_env
from changelog.node.settings import Settings
from changelog.node.tls import ServerTls
from pi import renewal
from pi.certificate import fingerprint_of, has_next, make_next, settle
from pi.certificate import switch as switch_certificates
from pi.renewal import Certificates, certificates
from server.credentials import Credentials
from server.pi_client import PiClient
from server.pi_socket import PiSocket
from server.pi_writer import PiWriter
from server.pinned import PinnedContext

TROUBLE = ("failed", "refused", "pinned in", "WARNING", "Traceback")


def trouble(farm: Farm) -> list[str]:
    """What the server's log complains of."""
    return [line for line in farm.server.log.splitlines() if any(word in line for word in TROUBLE)]


def shown_by(farm: Farm) -> str:
    """The fingerprint of the certificate that the Pi shows to who comes now."""
    return fingerprint(ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", int(str(farm.pi.settings["PI_PORT"]))))))


def certificate_of(role: Role) -> str:
    return fingerprint(certificates_in(role.data / "pi-cert.pem")[0])


def keys_of(farm: Farm) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(farm.pi.command("key", "list", "--json").stdout)
    return found


def write_key(farm: Farm, key: str) -> None:
    """As an editor saves it, while the server runs."""
    farm.server.settings["PI_API_KEY"] = key
    farm.server.write_env()


# --- another key


def test_a_running_server_takes_up_another_key_for_pulls_writes_and_the_socket(farm: Farm) -> None:
    farm.server.settings["DB_SYNC_INTERVAL"] = 1
    farm.start()
    eventually(lambda: farm.status()["push"])
    desk, processes = Desk(farm), farm.server.pids()
    assert desk.form("/office/pens/new").send(pen_number="P1", capacity="4").status_code in (302, 303), "with the first key"
    newer = farm.pi.command("key", "rotate", "office").stdout.strip()
    write_key(farm, newer)
    eventually(lambda: all(row["last_used_from"] == "127.0.0.1" for row in keys_of(farm)), 20)
    retired = farm.pi.command("key", "retire", "office")
    assert retired.returncode == 0, retired.stderr
    farm.fill(3)
    farm.assert_identical()
    assert desk.form("/office/pens/new").send(pen_number="P2", capacity="4").status_code in (302, 303), "with the second"
    assert "P2" in eventually(lambda: flashed(desk))
    eventually(lambda: farm.status()["push"])
    assert farm.server.pids() == processes and not trouble(farm)
    assert newer not in farm.server.log


def test_a_server_that_is_refused_goes_on_within_seconds_of_another_key_however_rarely_it_tries(farm: Farm) -> None:
    farm.server.settings["DB_SYNC_INTERVAL"] = 600
    farm.start()
    assert farm.pi.command("key", "revoke", "office").returncode == 0
    eventually(lambda: farm.status()["state"] == "refused", 20)
    write_key(farm, farm.pi.command("key", "add", "office", "--role", "office").stdout.strip())
    farm.fill(2)
    farm.assert_identical(20)
    eventually(lambda: farm.status()["state"] == "following")


def test_what_the_environment_says_wins_over_another_key_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = tmp_path / ".env"
    env.write_text("USE_SSL_FOR_PI=False\nPI_API_KEY=hxb_of_the_file\n")
    credentials = Credentials(Settings.load(env, {}), env)
    assert credentials.present().key == "hxb_of_the_file"
    monkeypatch.setenv("PI_API_KEY", "hxb_of_the_environment")
    env.write_text("USE_SSL_FOR_PI=False\nPI_API_KEY=hxb_another_one\n")
    assert credentials.present().key == "hxb_of_the_environment"
    monkeypatch.delenv("PI_API_KEY")
    assert credentials.present(again=True).key == "hxb_another_one"


@pytest.mark.parametrize("text", ["", "PI_API_KEY=", "PI_API_KEY=x", "PI_API_KEY", "PI_API_", "NONSENSE=1\nPI_API_KEY=hxb_another_one"])
def test_a_file_that_is_being_written_takes_no_key_away(tmp_path: Path, text: str) -> None:
    env = tmp_path / ".env"
    env.write_text("PI_API_KEY=hxb_of_the_file\n")
    credentials = Credentials(Settings.load(env, {}), env)
    credentials = Credentials(Settings(data_dir=tmp_path, use_ssl_for_pi=False, pi_api_key="hxb_of_the_file"), env)
    before = credentials.present()
    env.write_text(text)
    assert credentials.present() is before
    env.unlink()
    assert credentials.present() is before
    env.write_text("PI_API_KEY=hxb_another_one\n")
    assert credentials.present().key == "hxb_another_one"


def test_nothing_is_read_while_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = tmp_path / ".env"
    env.write_text("PI_API_KEY=hxb_of_the_file\n")
    os.utime(env, (1_000_000, 1_000_000))
    credentials = Credentials(Settings(data_dir=tmp_path, use_ssl_for_pi=False), env)
    before = credentials.present()
    monkeypatch.setattr(Settings, "load", lambda *_: pytest.fail("it was read again"))
    assert all(credentials.present() is before for _ in range(100))


# --- another certificate


def test_a_renewal_is_followed_by_a_running_server_and_a_running_pi_without_a_failure(farm: Farm) -> None:
    farm.start()
    eventually(lambda: farm.status()["push"])
    desk, processes, before = Desk(farm), farm.pi.pids() + farm.server.pids(), certificate_of(farm.pi)
    failed = farm.status()["failed_syncs"]
    stopped = threading.Event()

    def write() -> int:
        count = 0
        while not stopped.wait(0.2):
            farm.pi.sql(f"INSERT INTO pens(pen_number, capacity) VALUES('R{count}', 1)")
            count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            done = farm.pi.command("cert", "renew", "--grace", "30")
            assert done.returncode == 0, done.stderr
            after = certificate_of(farm.pi)
            assert before != after == shown_by(farm) and after in done.stdout
            eventually(lambda: certificate_of(farm.server) == after)
        finally:
            stopped.set()
    assert writing.result() > 0
    farm.assert_identical()
    assert desk.form("/office/pens/new").send(pen_number="after", capacity="4").status_code in (302, 303)
    eventually(lambda: farm.status()["push"])
    assert len(certificates_in(farm.server.data / "pi-cert.pem")) == 1 and not (farm.server.data / "pi-cert.announced.pem").exists()
    assert farm.pi.pids() + farm.server.pids() == processes
    assert not trouble(farm) and farm.status()["failed_syncs"] == failed
    assert not list(farm.pi.data.glob("*.next.pem")) and (farm.pi.data / "pi-key.pem").stat().st_mode & 0o777 == 0o600
    farm.server.restart()
    farm.pi.restart()
    farm.fill(1)
    farm.assert_identical()


def test_a_server_that_was_away_is_named_before_and_told_the_next_step_after_and_is_paired_again(farm: Farm) -> None:
    farm.start()
    eventually(lambda: farm.pi.command("replica", "list").stdout)
    farm.server.stop()
    name = farm.server_id()
    waited = farm.pi.command("cert", "renew", "--grace", "0")
    assert (waited.returncode, name in waited.stderr, waited.stderr.count("\n")) == (1, True, 1)
    assert shown_by(farm) == certificate_of(farm.server), "nothing has changed"
    status = json.loads(farm.pi.command("cert", "status", "--json").stdout)
    assert (status["trusted_by"], status["present"]) == ({name: False}, certificate_of(farm.server))
    assert name in farm.pi.command("cert", "switch").stderr
    assert farm.pi.command("cert", "switch", "--yes").returncode == 0
    farm.server.start()
    error = eventually(lambda: farm.status()["last_error"])
    assert "python -m pi pair" in error and "python -m server pair" in error and "nothing was sent" in error
    processes = farm.server.pids()
    begun = json.loads(farm.pi.command("pair", "--json").stdout)
    address = f"localhost:{farm.pi.settings['PI_PORT']}"
    paired = farm.server.command("pair", address, "--fingerprint", begun["fingerprint"], typed=begun["code"] + "\n")
    assert paired.returncode == 0, paired.stderr
    farm.fill(1)
    farm.assert_identical(20)
    eventually(lambda: farm.status()["push"] and farm.status()["state"] == "following", 20)
    assert farm.server.pids() == processes


def test_a_server_that_comes_back_within_the_grace_period_takes_the_next_one_up_unless_that_is_cancelled(farm: Farm) -> None:
    farm.start()
    before = shown_by(farm)
    farm.server.stop()
    assert farm.pi.command("cert", "renew", "--no-switch").returncode == 0
    again = farm.pi.command("cert", "renew")
    assert (again.returncode, "cert cancel" in again.stderr) == (1, True)
    farm.pi.restart()
    farm.server.start()
    eventually(lambda: farm.server_id() in farm.pi.command("cert", "status").stdout.partition(" trusted by ")[2], 20)
    assert farm.pi.command("cert", "cancel").returncode == 0
    assert shown_by(farm) == before and not list(farm.pi.data.glob("*.next.pem"))
    eventually(lambda: not (farm.server.data / "pi-cert.announced.pem").exists(), 20)
    assert (farm.pi.command("cert", "switch").returncode, farm.pi.command("cert", "cancel").returncode) == (1, 1)
    assert farm.pi.command("cert", "renew").returncode == 0
    eventually(lambda: certificate_of(farm.server) == shown_by(farm) == certificate_of(farm.pi) != before, 20)
    assert not trouble(farm)
    farm.pi.settings["PI_TLS"] = False
    assert "PI_TLS" in farm.pi.command("cert", "status").stderr


def test_two_certificates_in_the_pinned_file_are_both_trusted_and_a_file_that_is_replaced_is_read_by_a_server_that_runs(
    farm: Farm, tmp_path: Path
) -> None:
    """Renewals by hand: the new certificate put behind the old one first; or copied over afterwards."""
    make_certificate(tmp_path)
    pins = farm.server.data / "pi-cert.pem"
    pins.write_text(pins.read_text() + (tmp_path / "pi-cert.pem").read_text())
    farm.start()
    processes = farm.server.pids()
    farm.pi.stop()
    for name in ("pi-cert.pem", "pi-key.pem"):
        shutil.copy(tmp_path / name, farm.pi.data)
    farm.pi.start()
    farm.fill(1)
    farm.assert_identical(20)
    assert len(certificates_in(pins)) == 2 and "pinned in" not in farm.server.log
    make_certificate(farm.pi.data)  # and the Pi shows it to who comes now
    farm.pi.kill9()
    farm.pi.start()
    eventually(lambda: "copy its pi-cert.pem" in (farm.status()["last_error"] or ""), 20)
    shutil.copy(farm.pi.data / "pi-cert.pem", farm.server.data)
    farm.fill(1, "BATCH002")
    farm.assert_identical(20)
    pins.write_text("half a certif")
    farm.pi.kill9()
    farm.pi.start()
    farm.fill(1, "BATCH003")
    farm.assert_identical(20)
    assert "the one of before stays trusted" in farm.server.log and farm.server.pids() == processes


def test_a_switch_that_a_power_cut_broke_off_is_finished_at_the_next_start(farm: Farm) -> None:
    settings = Settings(data_dir=farm.pi.data)
    make_next(settings)
    shown = fingerprint(certificates_in(settings.next_cert)[0])
    settings.next_key.replace(settings.pi_key)
    farm.pi.launch()
    eventually(lambda: not settings.next_cert.exists())
    eventually(lambda: _shows(farm) == shown, 20)


def _shows(farm: Farm) -> str | None:
    with suppress(OSError):
        return shown_by(farm)
    return None


def test_wherever_a_power_cut_breaks_a_renewal_off_certificate_and_key_belong_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rename may be the last thing that happened."""
    settings = Settings(data_dir=tmp_path)
    make_certificate(tmp_path)
    for renames in range(5):
        left = iter([True] * renames)
        rename = Path.replace

        def replace(source: Path, target: Path, rename=rename, left=left) -> Path:  # type: ignore[no-untyped-def]
            if not next(left, False):
                raise KeyboardInterrupt
            moved: Path = rename(source, target)
            return moved

        monkeypatch.setattr(Path, "replace", replace)
        with suppress(KeyboardInterrupt):
            if not has_next(settings):
                make_next(settings)
            switch_certificates(settings)
        monkeypatch.undo()
        settle(settings)
        ServerTls(settings.pi_cert, settings.pi_key)
    settle(settings)


def test_in_the_middle_of_a_switch_the_next_certificate_is_named_still_or_in_use_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server to which it was not named for a moment would trust it no more, just before it is used."""
    settings = Settings(data_dir=tmp_path)
    make_certificate(tmp_path)
    make_next(settings)
    before = certificates(settings)
    named = []
    rename = Path.replace

    def replace(source: Path, target: Path) -> Path:
        moved = rename(source, target)
        named.append(certificates(settings))
        return moved

    monkeypatch.setattr(Path, "replace", replace)
    switch_certificates(settings)
    assert before.next and named == [before, Certificates(before.next, None)]
    monkeypatch.undo()
    make_next(settings)
    read, there = fingerprint_of, certificates(settings)

    def switched_before(path: Path) -> str:
        if path == settings.pi_cert and has_next(settings):
            switch_certificates(settings)  # after the next one was read
        return read(path)

    monkeypatch.setattr(renewal, "fingerprint_of", switched_before)
    assert certificates(settings) == Certificates(str(there.next), None)


def test_a_listener_goes_on_with_the_certificate_of_before_until_the_files_fit(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    make_certificate(tmp_path)
    make_certificate(tmp_path / "new")
    cert, key = tmp_path / "pi-cert.pem", tmp_path / "pi-key.pem"
    tls = ServerTls(cert, key)
    before = tls.context()
    assert tls.context() is before
    (tmp_path / "new" / "pi-key.pem").replace(key)
    assert tls.context() is before
    (tmp_path / "new" / "pi-cert.pem").replace(cert)
    assert tls.context() is not before
    cert.unlink()
    with pytest.raises(ConfigError):
        ServerTls(cert, key)


def test_where_both_roles_share_a_folder_the_pin_is_the_pis_own_file_and_stays_so(tmp_path: Path) -> None:
    """As in the demo: the server must not write over what belongs to the Pi, whoever of the two is quicker."""
    settings = Settings(data_dir=tmp_path)
    make_certificate(tmp_path)
    credentials = Credentials(settings)
    for _ in range(2):
        make_next(settings)
        [following] = certificates_in(settings.next_cert)
        assert credentials.announced(following)
        both = credentials.present().context
        assert isinstance(both, PinnedContext) and following in both.pins
        switch_certificates(settings)
        between = credentials.present().context
        assert isinstance(between, PinnedContext)
        between.presented = following  # it has connected
        alone = credentials.present().context
        assert isinstance(alone, PinnedContext) and alone.pins == {following}
        assert certificates_in(settings.pi_cert) == [following] and not settings.announced_cert.exists()
        ServerTls(settings.pi_cert, settings.pi_key)


def test_a_next_certificate_that_cannot_be_kept_is_not_said_to_be_trusted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(data_dir=tmp_path)
    make_certificate(tmp_path)
    make_certificate(tmp_path, "other")
    credentials = Credentials(settings)
    before = credentials.present()
    settings.announced_cert.mkdir()
    [other] = certificates_in(tmp_path / "other-cert.pem")
    assert not credentials.announced(other) and "cannot be kept" in caplog.text
    settings.announced_cert.rmdir()
    assert not credentials.announced(b"no certificate")
    assert credentials.present() is before and not credentials.is_pinned(fingerprint(other))


def test_a_file_that_root_writes_stays_its_owners(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("A=1\n")
    if os.geteuid() == 0:
        os.chown(env, 1234, 1234)
    owner = env.stat().st_uid, env.stat().st_gid
    link = tmp_path / "link"
    link.symlink_to(env)
    write_env(link, "A=2\n")
    assert link.is_symlink() and env.read_text() == "A=2\n"
    assert (env.stat().st_uid, env.stat().st_gid) == owner and env.stat().st_mode & 0o777 == 0o600


def test_a_setting_that_counts_after_a_restart_only_is_said_once_by_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    env = tmp_path / ".env"
    env.write_text("REMOTE_PI_HOST=192.0.2.1\nPI_API_KEY=hxb_of_the_file\n")
    credentials = Credentials(Settings(data_dir=tmp_path, use_ssl_for_pi=False), env)
    credentials.present()
    env.write_text("REMOTE_PI_HOST=192.0.2.2\nPI_API_KEY=hxb_of_the_file\nSECRET_KEY=quite-a-secret-of-ours\n")
    for _ in range(3):
        credentials.present(again=True)
    (said,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert said == f"SECRET_KEY, REMOTE_PI_HOST in {env} changed: that counts after a restart of the server"
    env.write_text("REMOTE_PI_HOST=192.0.2.1\nPI_API_KEY=hxb_of_the_file_anew\n")
    assert credentials.present(again=True).key == "hxb_of_the_file_anew"
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


# --- exactly what is pinned


def issue(folder: Path, name: str, *arguments: str, signed_by: str = "") -> None:
    """`NAME-cert.pem` and `NAME-key.pem`, as openssl makes them with these arguments."""
    files = ["-keyout", str(folder / f"{name}-key.pem"), "-out", str(folder / f"{name}-cert.pem")]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"]
    by = ["-CA", str(folder / f"{signed_by}-cert.pem"), "-CAkey", str(folder / f"{signed_by}-key.pem")] if signed_by else []
    subprocess.run(["openssl", "req", "-x509", *curve, *by, *arguments, *files], check=True, capture_output=True)


def failures(settings: Settings) -> list[str]:
    """Why the client, the writer and the socket do not get as far as an answer in http, each "" where it does."""

    def asked() -> None:
        with closing(PiClient(settings, "test")) as client:
            client.facts("/schema")

    def listened() -> None:
        socket_ = PiSocket(settings, Credentials(settings).present().context, lambda _: None, lambda: None)
        try:
            socket_.open({"X-API-Key": settings.pi_api_key})
        finally:
            socket_.hang_up()

    found = []
    for act in (asked, listened, lambda: PiWriter(settings).send("GET", "/key", None, actor="ann", key="k" * 12)):
        try:
            act()
        except Unreachable as exc:
            found.append(exc.message if re.search("certificate|TLS|reached", exc.message) else "")
        except Exception:
            found.append("")
        else:
            found.append("")
    return found


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("years", [(2020, 2021), (2040, 2041)], ids=["expired", "not yet valid"])
def test_a_pinned_certificate_counts_whatever_its_dates_say_and_another_does_not(tmp_path: Path, years: tuple[int, int]) -> None:
    """A Pi without a clock may believe that it is 1970."""
    issue(tmp_path, "base")
    for name in ("pi", "other"):
        request = ["openssl", "req", "-new", "-key", str(tmp_path / "base-key.pem"), "-subj", "/CN=pi", "-out", str(tmp_path / "csr")]
        subprocess.run(request, check=True, capture_output=True)
        _sign_with_dates(tmp_path, name, years)
    with showing(tmp_path / "pi-cert.pem", tmp_path / "base-key.pem") as settings:
        assert failures(settings) == ["", "", ""]
    with showing(tmp_path / "other-cert.pem", tmp_path / "base-key.pem") as settings:
        assert all("nothing was sent" in failure for failure in failures(settings))


def _sign_with_dates(folder: Path, name: str, years: tuple[int, int]) -> None:
    """openssl's small authority is the one that takes dates, also where its `req` does not."""
    (folder / "index").write_text("")
    (folder / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=c\n[c]\ndatabase={folder}/index\nnew_certs_dir={folder}\ndefault_md=sha256\nrand_serial=yes\n"
        "policy=p\nunique_subject=no\n[p]\ncommonName=supplied\n"
    )
    command = ["openssl", "ca", "-batch", "-selfsign", "-config", str(folder / "ca.cnf"), "-keyfile", str(folder / "base-key.pem")]
    command += ["-in", str(folder / "csr"), "-out", str(folder / f"{name}-cert.pem"), "-notext"]
    for side, year in zip(("start", "end"), years, strict=True):
        command += [f"-{side}date", f"{year}0101000000Z"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_certificate_that_the_pinned_one_has_signed_is_another_one(tmp_path: Path) -> None:
    issue(tmp_path, "pi", "-addext", "basicConstraints=critical,CA:TRUE")
    try:
        issue(tmp_path, "signed", signed_by="pi")
    except subprocess.CalledProcessError:
        pytest.skip("this openssl signs by other commands")
    with showing(tmp_path / "signed-cert.pem", tmp_path / "signed-key.pem") as settings:
        assert all("nothing was sent" in failure for failure in failures(settings))


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_old_tls_is_refused_by_client_writer_and_socket(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    certificate, key = tmp_path / "pi-cert.pem", tmp_path / "pi-key.pem"
    with showing(certificate, key, "-tls1_2") as settings:
        assert failures(settings) == ["", "", ""]
    old = ["-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"]
    with showing(certificate, key, *old) as settings:
        _speaks_old_tls(settings)
        assert all("does not speak TLS as expected" in failure for failure in failures(settings))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def _speaks_old_tls(settings: Settings) -> None:
    """Or the test would show nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", settings.remote_pi_port)) as plain, context.wrap_socket(plain) as sock:
        assert sock.version() == "TLSv1.1"


def test_a_pi_is_reached_at_an_address_of_ipv6(farm: Farm) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
    farm.pi.settings["PI_BIND"] = "::"
    farm.server.settings["REMOTE_PI_HOST"] = "::1"
    farm.start()
    assert eventually(lambda: farm.status()["push"])
    assert requests.get(f"{farm.server.url}/livez", timeout=5).ok
