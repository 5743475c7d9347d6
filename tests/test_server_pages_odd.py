"""Whatever somebody typed into the shell on the Pi: every page is there, and every link of it leads to a page."""

from __future__ import annotations

import html
import re
from collections import Counter, deque
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
from flask.testing import FlaskClient
from office_farm import make_replica
from office_pages import PAGE, Office, make_office, text_of

pytestmark = pytest.mark.usefixtures("patience")

VALUES = (  # one row of each table holds such a value in all its columns
    "NULL", "''", "' '", "0", "-1", "1e308", "-1e308", "9e999", "-9e999", "-0.0", "0.5", "9223372036854775807", "-9223372036854775808",
    "x''", "x'00ff'", "CAST(x'ff41' AS TEXT)", "char(0, 1, 27, 127)", "'<script>alert(1)</script>'", "'a/b%c?d#e&f\"g''h\\i'", "'..'",
    "'=1+1'", "'\u05e4\u05e8\u05d4 \u202e\U0001f404'", "hex(zeroblob(5000))", "'0000-01-01'", "'0001-01-01T00:00:00+05:00'",
    "'9999-12-31T23:59:59'", "'9999-12-31T23:59:59-05:00'", "'2026-02-30'", "'2026-11-23T06:00:00.5Z'", "'777'", "777",
)  # fmt: skip
FIRST = 1_000  # id of the rows of the first value
TABLES = ("batches", "pens", "cattle", "weight_records", "pair_history", "lora_payload_buffer", "users")
NEEDED = {  # what an INSERT must name
    "batches": ("batch_number", "'b' || {id}"),
    "pens": ("pen_number, capacity", "'p' || {id}, 1"),
    "cattle": ("cattle_id, batch_id", "'c' || {id}, 1"),
    "weight_records": ("cattle_id, weight", "{id}, 1"),
    "pair_history": ("cattle_id", "{id}"),
    "lora_payload_buffer": ("raw_payload", "'hxb:' || {id}"),
    "users": ("username", "'u' || {id}"),
}
LINK = re.compile(r"<a [^>]*>.*?</a>", re.DOTALL)
RECENT = "strftime('%Y-%m-%dT%H:%M:%S', 'now')"


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """An office over a farm with each of the values in each column that takes it."""
    folder = tmp_path_factory.mktemp("odd")
    db = make_replica(folder / "replica.db")
    columns = {table: [name for (name,) in db.execute(f"SELECT name FROM pragma_table_info('{table}') WHERE pk=0")] for table in TABLES}
    db.close()
    made = make_office(folder)
    for number, value in enumerate(VALUES):
        row = FIRST + number
        for table in TABLES:
            names, values = NEEDED[table]
            one = [f"INSERT INTO {table}(id, {names}) VALUES({row}, {values.format(id=row)})"]
            made.write(*one, *(f"UPDATE OR IGNORE {table} SET {name}={value} WHERE id={row}" for name in columns[table]))
    made.write(  # so that they stand on the pages that show what is new, and beside an animal that is well
        f"UPDATE lora_payload_buffer SET received_at={RECENT} WHERE id%2",
        "INSERT INTO weight_records(cattle_id, weight, recorded_at) SELECT 2, weight, '2026-01-' || (id%28 + 1) FROM weight_records",
        "INSERT INTO weight_records(cattle_id, weight, recorded_at) SELECT 3, 250 + id%9, recorded_at FROM weight_records",
        "INSERT INTO pair_history(cattle_id, lf_tag, uhf_tag, paired_at, unpaired_at)"
        " SELECT 2, lf_tag, uhf_tag, paired_at, unpaired_at FROM pair_history",
        *(f"UPDATE cattle SET pen_id={value}, batch_id={value} WHERE id=4" for value in VALUES if value != "NULL"),
        "UPDATE cattle SET pen_id=x'00', batch_id=x'00' WHERE id=5",
        "INSERT INTO pens(id, pen_number, capacity) VALUES(-3, 'below', 5)",
        "INSERT INTO batches(id, batch_number) VALUES(-3, 'below')",
        "INSERT INTO cattle(id, cattle_id, batch_id, pen_id) VALUES(-3, 'below', -3, -3)",
        "UPDATE cattle SET pen_id=2, batch_id=2 WHERE id=6",
        "DELETE FROM pens WHERE id=2",
        "DELETE FROM batches WHERE id=2",
        "DELETE FROM cattle WHERE id=7",
        actor="\u202e<i>\U0001f404",
    )
    return made


def links_of(page: str, at: str) -> set[str]:
    found = (html.unescape(link) for link in re.findall(r'href="([^"#]*)', page))
    return {joined for joined in (urljoin(at, link) for link in found if link) if joined.startswith("/office/")}


def shape_of(address: str) -> str:
    """What many addresses have in common: those of the changes alone are thousands."""
    path, _, query = address.partition("?")
    return f"{re.sub(r'-?[0-9]+', 'N', path)}?{'&'.join(sorted(parse_qs(query)))}"


@dataclass
class Crawl:
    """All that can be reached from the first page, at most so many addresses of one shape."""

    client: FlaskClient
    most: int
    statuses: dict[str, int] = field(default_factory=dict)
    linked: dict[str, str] = field(default_factory=lambda: {"/office/": ""})  # by address, where the first link to it stands
    nameless: list[str] = field(default_factory=list)  # links in which nothing can be read

    def run(self) -> None:
        waiting, seen = deque(self.linked), Counter[str]()
        while waiting:
            address = waiting.popleft()
            seen[shape_of(address)] += 1
            if seen[shape_of(address)] > self.most:
                continue
            answer = self.client.get(address, headers=PAGE, buffered=True)  # a file is closed, too
            self.statuses[address] = answer.status_code
            if answer.mimetype != "text/html":
                continue
            self.nameless += [f"{address}: {link}" for link in LINK.findall(answer.text) if not text_of(link)]
            for link in links_of(answer.text, address):
                if link not in self.linked:
                    self.linked[link] = address
                    waiting.append(link)


def test_every_link_has_a_name_and_leads_to_a_page_whatever_is_in_the_farm(office: Office) -> None:
    crawl = Crawl(office.client(), 50)
    crawl.run()
    assert len(crawl.statuses) > 300, "the pages lead nowhere"
    assert {(address, crawl.linked[address]): status for address, status in crawl.statuses.items() if status >= 400} == {}
    assert crawl.nameless == []


def test_a_status_that_is_no_word_has_no_link_to_another_list(office: Office) -> None:
    client = office.client()
    assert "without a status" in text_of(client.get("/office/").text)
    for address in ("/office/", "/office/batches/1", "/office/pens/1"):
        statuses = [
            parse_qs(urlsplit(link).query, keep_blank_values=True).get("status") for link in links_of(client.get(address).text, address)
        ]
        assert [""] not in statuses, address
