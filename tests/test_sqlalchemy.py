"""An existing Flask-SQLAlchemy program, unchanged, over the replica of a running farm."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from farm_processes import Farm

WEIGHED = "2026-03-01T08:30:00"


class Program:
    """The program as a process; each request is answered by one line."""

    def __init__(self, replica: Path) -> None:
        command = [sys.executable, str(Path(__file__).with_name("sqlalchemy_app.py")), f"sqlite:///file:{replica}?mode=ro&uri=true"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def get(self, path: str) -> tuple[int, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{path}\n")
        status, body = json.loads(self.process.stdout.readline())
        return status, body

    def end(self) -> None:
        self.process.communicate(timeout=10)


@pytest.fixture
def program(farm: Farm) -> Iterator[Program]:
    farm.start()
    farm.pi.sql("INSERT INTO pens(pen_number, capacity) VALUES('P1', 40), ('P2', 40)")
    for number in range(3):
        farm.post(f"hxb:SQLA:LF{number}:UHF{number}")
    farm.pi.sql(
        f"""UPDATE cattle SET weight=300+id, pen_id=1 WHERE lf_tag<>'LF2';
            INSERT INTO weight_records(cattle_id, weight, recorded_at) SELECT id, 300, '{WEIGHED}' FROM cattle WHERE lf_tag='LF0'"""
    )
    farm.assert_identical()
    program = Program(farm.server.database)
    yield program
    program.end()


def test_its_queries_filters_and_relationships_work_on_the_replica(program: Program) -> None:
    status, found = program.get("/batches")
    assert status == 200
    assert [(batch["batch_number"], batch["source"], batch["source_type"]) for batch in found] == [("SQLA", "Barn (HXB)", "hxb")]
    assert program.get("/batches/SQLA")[1]["animals"] == ["SQLA-LF0", "SQLA-LF1", "SQLA-LF2"]
    assert program.get("/batches/NONE")[0] == 404
    assert program.get("/cattle?batch=SQ&page=1")[1] == {"total": 2, "animals": ["SQLA-LF1", "SQLA-LF0"]}
    assert program.get("/pens")[1] == {"P1": [2, 2], "P2": [0, 0]}
    assert program.get("/weights/SQLA-LF0")[1] == [[300.0, WEIGHED, "SQLA"]]


def test_it_sees_what_the_pi_writes_and_cannot_write_itself(farm: Farm, program: Program) -> None:
    assert len(program.get("/batches")[1]) == 1
    farm.post("hxb:LATER:LF9:UHF9")
    farm.pi.sql("DELETE FROM pens WHERE pen_number='P2'")
    farm.assert_identical()
    assert [batch["batch_number"] for batch in program.get("/batches")[1]] == ["SQLA", "LATER"]
    assert program.get("/pens")[1] == {"P1": [2, 2]}
    assert "readonly database" in program.get("/write")[1]
    assert program.get("/pens")[1] == {"P1": [2, 2]}


def test_it_goes_on_while_the_server_is_stopped(farm: Farm, program: Program) -> None:
    before = program.get("/cattle?batch=SQ&page=1")
    farm.server.stop()
    assert program.get("/cattle?batch=SQ&page=1") == before
    again = Program(farm.server.database)
    assert again.get("/cattle?batch=SQ&page=1") == before
    again.end()
