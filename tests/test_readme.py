"""README keeps its word: the blocks marked `bash tested`, and every command of the table "The document says → here", run in a demo."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

import pytest
import requests
from checkout import ROOT, Checkout
from farm_processes import eventually
from ltx_parts import ship

from changelog.ltx.store.folder import FolderStore

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"`((?:curl|sqlite3|tail|grep|ps|scripts/|\.venv/)[^`]*)`")
LARGEST_PICTURE = 150_000  # bytes
FOR_ANOTHER_MACHINE = re.compile(r"\b(NAME|TOKEN|http://server)\b")


def blocks() -> list[str]:
    """The marked blocks, in their order."""
    return [textwrap.dedent(found[2]) for found in re.finditer(r"^( *)```bash tested\n(.*?)^\1```", README, re.MULTILINE | re.DOTALL)]


def commands_of_the_table() -> list[str]:
    """The commands in the last column of the table, with the path of its key."""
    table = README.partition("| the document says | here |")[2].partition("\n\n")[0]
    cells = [re.split(r"(?<!\\)\|", line)[2] for line in table.splitlines() if line.startswith("| ")]
    found = [command.replace("\\|", "|") for cell in cells for command in COMMAND.findall(cell)]
    return [command.replace("tail -f", "tail -n 50") for command in found if not FOR_ANOTHER_MACHINE.search(command)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A running demo that has heard its radio."""
    checkout = Checkout(tmp_path_factory.mktemp("readme") / "drover")
    (checkout.folder / ".curlrc").write_text("fail\nsilent\n")  # curl says by its exit code what the answer was
    with checkout.running():
        eventually(lambda: requests.get(f"{checkout.url}/readyz", timeout=10).ok)
        archive(checkout)
        yield checkout


def archive(demo: Checkout) -> None:
    """The farm's database in a folder, in Litestream's format."""
    eventually(lambda: demo.run("sqlite3", "data/farm.db", "SELECT id FROM cattle LIMIT 1").stdout)
    copy = demo.folder / "copy.db"
    demo.run("sqlite3", "data/farm.db", f".backup {copy}")
    ship(FolderStore(demo.data / "archive"), [copy.read_bytes()])


def run(demo: Checkout, text: str) -> str:
    """Type this into a shell in the demo's folder."""
    ours = text.replace("localhost:5001", f"localhost:{demo.settings['PI_PORT']}")
    ours = ours.replace("localhost:5000", f"localhost:{demo.settings['SERVER_PORT']}")
    key = re.search(r"^PI_API_KEY=(\S+)", (demo.folder / ".env").read_text(), re.MULTILINE)
    assert key
    done = demo.run("bash", "-euo", "pipefail", "-c", ours, HOME=str(demo.folder), PI_API_KEY=key[1])
    assert done.returncode == 0, f"{ours}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_marked_blocks_run_one_after_another(demo: Checkout) -> None:
    printed = [run(demo, block) for block in blocks()]
    assert '"success":true' in printed[0]
    assert re.search(r"40 +│ 41", printed[1])
    assert int(printed[2]) > 0
    assert "identical" in printed[3]
    assert "anna" in printed[5]
    assert "sound\n" in printed[-1] and int(printed[-1].splitlines()[-1]) > 0


@pytest.mark.parametrize("command", commands_of_the_table())
def test_a_command_of_the_table_works_as_it_stands_there(demo: Checkout, command: str) -> None:
    if "TEST001" in command:
        demo.run("sqlite3", "data/farm.db", "INSERT OR IGNORE INTO batches(batch_number) VALUES('TEST001')")
    eventually(lambda: run(demo, command)) if "SELECT" in command else run(demo, command)


def test_pictures_and_headings_that_readme_points_to_are_there() -> None:
    for path in re.findall(r"\]\((scripts/[^)]+)\)", README):
        assert (ROOT / path).stat().st_size < LARGEST_PICTURE
    headings = [line.strip("# ").lower() for line in README.splitlines() if line.startswith("##")]
    anchors = {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


def test_settings_that_readme_names_are_settings() -> None:
    known = set(re.findall(r"^#([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)(?:=[^`]*)?`", README))
    assert {name for name in named if not name.startswith("AWS_")} <= known  # those are Amazon's
