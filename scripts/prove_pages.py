#!/usr/bin/env python3
"""What each page of the herd costs, at SIZE animals and at ten times as many: `scripts/prove_pages.py [CATTLE=100000]`.

A replica is made with a batch for each 100 animals, PENS pens, three weighings and a payload of each animal, and ten changes of each in its
changelog. Every page, the last pages of the lists too, is asked for through the real WSGI application in this process, in CPU time
since other programs run beside it, compressed as a browser takes it; then once through gunicorn. The exit code is 1 unless the p50 of each
list is within --list ms and of every other page within --page ms, at both sizes, ten times the size costs at most --ratio of the one, and
no answer has more than 100 kB.
"""

from __future__ import annotations

import io
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import requests

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from office_farm import PASSWORD, make_replica, move_position, running_server  # noqa: E402  # of tests
from office_pages import Office, animals, link_in, make_office, token_in  # noqa: E402  # of tests

IN_A_BATCH = 100
LARGEST = 100_000  # bytes of one answer
WARM = 15  # times that a page is asked for before it counts
SLACK = 0.15  # ms that two runs of the same page differ by on a quiet machine
LISTS = {
    "cattle": "/office/cattle",
    "by number": "/office/cattle?sort=number",
    "by batch": "/office/cattle?sort=batch",
    "by pen": "/office/cattle?sort=pen",
    "by weight": "/office/cattle?sort=weight",
    "by weight, downward": "/office/cattle?sort=-weight",
    "by induction": "/office/cattle?sort=induction",
    "active by weight": "/office/cattle?status=active&sort=weight",
    "exported by pen": "/office/cattle?status=exported&sort=pen",
    "of a pen by weight": "/office/cattle?pen=P00007&sort=-weight",
    "found by tag": "/office/cattle?q=LF0000012",
    "found by many tags": "/office/cattle?q=LF&sort=weight",
    "batches": "/office/batches",
    "batches by number": "/office/batches?sort=number",
    "batches found": "/office/batches?q=LF0000012",
    "one batch": "/office/batches/5",
    "pens": "/office/pens",
    "one pen": "/office/pens/7",
    "payloads": "/office/payloads",
}
LAST = {"cattle": "newest", "by number": "-number", "by batch": "-batch", "by induction": "-induction"}  # the other way round
UNKNOWN = ("by pen", "by weight")  # which end with the animals whose key is not known
OTHERS = {
    "dashboard": "/office/",
    "an animal": "/office/cattle/5",
    "its history, onward": "/office/cattle/5?onward=",
    "a removed animal": "/office/cattle/99",
    "pens by occupancy": "/office/pens?sort=-occupancy",
}

FILL = (
    "INSERT INTO pens(pen_number, capacity) SELECT printf('P%05d', i+1), 150+i%100 FROM n WHERE i<%pens",
    """INSERT INTO batches(batch_number, induction_date, source, source_type)
       SELECT printf('B%05d', i+1), date('2020-01-01', printf('+%d days', i%2000)), 'Barn (HXB)', 'hxb' FROM n WHERE i<?1/%batch""",
    """INSERT INTO cattle(batch_id, cattle_id, sex, weight, lf_tag, uhf_tag, pen_id, status, induction_date)
       SELECT i/%batch+1, printf('B%05d-LF%08d', i/%batch+1, i), 'cow', CASE i%5 WHEN 0 THEN NULL ELSE 200+i%4993/10.0 END,
         printf('LF%08d', i), printf('UHF%012d', i), CASE i%4 WHEN 0 THEN NULL ELSE i*7919%%pens+1 END,
         CASE i%20 WHEN 0 THEN 'exported' ELSE 'active' END,
         strftime('%Y-%m-%dT%H:%M:%S', '2024-01-01', printf('+%d hours', i%900)) FROM n""",
    """INSERT INTO weight_records(cattle_id, weight, recorded_at, recorded_by)
       SELECT id, 200+(id*7+k*31)%400, strftime('%Y-%m-%dT%H:%M:%S', '2026-01-01', printf('+%d days', k*20)), 'scale'
       FROM cattle, (SELECT 0 AS k UNION SELECT 1 UNION SELECT 2)""",
    """INSERT INTO pair_history(cattle_id, lf_tag, uhf_tag, updated_by)
       SELECT id, 'old' || id, 'old' || id, 'lora' FROM cattle WHERE id%10=5""",
    """INSERT INTO lora_payload_buffer(raw_payload, source_type, batch_number, lf_tag, uhf_tag, status, batch_id, rssi, snr, received_at)
       SELECT 'hxb:' || b.batch_number || ':' || lf_tag || ':' || uhf_tag, 'hxb', b.batch_number, lf_tag, uhf_tag,
         CASE WHEN c.id%1000=0 THEN 'error' ELSE 'processed' END, b.id, -71, 9.5,
         strftime('%Y-%m-%dT%H:%M:%S', 'now', printf('-%d seconds', c.id%86400*30)) FROM cattle c JOIN batches b ON b.id=c.batch_id""",
    "UPDATE cattle SET health_status='good'",
    "UPDATE cattle SET weight=weight+1, updated_at='2026-11-01T00:00:00'",
    "UPDATE cattle SET pen_id=pen_id%%pens+1 WHERE id%2",
    "UPDATE cattle SET notes='seen'",
    "UPDATE cattle SET notes=NULL",
)


def fill(path: Path, cattle: int, pens: int) -> int:
    """Make a replica of so many animals and pens at `path`; returns how many changes its log has."""
    db = make_replica(path, batches=0)
    db.pragma("synchronous", "OFF")
    numbers = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i<?1-1) "
    with db:
        db.execute("DELETE FROM pens")
        for template in FILL:
            sql = (numbers if " FROM n" in template else "") + template.replace("%batch", str(IN_A_BATCH)).replace("%pens", str(pens))
            db.execute(sql, (cattle,) if "?1" in sql else ())
        for n in range(70):
            db.execute("UPDATE cattle SET weight=? WHERE id=5", (300 + n,))
        db.execute("DELETE FROM cattle WHERE id=99")
    head = move_position(db).seq
    db.wal_checkpoint(mode=3)  # TRUNCATE: nobody else has it open
    db.close()
    return head


class Asker:
    """Asks the application as gunicorn does, signed in, without a network between."""

    def __init__(self, office: Office) -> None:
        client = office.client()
        client.get("/office/pens")  # which makes the token of the forms: the session does not change any more
        cookie = client.get_cookie("drover")
        assert cookie is not None
        self._app, self._cookie = office.app, cookie.value

    def __call__(self, address: str) -> tuple[str, dict[str, str], bytes]:
        """Status, headers and body of one answer."""
        path, _, query = address.partition("?")
        told: list[Any] = []
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_NAME": "farm",
            "SERVER_PORT": "5000",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "192.0.2.7",
            "HTTP_HOST": "farm:5000",
            "HTTP_ACCEPT": "text/html",
            "HTTP_COOKIE": f"drover={self._cookie}",
            "HTTP_ACCEPT_ENCODING": "gzip",
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": sys.stderr,
        }
        answer = self._app.wsgi_app(environ, lambda status, headers, _=None: told.append((status, dict(headers))))
        body = b"".join(answer)
        if hasattr(answer, "close"):
            answer.close()
        return told[0][0], told[0][1], body

    def costs(self, address: str, rounds: int) -> tuple[float, float, int]:
        """p50 and p99 in ms of CPU time, and the bytes sent."""
        for _ in range(WARM):
            status, _, body = self(address)
            assert status == "200 OK", f"{address}: {status}"
        seconds = []
        for _ in range(rounds):
            began = time.process_time()
            self(address)
            seconds.append(time.process_time() - began)
        return statistics.median(seconds) * 1000, sorted(seconds)[int(rounds * 0.99)] * 1000, len(body)


def list_pages(office: Office) -> dict[str, str]:
    """Name: address of each list, and of the last pages."""
    client, found = office.client(), dict(LISTS)
    for name, other in LAST.items():
        found[f"{name}, last page"] = last_page(client, LISTS[name], other)
    top = animals(client.get("/office/cattle").text)[0]
    for name in UNKNOWN:
        found[f"{name}, last page"] = f"{LISTS[name]}&onward=1~{top - 100}"
    return found


def pages_of(office: Office) -> dict[str, tuple[str, bool]]:
    """Name: address of each page, and whether it is a list."""
    client = office.client()
    found = {name: (address, True) for name, address in list_pages(office).items()}
    for name, address in OTHERS.items():
        place = link_in(client.get(address.partition("?")[0]).text, "next") if address.endswith("onward=") else None
        found[name] = (address if place is None else f"{address.partition('?')[0]}{place.partition('#')[0]}", False)
    return found


def last_page(client: Any, address: str, other: str) -> str:
    """The address of the last page of a list: what comes after the last row on the first page of the other direction."""
    link = link_in(client.get(f"/office/cattle?sort={other}").text, "next")
    assert link is not None, "too few animals for a last page"
    place = link.partition("onward=")[2]
    return f"{address}{'&' if '?' in address else '?'}onward={place}"


@contextmanager
def office_of(folder: Path, cattle: int, pens: int) -> Iterator[Office]:
    """An office over a farm of this size."""
    folder.mkdir(parents=True)
    began = time.monotonic()
    head = fill(folder / "replica.db", cattle, pens)
    size = (folder / "replica.db").stat().st_size / 1e6
    click.echo(f"{cattle} animals, {pens} pens, {head} changes, {size:.0f} MB, made in {time.monotonic() - began:.0f} s")
    yield make_office(folder)


@contextmanager
def signed_in(address: str, user: str, password: str) -> Iterator[requests.Session]:
    """A browser on that server."""
    with requests.Session() as browser:
        form = browser.get(f"{address}/office/login", timeout=30).text
        browser.post(f"{address}/office/login", data={"username": user, "password": password, "csrf_token": token_in(form)}, timeout=30)
        yield browser


def through_gunicorn(folder: Path) -> list[str]:
    """Ask the real server for each list once; what was wrong."""
    wrong = []
    with running_server(folder) as address, signed_in(address, "admin", PASSWORD) as browser:
        for path in (*LISTS.values(), "/office/", "/office/cattle/5", "/office/cattle.csv?q=LF0000012"):
            answer = browser.get(address + path, timeout=60)
            told = answer.headers.get("Content-Encoding", "")
            if answer.status_code != 200 or (told != "gzip" and ".csv" not in path):
                wrong.append(f"through gunicorn {path}: {answer.status_code} {told!r}")
    return wrong


@click.command(help=__doc__)
@click.argument("cattle", default=100_000)
@click.option("--pens", default=500, show_default=True, help="Pens, at both sizes.")
@click.option("--list", "most_list", default=1.5, show_default=True, help="ms of CPU time, p50, that a list may take.")
@click.option("--page", "most_page", default=10.0, show_default=True, help="Likewise any other page.")
@click.option("--ratio", "most_ratio", default=1.3, show_default=True, help="How much dearer ten times the size may be.")
@click.option("--rounds", default=120, show_default=True, help="How often each page is asked for.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the two farms are made; a temporary folder otherwise.")
def main(cattle: int, *, pens: int, most_list: float, most_page: float, most_ratio: float, rounds: int, folder: Path | None) -> None:
    """The command line."""
    failed = []
    with tempfile.TemporaryDirectory(dir=folder) as made:
        with office_of(Path(made) / "one", cattle, pens) as one, office_of(Path(made) / "ten", 10 * cattle, pens) as ten:
            askers, addresses = (Asker(one), Asker(ten)), (pages_of(one), pages_of(ten))
            click.echo(f"{'page':28}{'p50':>8}{'p99':>8}{'p50 x10':>9}{'p99 x10':>9}{'ratio':>7}{'bytes':>8}")
            for name, (_, is_list) in addresses[0].items():
                (half, most, size), (half10, most10, size10) = (
                    ask.costs(each[name][0], rounds) for ask, each in zip(askers, addresses, strict=True)
                )
                limit, ratio = most_list if is_list else most_page, half10 / half
                click.echo(f"{name:28}{half:8.2f}{most:8.2f}{half10:9.2f}{most10:9.2f}{ratio:7.2f}{max(size, size10):8}")
                if max(half, half10) > limit:
                    failed.append(f"{name}: {max(half, half10):.2f} ms, more than {limit} ms")
                if half10 > most_ratio * half + SLACK:
                    failed.append(f"{name}: ten times the animals cost {ratio:.2f} times as much")
                if max(size, size10) > LARGEST:
                    failed.append(f"{name}: {max(size, size10)} bytes")
        failed += through_gunicorn(Path(made) / "one")
    for each in failed:
        click.echo(f"FAILED: {each}")
    click.echo(f"{len(failed)} failed" if failed else "all held")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
