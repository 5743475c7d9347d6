"""The proofs that run real processes, at a twentieth of their size; the long runs are the same scripts with their default."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOOSE = ("--list", "50", "--page", "200", "--ratio", "4")  # likewise: what would break these is a list that is sorted or counted as a whole
PATIENT = "2000"  # ms: beside other tests on a small machine, what is measured there is the machine


def prove(script: str, *words: str) -> str:
    """What a proof prints; it must hold."""
    command = [sys.executable, str(ROOT / "scripts" / script), *words]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-6_000:]
    assert done.stdout.endswith("all held\n")
    return done.stdout


def test_a_bootstrap_disturbs_neither_the_writer_nor_the_readers(tmp_path: Path) -> None:
    printed = prove("prove_bootstrap.py", "5000", "--longest-wait", PATIENT, "--folder", str(tmp_path))
    assert printed.count("0 wrong or empty") == 2


def test_a_catch_up_over_a_whole_line_is_one_commit_and_crosses_it_once(tmp_path: Path) -> None:
    printed = prove("prove_catchup.py", "2000", "--cut-after", "1000000000", "--no-kill", "--folder", str(tmp_path))
    assert "changes 2000 arrived: 1.000 times" in printed


def test_a_catch_up_over_a_line_that_breaks_loses_a_page_at_each_cut(tmp_path: Path) -> None:
    prove("prove_catchup.py", "25000", "--folder", str(tmp_path))


def test_a_stranger_under_the_address_of_our_pi_changes_no_row_and_is_told_of(tmp_path: Path) -> None:
    printed = prove("prove_two_pis.py", "6", "--kind", "stranger", "--folder", str(tmp_path))
    assert "0 changes in" in printed and "copies  0 fetched" in printed


def test_a_clone_under_the_address_of_our_pi_is_told_of_and_rows_do_not_go_to_and_fro(tmp_path: Path) -> None:
    prove("prove_two_pis.py", "6", "--kind", "clone", "--folder", str(tmp_path))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium on this machine")
def test_a_commit_on_the_pi_is_on_the_page_at_once() -> None:
    assert "10 commits" in prove("prove_browser.py", "10", "--p99", PATIENT)


def test_commits_on_the_pi_can_be_read_on_the_replica_whoever_wrote_them(tmp_path: Path) -> None:
    printed = prove("prove_realtime.py", "50", "--alone", "--p50", PATIENT, "--p99", PATIENT, "--folder", str(tmp_path))
    seen = [int(count) for count in re.findall(r"^(?:POST|the sqlite3|a foreign).* (\d+) commits  p50 ", printed, re.MULTILINE)]
    assert len(seen) == 4 and min(seen) >= 45, "on a busy machine two commits may fall between two looks"


def test_a_socket_that_is_cut_refused_or_silent_loses_nothing(tmp_path: Path) -> None:
    printed = prove("prove_cuts.py", "50", "--folder", str(tmp_path))
    assert printed.count("25 ") >= 2 and "upgrades refused" in printed and "went silent" in printed


def test_a_push_reaches_twenty_replicas_whole_and_in_order() -> None:
    limits = ("--most-cpu", "100", "--most-idle", "20", "--most-growth", "20", "--p99", PATIENT)
    printed = prove("prove_push.py", "20", "5", "--idle", "1", *limits)
    assert "20 replicas" in printed and "0 of " in printed


def test_what_a_page_costs_does_not_grow_with_the_herd(tmp_path: Path) -> None:
    printed = prove("prove_pages.py", "1500", "--rounds", "10", *LOOSE, "--folder", str(tmp_path))
    assert printed.count(", last page") == 6


def test_half_open_connections_hold_up_nobody_at_either_role(tmp_path: Path) -> None:
    printed = prove("prove_abuse.py", "30", "--half", "80", "--folder", str(tmp_path))
    assert printed.count("half-open") == 4 and printed.count(" 0 failed") == 2


def test_bad_weather_on_the_line_loses_nothing_doubles_nothing_and_shows_no_state_that_never_was(tmp_path: Path) -> None:
    printed = prove("prove_network.py", "25", "--stride", "200", "--folder", str(tmp_path))
    assert "weather: " in printed and "meddled: flip, plain" in printed and "a write cut, up" in printed


def test_a_radio_in_bad_condition_loses_no_good_frame(tmp_path: Path) -> None:
    assert "1,000 good frames" in prove("prove_radio.py", "1000")


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="takes minutes: `CI=true pytest`, or `scripts/soak.sh 3`")
def test_everything_at_once_leaves_nothing_that_grows_and_all_identical() -> None:
    printed = prove("soak.py", "3")
    assert "pages read" in printed and "ship: memory" in printed
