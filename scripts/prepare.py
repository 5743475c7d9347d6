"""Makes what a first start needs and leaves alone what is there: `python -m scripts.prepare demo|pi|server`, as scripts/run.sh does.

.env with random secrets, certificate, database, first login, and in the demo the office's key. What is wrong is one line on stderr and
exit code 1. Standard output is for run.sh: assignments in the language of the shell.
"""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import NoReturn

from dotenv import dotenv_values

from changelog.connection import connect, one
from changelog.errors import ConfigError, DroverError
from changelog.node.env_file import with_setting, write_env
from changelog.node.runner import Role, listen
from changelog.node.settings import Settings, prepare_data_dir
from changelog.storage import STORAGE, in_words
from pi import farm
from pi.certificate import make_certificate, settle
from pi.keys import OFFICE, ROLES, Keys

ENV = Path(".env")
LOGIN = "admin"
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where what listens everywhere is reached from here


def main() -> None:
    """Prepare for the role that is named."""
    role = sys.argv[1]
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # to stderr: a new farm, or what a takeover did
    try:
        make_env()
        {"demo": prepare_demo, "pi": prepare_pi, "server": prepare_server}[role]()
    except DroverError as exc:
        sys.exit(f"error: {exc.message}")
    except STORAGE as exc:
        sys.exit(f"error: the databases cannot be made ready: {in_words(exc)}")
    except OSError as exc:
        sys.exit(f"error: {os.path.abspath(exc.filename or '.')} cannot be used: {exc.strerror}")


def prepare_demo() -> None:
    """Both roles and a radio on this machine; on loopback, unless the settings say otherwise."""
    settings = Settings.load()
    chosen = {name: text for name, text in {**dotenv_values(ENV), **os.environ}.items() if text}
    defaults = {"PI_BIND": "127.0.0.1", "SERVER_BIND": "127.0.0.1"}
    pi_host = chosen.get("PI_BIND", defaults["PI_BIND"])
    defaults |= {"REMOTE_PI_HOST": ANY_ADDRESS.get(pi_host, pi_host), "REMOTE_PI_PORT": str(settings.pi_port)}
    defaults |= {"USE_SSL_FOR_PI": str(settings.pi_tls), "LORA_SERIAL_PORT": str(settings.data_dir / "lora")}
    exports = {name: text for name, text in defaults.items() if name not in chosen}
    os.environ.update(exports)
    settings = Settings.load()
    for name, bind, port in (("pi", settings.pi_bind, settings.pi_port), ("server", settings.server_bind, settings.server_port)):
        listen(Role(name, bind, port, None, None, no_application)).close()  # a taken port shows itself before anything starts
    password = make_pi(settings)
    make_office_key(settings)
    with closing(connect(settings.farm_db, readonly=True)) as db:
        login = LOGIN if farm.has_farm(db) else ""
    facts = {
        "LOGIN": login,
        "PASSWORD": password,
        "DATA": str(settings.data_dir),
        "FARM": str(settings.farm_db),
        "RADIO": settings.lora_serial_port,
        "LINK": exports.get("LORA_SERIAL_PORT", ""),
        "PI_HOST": ANY_ADDRESS.get(settings.pi_bind, settings.pi_bind),
        "PI_AT": str(settings.pi_port),
        "PI_SCHEME": "https" if settings.pi_tls else "http",
        "SERVER_HOST": ANY_ADDRESS.get(settings.server_bind, settings.server_bind),
        "SERVER_AT": str(settings.server_port),
        "CERTIFICATE": str(settings.pi_cert),
        "BUCKET": settings.litestream_bucket,
    }
    print(*(f"export {name}={shlex.quote(text)}" for name, text in exports.items()), sep="\n")
    print(*(f"{name}={shlex.quote(text)}" for name, text in facts.items()), sep="\n")


def prepare_pi() -> None:
    """A real Pi: its certificate, database and first login."""
    make_pi(Settings.load())


def prepare_server() -> None:
    """A real server: nothing is made here that only the Pi can give. Raises ConfigError saying what to bring, if it is needed."""
    settings = Settings.load()
    prepare_data_dir(settings)
    if not settings.is_server_ui or settings.follow == "bucket":
        return
    missing = []
    if settings.use_ssl_for_pi and settings.use_self_signed_cert and not settings.pi_cert.exists():
        missing.append(f"the Pi's certificate: copy its data/pi-cert.pem to {settings.pi_cert} here (not the key file)")
    if not settings.pi_api_key:
        missing.append("PI_API_KEY in .env: `.venv/bin/python -m pi key add server --role office` on the Pi prints one")
    if missing:
        paired = "`.venv/bin/python -m pi pair` on the Pi prints the command that brings both"
        raise ConfigError(f"the server is not joined to a Pi yet: {paired}. By hand it needs {'; and '.join(missing)}")


def no_application() -> NoReturn:
    """Stands where a role that is never served has its application."""
    raise NotImplementedError


def make_env() -> None:
    """The .env file, from .env.example, with a secret of its own."""
    if ENV.exists():
        return
    text = Path(".env.example").read_text(encoding="utf-8")
    write_env(ENV, with_setting(text, "SECRET_KEY", secrets.token_hex(32)))


def make_pi(settings: Settings) -> str:
    """Everything of a Pi that is missing; returns the password of the first login when that was made just now, else ''."""
    prepare_data_dir(settings)
    settle(settings)
    if settings.pi_tls and not settings.pi_cert.exists():
        make_certificate(settings.pi_cert, settings.pi_key)
    farm.open_farm(settings.farm_db)
    with closing(connect(settings.farm_db, readonly=True)) as db:
        if not farm.has_farm(db) or one(db, "SELECT count(*) FROM users"):
            return ""
    if logs_to_journal():
        logging.info("nobody can sign in yet: python -m pi user add NAME")
        return ""
    password = secrets.token_urlsafe(12)
    # Said before it is so: who is interrupted in between is given another one at the next start, and none is ever lost.
    print(f"first login to the office: user {LOGIN}, password {password} (shown this once)", file=sys.stderr)
    command(["user", "add", LOGIN, "--role", "admin", "--password-stdin"], password + "\n")
    return password


def logs_to_journal() -> bool:
    """Whether stderr is systemd's journal, where no password belongs."""
    facts = os.fstat(2)
    return os.environ.get("JOURNAL_STREAM") == f"{facts.st_dev}:{facts.st_ino}"


def make_office_key(settings: Settings) -> None:
    """PI_API_KEY in .env, unless the one there is known to the Pi."""
    with closing(Keys(settings.pi_db)) as keys:
        if keys.still_admits(settings.pi_api_key, *ROLES):
            return
        name = "server" if all(row["name"] != "server" for row in keys.rows()) else f"server-{time.strftime('%Y%m%d-%H%M%S')}"
        key = keys.add(name, OFFICE)
    write_env(ENV, with_setting(ENV.read_text(encoding="utf-8"), "PI_API_KEY", key))


def command(words: list[str], given: str) -> None:
    """Run `python -m pi` with these words. Raises ConfigError with what it complains of."""
    done = subprocess.run([sys.executable, "-m", "pi", *words], input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(done.stderr.strip().removeprefix("error: "))


if __name__ == "__main__":
    main()
