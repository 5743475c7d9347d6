#!/usr/bin/env python3
"""Feeds everything that parses with what nobody means well by: `scripts/fuzz_parsers.py 100000`.

So many cases for each parser, by hypothesis: noise, and well-formed things that were damaged. Exit code 1 unless each is either read, with
what its contract says of the result, or refused with an error of ours. The cases are the same each time.
"""

from __future__ import annotations

import sys
import time
import traceback
from pathlib import Path

import click
from hypothesis import HealthCheck, given, seed, settings

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from parser_cases import PARSERS, Parser  # noqa: E402  # of tests

SEED = 1
PER_RUN = 5_000  # cases of one run of hypothesis, which remembers each


def feed(parser: Parser, cases: int) -> int:
    """How many cases it got. Raises what the parser should not have raised."""
    fed = 0
    for number, done in enumerate(range(0, cases, PER_RUN)):

        @seed(SEED + number)
        @settings(max_examples=min(PER_RUN, cases - done), deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(parser.cases)
        def run(case: object) -> None:
            nonlocal fed
            fed += 1
            parser.check(case)

        run()
    return fed


@click.command(help=__doc__)
@click.argument("cases", type=click.IntRange(1), default=100_000)
@click.option("--only", help="One parser.", type=click.Choice([parser.name for parser in PARSERS]))
def main(cases: int, only: str | None) -> None:
    failed = 0
    for parser in PARSERS:
        if only not in (None, parser.name):
            continue
        began = time.monotonic()
        try:
            fed, end = feed(parser, cases), "all read or refused"
        except Exception:
            failed += 1
            fed, end = 0, f"FAILED\n{traceback.format_exc()[-3_000:]}"
        print(f"{parser.name:<24} {fed:>8} cases in {time.monotonic() - began:5.0f} s: {end}", flush=True)
    print(f"{failed} failed" if failed else "all held")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
