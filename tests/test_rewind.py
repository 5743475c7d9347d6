"""A short run of the proof that a primary which went back in time loses nothing: scripts/prove_rewind.py 1000 is the long one."""

from __future__ import annotations

from scripts.prove_rewind import KINDS, prove

POINTS = 24


def test_a_primary_that_goes_back_is_found_out_mirrored_and_given_what_it_lost() -> None:
    problems: list[str] = []
    counts = prove(POINTS, first=7, report=problems.append)
    assert not problems
    assert counts["found out at the first request"] == counts["points"] == POINTS
    assert counts["lost changes"] == counts["lost changes offered back"] > POINTS
    assert counts["wrong tables"] == counts["missing"] == 0
    assert all(counts[f"by {kind}"] >= POINTS / 4 for kind in KINDS)
    assert counts["seqs used again"] >= POINTS / 2 and counts["typed again"] >= POINTS / 4
    assert counts["changes inserted"] and counts["changes already there"] and counts["older changes carried over"]
