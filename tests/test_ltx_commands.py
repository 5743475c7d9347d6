"""`python -m changelog ltx`: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ltx_parts import BETWEEN, KEYS, START, S3Server, past, ship, shipped

from changelog.ltx.store.names import Name, as_text
from changelog.ltx.store.place import open_store

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "changelog", "ltx", *map(str, arguments)]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    return subprocess.run(command, cwd=ROOT, env=kept | environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """A folder that nobody changes, and its states."""
    folder = tmp_path_factory.mktemp("place") / "farm"
    return folder, shipped(folder, 5)[1]


def test_list_prints_a_line_for_each_file(place: tuple[Path, list[bytes]]) -> None:
    done = run("list", place[0])
    lines = done.stdout.splitlines()
    assert (done.returncode, len(lines)) == (0, 5)
    assert re.fullmatch(rf"0  0{{15}}1  0{{15}}1 +\d+  {re.escape(as_text(START + BETWEEN))}", lines[0])
    (found, *_) = json.loads(run("list", f"file://{place[0]}", "--json", "--level", "0").stdout)
    assert found["min_txid"] == found["max_txid"] == f"{1:016x}" and found["timestamp"] == as_text(START + BETWEEN)
    assert json.loads(run("list", place[0], "--json", "--level", "9").stdout) == []


def test_verify_says_sound_or_names_the_fault(place: tuple[Path, list[bytes]], tmp_path: Path) -> None:
    done = run("verify", place[0], "--restore")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "sound")
    assert "SQLite finds the database sound" in done.stdout and done.stderr == ""
    facts = json.loads(run("verify", place[0], "--json").stdout)
    assert (facts["ok"], facts["files"], facts["txid"], facts["from_files"]) == (True, 5, f"{5:016x}", 5)
    shipped(tmp_path / "b", 3)
    path = tmp_path / "b" / "ltx" / "0" / Name(0, 2, 2).file
    path.write_bytes(path.read_bytes()[:-1])
    done = run("verify", tmp_path / "b")
    assert done.returncode == 1 and f"WRONG       0/{path.name}: it breaks off after" in done.stdout
    facts = json.loads(run("verify", tmp_path / "b", "--json").stdout)
    assert not facts["ok"] and facts["faults"][0]["object"] == f"0/{path.name}"


def test_restore_makes_the_newest_and_earlier_states(place: tuple[Path, list[bytes]], tmp_path: Path) -> None:
    folder, images = place
    target = tmp_path / "out.db"
    done = run("restore", folder, target, "--integrity-check")
    assert (done.returncode, done.stdout) == (0, "") and "holds transaction 0000000000000005" in done.stderr
    assert target.read_bytes() == images[4]
    done = run("restore", folder, target, "--txid", "3", "--json", "--force")
    assert target.read_bytes() == images[2]
    facts = json.loads(done.stdout)
    assert (facts["txid"], facts["timestamp"], facts["size"]) == (f"{3:016x}", as_text(START + 3 * BETWEEN), len(images[2]))
    run("restore", folder, target, "--timestamp", as_text(START + 2 * BETWEEN + 1), "--force")
    assert target.read_bytes() == images[1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--txid", "6"], 1, "no state right after transaction 0000000000000006"),
        (["--txid", "none"], 2, "no transaction as `ltx list` prints it"),
        (["--txid", "0"], 2, "no transaction as `ltx list` prints it"),
        (["--timestamp", "yesterday"], 2, "'yesterday' is not a time"),
        (["--timestamp", "2020-01-01T00:00:00Z"], 1, "reaches from"),
        (["--txid", "1", "--timestamp", "2026-01-01"], 2, "not both"),
    ],
)
def test_what_cannot_be_restored_is_said(
    place: tuple[Path, list[bytes]], tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    done = run("restore", place[0], tmp_path / "out.db", *arguments)
    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_is_kept(place: tuple[Path, list[bytes]], tmp_path: Path) -> None:
    (tmp_path / "out.db").write_bytes(b"mine")
    done = run("restore", place[0], tmp_path / "out.db")
    assert done.returncode == 1 and "--force" in done.stderr
    assert (tmp_path / "out.db").read_bytes() == b"mine"


@pytest.mark.parametrize("url", ["gs://bucket/x", "s3://key:secret@bucket/x", "s3://bucket/x?foo=1"])
def test_an_address_that_cannot_be_is_wrong_usage(url: str) -> None:
    for verb in (["list", url], ["verify", url], ["restore", url, "out.db"]):
        done = run(*verb)
        assert done.returncode == 2 and "error:" in done.stderr and "secret" not in done.stderr


def test_nothing_there_is_said(tmp_path: Path) -> None:
    assert run("list", tmp_path).stderr == "nothing is there\n"
    for verb in (["verify", tmp_path], ["restore", tmp_path, tmp_path / "out.db"]):
        done = run(*verb)
        assert done.returncode == 1 and "holds no backup" in done.stderr


def test_a_bucket_is_listed_verified_and_restored_and_no_secret_is_shown(moto: S3Server, tmp_path: Path) -> None:
    url, images = moto.url("farm"), past(4)
    ship(open_store(url), images)
    done = [run("list", url, **KEYS), run("verify", url, **KEYS), run("restore", url, tmp_path / "out.db", **KEYS)]
    assert [one.returncode for one in done] == [0, 0, 0]
    assert (tmp_path / "out.db").read_bytes() == images[-1]
    done.append(run("list", moto.url("x", bucket="nowhere"), **KEYS))
    done.append(run("list", url, AWS_EC2_METADATA_DISABLED="true", HOME=str(tmp_path)))
    assert "no bucket nowhere" in done[3].stderr and "there is no key for S3" in done[4].stderr
    assert not any(secret in one.stdout + one.stderr for one in done for secret in KEYS.values())
    assert [one.returncode for one in done[3:]] == [1, 1]
    assert run("list", f"s3://{moto.bucket}/farm", **KEYS, AWS_ENDPOINT_URL=moto.endpoint).stdout == done[0].stdout


def test_boto3_is_loaded_for_a_bucket_only(place: tuple[Path, list[bytes]]) -> None:
    program = "import sys; from changelog.__main__ import main; main(sys.argv[1:], standalone_mode=False); print('boto3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, "ltx", "list", place[0]], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_bar_is_drawn_on_a_terminal(place: tuple[Path, list[bytes]], tmp_path: Path) -> None:
    done = subprocess.run(
        ["script", "-qec", f"{sys.executable} -m changelog ltx restore {place[0]} {tmp_path}/out.db", "/dev/null"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "restoring" in done.stdout and "100%" in done.stdout
