"""A short run of the fuzzers of parsers and of both APIs; the long ones are scripts/fuzz_parsers.py and scripts/fuzz_api.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parser_cases import CHECKS, JSON, LIKELY, PARSERS, Parser

from changelog.errors import BadRequest, DroverError
from changelog.position import Position

EXAMPLES = 100  # of each parser
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_whatever_comes_is_read_or_refused_with_an_error_of_ours(parser: Parser) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(parser.cases)
    def run(case: object) -> None:
        parser.check(case)

    run()


def test_a_position_has_the_digits_that_are_printed() -> None:
    """Once those of every script were taken."""
    with pytest.raises(BadRequest):
        Position.parse("0" * 32 + "/\u0663/7")


@settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True)
@given(st.sampled_from(sorted(CHECKS)), st.data())
def test_what_a_check_takes_its_description_allows(which: str, data: st.DataObject) -> None:
    """The description of a body is made of these schemas: it must forbid nothing that is taken."""
    name = data.draw(st.sampled_from(sorted(CHECKS[which])))
    value, check = data.draw(LIKELY | JSON), CHECKS[which][name]
    try:
        check({name: value}, name)
    except DroverError:
        return
    assert jsonschema_rs.is_valid(check.schema, value)


@pytest.mark.timeout(240)
def test_both_apis_answer_whatever_is_asked_as_they_are_described() -> None:
    asking = [word for caller in ("office for an admin", "nobody") for word in ("--caller", caller)]
    command = [sys.executable, ROOT / "scripts/fuzz_api.py", "5", "--no-edges", *asking]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    assert ": 0 faults" in done.stdout
