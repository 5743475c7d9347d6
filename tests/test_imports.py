"""Who may import whom: pi -> changelog <- server, and one home for each package of somebody else."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("changelog", "pi", "server")

ALLOWED = {"changelog": {"changelog"}, "pi": {"changelog", "pi"}, "server": {"changelog", "server"}}

HOMES = {  # a package, and the only places that import it
    "boto3": ["changelog/ltx/"],
    "botocore": ["changelog/ltx/"],
    "dotenv": ["changelog/node/env_file.py"],
    "gunicorn": ["changelog/node/"],
    "jinja2": ["server/rendering.py"],
    "prometheus_client": ["changelog/node/metrics.py"],
    "requests": ["server/"],
    "simple_websocket": ["changelog/node/sockets.py"],
    "serial": ["pi/serial_reader.py"],
    "engineio": ["changelog/node/sockets.py", "server/pi_socket.py"],
    "socketio": ["changelog/node/sockets.py", "server/pi_socket.py"],
    "urllib3": ["server/pi_client.py", "server/pi_writer.py"],
    "watchdog": ["changelog/commits.py"],
    "websocket": ["server/pi_socket.py"],
    "zstandard": ["changelog/compression.py"],
}
MANY_HOMES = {"apsw", "click", "flask", "markupsafe", "werkzeug", "flask_socketio", "lz4", "fastcrc"}
ONLY_IN_NODE = {  # as far as changelog goes
    "flask", "gunicorn", "dotenv", "werkzeug", "markupsafe", "jinja2", "requests", "urllib3", "prometheus_client",
    "flask_socketio", "socketio", "engineio",
}  # fmt: skip


def modules() -> list[Path]:
    return sorted(path.relative_to(ROOT) for package in OURS for path in (ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import, those inside functions and behind TYPE_CHECKING too; `from a import b` counts as a.b."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = list(path.parent.parts)[: len(path.parent.parts) - node.level + 1] if node.level else []
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__"):
            yield node.lineno, ast.unparse(node.args[0]).strip("'")


def found() -> Iterator[tuple[Path, int, str]]:
    for path in modules():
        for line, module in imports(path):
            yield path, line, module


def test_there_is_something_to_look_at() -> None:
    seen = {module.split(".")[0] for _, _, module in found()}
    assert {"apsw", "flask", "changelog"} <= seen and len(modules()) > 30


@pytest.mark.parametrize("package", OURS)
def test_the_arrows_point_to_the_changelog_only(package: str) -> None:
    wrong = [
        f"{path}:{line} {module}"
        for path, line, module in found()
        if path.parts[0] == package and (top := module.split(".")[0]) in (*OURS, "tests", "scripts") and top not in ALLOWED[package]
    ]
    assert not wrong


def test_the_engine_knows_no_process_and_no_web() -> None:
    wrong = [
        f"{path}:{line} {module}"
        for path, line, module in found()
        if path.parts[0] == "changelog"
        and path.parts[1] != "node"
        and (module.startswith("changelog.node") or module.split(".")[0] in ONLY_IN_NODE)
    ]
    assert not wrong


def test_the_standard_sqlite3_is_nowhere() -> None:
    """In one process with apsw its close() drops the file locks that apsw holds, and commits are lost."""
    assert not [f"{path}:{line}" for path, line, module in found() if module.split(".")[0] in ("sqlite3", "_sqlite3", "dbm")]


def test_each_package_of_somebody_else_has_one_home() -> None:
    wrong = []
    for path, line, module in found():
        top = module.split(".")[0]
        if top in (*OURS, "__future__", *sys.stdlib_module_names, *MANY_HOMES):
            continue
        if not any(path.as_posix().startswith(home) for home in HOMES.get(top, [])):
            wrong.append(f"{path}:{line} {module}")
    assert not wrong


def test_only_one_place_opens_database_files() -> None:
    wrong = []
    for path in modules():
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            opens = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func) == "apsw.Connection"
            if opens and path.as_posix() != "changelog/connection.py":
                wrong.append(f"{path}:{node.lineno}")
    assert not wrong


def test_every_pinned_package_is_imported_or_needed_by_one_that_is() -> None:
    direct = (ROOT / "requirements.txt").read_text().split("# What those need")[0]
    pinned = {line.split("==")[0].lower() for line in direct.splitlines() if "==" in line}
    names = {"pyserial": "serial", "python-dotenv": "dotenv", "python-socketio": "socketio"}
    names |= {"websocket-client": "websocket", "python-engineio": "engineio"}
    seen = {module.split(".")[0] for _, _, module in found()}
    assert {names.get(p, p.replace("-", "_")) for p in pinned} <= seen
