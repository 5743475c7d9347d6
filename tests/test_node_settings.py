"""The settings: where they come from, what is refused and how it is said."""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from changelog.errors import ConfigError
from changelog.node.settings import Settings, prepare_data_dir

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / ".env.example"


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def refusal(env_file: Path, text: str, **environ: str) -> str:
    """The one line with which these settings are refused."""
    env_file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        Settings.load(env_file, environ)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_without_a_file_every_setting_has_its_default(env_file: Path) -> None:
    assert Settings.load(env_file, {}) == Settings()


def test_the_lines_of_the_users_document_are_read_with_their_comments(env_file: Path) -> None:
    env_file.write_text(
        "# Pi connection\nREMOTE_PI_HOST=192.168.1.100\nREMOTE_PI_PORT=5001\nPI_API_KEY=hxb_6f8a9c2d1e5b4a3f7g8h9i0j\n\n"
        "DB_SYNC_INTERVAL=10  # Seconds between syncs (default: 10)\nUSE_SSL_FOR_PI=True\nUSE_SELF_SIGNED_CERT=True\n"
    )
    settings = Settings.load(env_file, {})
    assert (settings.remote_pi_host, settings.remote_pi_port) == ("192.168.1.100", 5001)
    assert settings.pi_api_key == "hxb_6f8a9c2d1e5b4a3f7g8h9i0j"
    assert repr(settings.db_sync_interval) == "10"


def test_the_environment_wins_over_the_file_and_an_empty_value_is_none(env_file: Path) -> None:
    env_file.write_text("PI_PORT=6001\nSERVER_PORT=\nLOG_LEVEL=DEBUG\n")
    settings = Settings.load(env_file, {"PI_PORT": "7001", "LOG_LEVEL": ""})
    assert (settings.pi_port, settings.server_port, settings.log_level) == (7001, 5000, "DEBUG")


@pytest.mark.parametrize("text", ["True", "true", "1", "yes", "ON"])
def test_a_flag_is_set_by_any_common_word(env_file: Path, text: str) -> None:
    assert Settings.load(env_file, {"LORA_OPEN_INGEST": text}).lora_open_ingest is True


@pytest.mark.parametrize("text", ["False", "FALSE", "0", "no", "off"])
def test_a_flag_is_cleared_by_any_common_word(env_file: Path, text: str) -> None:
    assert Settings.load(env_file, {"PI_TLS": text}).pi_tls is False


def test_a_misspelt_name_is_refused_with_the_nearest_known_one(env_file: Path) -> None:
    assert refusal(env_file, "DB_SYNC_INTERVALL=10\n") == f"{env_file}: unknown setting DB_SYNC_INTERVALL: did you mean DB_SYNC_INTERVAL?"
    assert ".env.example" in refusal(env_file, "FLUX=1\n")


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("PI_PORT=70000", "a whole number from 1 to 65535"),
        ("PI_PORT=80.5", "a whole number from 1 to 65535"),
        ("DB_SYNC_INTERVAL=ten", "a number of seconds from 0.1 to 3600"),
        ("DB_SYNC_INTERVAL=-1", "a number of seconds from 0.1 to 3600"),
        ("PI_TLS=maybe", "True or False"),
        ("LOG_LEVEL=LOUD", "DEBUG, INFO, WARNING or ERROR"),
        ("REMOTE_PI_HOST=https://pi", "a host name or an address, without scheme and port"),
        ("VERIFY_AT=25:00", "a time of day in UTC such as 03:30"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(env_file: Path, line: str, allowed: str) -> None:
    assert refusal(env_file, f"{line}\n") == f"{env_file}: {line} is not allowed: it takes {allowed}"


def test_a_wrong_value_in_the_environment_says_so(env_file: Path) -> None:
    assert refusal(env_file, "PI_PORT=5001\n", PI_PORT="none").startswith("environment: PI_PORT=none is not allowed")


def test_a_secret_is_never_shown(env_file: Path) -> None:
    assert "tooshort" not in refusal(env_file, "SECRET_KEY=tooshort\n")
    env_file.write_text("SECRET_KEY=0123456789abcdef\nPI_API_KEY=hxb_abcdefgh\n")
    settings = Settings.load(env_file, {})
    assert settings.secrets == ("0123456789abcdef", "hxb_abcdefgh")
    assert "0123456789abcdef" not in repr(settings) and "hxb_abcdefgh" not in repr(settings)


@pytest.mark.parametrize("text", ["\n\nthis is no setting\n", "\n\nPI_PORT\n", "\n\nSECRET_KEY='never closed\n"])
def test_a_line_that_is_no_setting_is_refused_by_its_number(env_file: Path, text: str) -> None:
    assert f"{env_file}: line 3 cannot be read" in refusal(env_file, text)


def test_a_name_that_is_set_twice_is_refused(env_file: Path) -> None:
    assert "PI_PORT is set twice, again in line 2" in refusal(env_file, "PI_PORT=1\nPI_PORT=2\n")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, env_file: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        Settings.load(tmp_path, {})
    env_file.write_bytes(b"PI_BIND=\xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        Settings.load(env_file, {})


def test_aws_names_of_the_file_go_to_the_environment_untouched(env_file: Path) -> None:
    env_file.write_text("AWS_REGION=eu-central-1\nAWS_ACCESS_KEY_ID=file\n")
    environ = {"AWS_ACCESS_KEY_ID": "environment"}
    Settings.load(env_file, environ)
    assert environ == {"AWS_ACCESS_KEY_ID": "environment", "AWS_REGION": "eu-central-1"}


def test_paths_follow_the_data_folder_unless_they_are_set(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert settings.farm_db == tmp_path / "farm.db"
    assert (settings.pi_cert, settings.pi_key) == (tmp_path / "pi-cert.pem", tmp_path / "pi-key.pem")
    set_apart = Settings(data_dir=tmp_path, pi_database=Path("/srv/herd.db"), pi_cert=Path("/etc/drover/cert.pem"))
    assert (set_apart.farm_db, set_apart.pi_key) == (Path("/srv/herd.db"), Path("/etc/drover/pi-key.pem"))


def test_stale_after_is_three_intervals_and_at_least_thirty_seconds() -> None:
    assert [Settings(db_sync_interval=s).stale_after for s in (2, 20)] == [30, 60]
    assert Settings(db_sync_interval=20, stale_after=5).stale_after == 5


def test_the_example_names_every_setting_with_its_default(env_file: Path) -> None:
    settings = re.sub(r"^#(?=[A-Z_]+=)", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    assert re.findall(r"^([A-Z_]+)=", settings, re.MULTILINE) == [field.name.upper() for field in dataclasses.fields(Settings)]
    env_file.write_text(settings)
    assert Settings.load(env_file, {}) == Settings()


PREPARE = """
import sys, pathlib
from changelog.node.settings import Settings, prepare_data_dir
prepare_data_dir(Settings(data_dir=pathlib.Path(sys.argv[1])))
pathlib.Path(sys.argv[1], "farm.db").touch()
"""


def test_a_new_data_folder_is_its_groups_and_so_are_the_files_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "data"
    subprocess.run([sys.executable, "-c", PREPARE, str(folder)], check=True, cwd=ROOT)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o2770
    assert stat.S_IMODE((folder / "farm.db").stat().st_mode) == 0o660
    assert folder.stat().st_gid == (folder / "farm.db").stat().st_gid


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        for folder in (Path("/proc/drover"), Path("/proc"), tmp_path / "file" / "data"):
            (tmp_path / "file").touch()
            with pytest.raises(ConfigError, match=f"DATA_DIR={folder} cannot be written"):
                prepare_data_dir(Settings(data_dir=folder))
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")
def test_a_file_that_this_user_may_not_read_names_its_owner(entered_by_all: Path) -> None:
    env_file = entered_by_all / ".env"
    env_file.write_text("PI_PORT=5001\n")
    env_file.chmod(0o600)
    os.seteuid(65_534)
    try:
        with pytest.raises(ConfigError, match="Permission denied: it belongs to root: run this as that user"):
            Settings.load(env_file, {})
    finally:
        os.seteuid(0)
