"""The office in a real browser, served by the real server: nothing may be logged to the console, and no request may fail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from office_browser import DESK, PHONE, session_of, sign_in
from office_farm import PASSWORD, add_batches, make_replica, move_position, running_server
from playwright.sync_api import Browser, BrowserContext, Page, expect

from changelog.connection import connect

SOON = 10_000  # ms: two looks of the page at the status, with room to spare


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("office") / "replica.db"
    make_replica(path, batches=120, animals=3).close()
    return path


@pytest.fixture(scope="module")
def address(replica: Path) -> Iterator[str]:
    with running_server(replica.parent) as address:
        yield address


@pytest.fixture(scope="module")
def session(browser: Browser, address: str) -> Any:
    """The cookies of somebody who signed in."""
    return session_of(browser, address, "admin", PASSWORD)


@pytest.fixture
def context(browser: Browser, address: str) -> Iterator[BrowserContext]:
    context = browser.new_context(base_url=address, viewport=DESK, timezone_id="America/Denver", locale="en-US")
    yield context
    context.close()


@pytest.fixture
def signed_in(page: Page, context: BrowserContext, session: Any) -> Page:
    """The first page of the office, with the session of another tab."""
    context.add_cookies(session["cookies"])
    page.goto("/office/batches")
    return page


def add_a_batch(replica: Path) -> str:
    """One more batch, with a position that moved, as replay would leave it; returns its number."""
    db = connect(replica)
    with db:
        add_batches(db, 1, 1)
    move_position(db)
    newest: str = db.execute("SELECT batch_number FROM batches ORDER BY id DESC LIMIT 1").fetchall()[0][0]
    db.close()
    return newest


def test_somebody_signs_in_finds_an_animal_and_signs_out(page: Page) -> None:
    sign_in(page, "admin", PASSWORD)
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Batches").click()
    page.get_by_role("searchbox").fill("UHF000100")
    page.keyboard.press("Enter")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(1)
    page.get_by_role("link", name="BATCH00034").click()
    expect(page.get_by_role("rowheader", name="BATCH00034-LF000100")).to_be_visible()
    expect(rows).to_have_count(1)
    page.get_by_role("link", name="Show all").click()
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_the_list_is_paged_there_and_back(signed_in: Page) -> None:
    page = signed_in
    first = page.locator("tbody a").first.inner_text()
    page.get_by_role("link", name="Onward").click()
    page.get_by_role("link", name="Onward").click()
    expect(page.get_by_role("link", name="BATCH00001")).to_be_visible()
    page.get_by_role("link", name="Back").click()
    page.get_by_role("link", name="Back").click()
    expect(page.locator("tbody a").first).to_have_text(first)


def test_a_new_batch_appears_by_itself_and_scroll_and_focus_stay(signed_in: Page, replica: Path) -> None:
    page = signed_in
    page.locator("tbody a").nth(30).focus()
    focused = page.evaluate("document.activeElement.id")
    page.evaluate("window.scrollTo(0, 400)")
    number = add_a_batch(replica)
    expect(page.get_by_role("link", name=number)).to_be_attached(timeout=SOON)
    assert page.evaluate("document.activeElement.id") == focused
    assert abs(page.evaluate("window.scrollY") - 400) < 60


def test_what_is_being_typed_survives_the_refresh(signed_in: Page, replica: Path) -> None:
    page = signed_in
    page.get_by_role("searchbox").type("half a wor")
    number = add_a_batch(replica)
    expect(page.get_by_role("link", name=number)).to_be_attached(timeout=SOON)
    assert page.get_by_role("searchbox").input_value() == "half a wor"
    page.keyboard.type("d")
    assert page.get_by_role("searchbox").input_value() == "half a word"


def test_a_new_payload_appears_by_itself(signed_in: Page, replica: Path) -> None:
    page = signed_in
    page.get_by_role("link", name="LoRa payloads").click()
    number = add_a_batch(replica)
    expect(page.get_by_role("link", name=number, exact=True)).to_be_visible(timeout=SOON)


def test_times_are_the_viewers_and_exact_utc_is_in_the_title(signed_in: Page, replica: Path) -> None:
    page = signed_in
    page.goto("/office/payloads")
    time = page.locator("tbody time").first
    utc, title, shown = time.get_attribute("datetime"), time.get_attribute("title"), time.inner_text()
    assert utc is not None
    assert title == utc.replace("T", " ").replace("Z", " UTC")
    in_denver = page.evaluate("utc => new Date(utc).toLocaleString('sv-SE', {timeZone: 'America/Denver'})", utc)
    assert shown == in_denver


@pytest.mark.parametrize(
    "path",
    ["", "cattle", "cattle?q=LF", "cattle/5", "batches", "batches/5", "batches?q=LF", "payloads", "pens", "pens/1", "replication", "login"],
)
def test_pages_fit_a_phone(signed_in: Page, path: str) -> None:
    page = signed_in
    page.set_viewport_size(PHONE)
    page.goto(f"/office/{path}")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


LONG_PARTS = ("B" * 80, "L" * 80, "U" * 80)  # no payload can name longer ones


@pytest.fixture
def long_names(replica: Path) -> Iterator[int]:
    """The id of an animal of which the radio sent all that a payload can hold, without a place to break it."""
    batch, lf, uhf = LONG_PARTS
    db = connect(replica)
    with db:
        db.execute("INSERT INTO batches(id, batch_number, induction_date) VALUES(9000, ?, '2099-01-01')", (batch,))
        db.execute("INSERT INTO pens(id, pen_number, capacity, description) VALUES(9000, ?, 3, ?)", ("P" * 50, "d" * 300))
        animal = "INSERT INTO cattle(id, batch_id, cattle_id, lf_tag, uhf_tag, pen_id, status) VALUES(9000, 9000, ?, ?, ?, 9000, ?)"
        db.execute(animal, (f"{batch}-{lf}", lf, uhf, "s" * 20))
        payload = "INSERT INTO lora_payload_buffer(id, raw_payload, batch_number, lf_tag, uhf_tag, batch_id) VALUES(9000, ?, ?, ?, ?, 9000)"
        db.execute(payload, (f"hxb:{batch}:{lf}:{uhf}", batch, lf, uhf))
        db.execute("INSERT INTO pair_history(id, cattle_id, lf_tag, uhf_tag) VALUES(9000, 9000, ?, ?)", (lf, uhf))
    move_position(db)
    yield 9000
    with db:
        for table in ("pair_history", "lora_payload_buffer", "cattle", "pens", "batches"):
            db.execute(f"DELETE FROM {table} WHERE id=9000")
    move_position(db)
    db.close()


def test_names_as_long_as_a_payload_fit_and_those_of_usual_length_stay_on_a_line(signed_in: Page, long_names: int) -> None:
    page = signed_in
    paths = ("", "cattle", "batches", "pens", "payloads", "changes", f"cattle/{long_names}", f"batches/{long_names}", f"pens/{long_names}")
    for size in (DESK, PHONE):
        page.set_viewport_size(size)
        for path in paths:
            page.goto(f"/office/{path}")
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], f"{path} {size}"
    page.set_viewport_size(DESK)
    page.goto("/office/cattle")
    height = page.locator(f"main table a:text-is('{'BATCH00120-LF000359'}')").evaluate("link => link.getBoundingClientRect().height")
    assert height < 30


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["", "cattle", "cattle/5", "batches", "pens", "pens/1"])
def test_headings_stand_in_order_and_every_field_has_a_name(signed_in: Page, path: str, scheme: Literal["light", "dark"]) -> None:
    page = signed_in
    page.emulate_media(color_scheme=scheme)
    page.goto(f"/office/{path}")
    levels = page.evaluate("[...document.querySelectorAll('main :is(h1, h2, h3, h4)')].map(each => Number(each.nodeName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    nameless = "[...document.querySelectorAll('input:not([type=hidden]), select')].filter(e => !e.labels.length && !e.ariaLabel).length"
    assert page.evaluate(nameless) == 0
    assert page.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size == document.querySelectorAll('[id]').length")


def test_the_dashboard_moves_by_itself(signed_in: Page, replica: Path) -> None:
    page = signed_in
    page.goto("/office/")
    before = page.locator("#figure-batches b").inner_text()
    page.evaluate("window.sameDocument = true")
    number = add_a_batch(replica)
    expect(page.locator(".stories").get_by_role("link", name=number, exact=True).first).to_be_visible(timeout=SOON)
    expect(page.locator("#figure-batches b")).to_have_text(str(int(before) + 1))
    assert page.evaluate("window.sameDocument")


def test_a_list_is_sorted_by_its_heads_there_and_back(signed_in: Page, replica: Path) -> None:
    page = signed_in
    db = connect(replica)
    with db:
        db.execute("UPDATE cattle SET weight=900 WHERE id=11")
        db.execute("UPDATE cattle SET weight=10 WHERE id=12")
    move_position(db)
    db.close()
    page.goto("/office/cattle")
    page.get_by_role("link", name="Weight", exact=True).click()
    expect(page.get_by_role("columnheader", name="Weight")).to_have_attribute("aria-sort", "descending")
    expect(page.locator("tbody tr").first).to_have_attribute("data-key", "11")
    page.get_by_role("link", name="Weight", exact=True).click()
    expect(page.get_by_role("columnheader", name="Weight")).to_have_attribute("aria-sort", "ascending")
    expect(page.locator("tbody tr").first).to_have_attribute("data-key", "12")
    page.get_by_label("Status").select_option("active")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile(r"status=active.*sort=weight"))
    page.go_back()
    page.go_back()
    expect(page.get_by_role("columnheader", name="Weight")).to_have_attribute("aria-sort", "descending")


def test_an_animal_is_drawn_and_its_new_weight_appears_by_itself(signed_in: Page, replica: Path) -> None:
    page = signed_in
    db = connect(replica)
    weigh = "INSERT INTO weight_records(cattle_id, weight, recorded_at) VALUES(20, ?, ?)"
    with db:
        db.executemany(weigh, [(250, "2026-01-01T08:00:00"), (280, "2026-02-01T08:00:00")])
    move_position(db)
    page.goto("/office/cattle/20")
    expect(page.get_by_role("img", name="over time")).to_be_visible()
    expect(page.locator("circle")).to_have_count(2)
    with db:
        db.execute(weigh, (300, "2026-03-01T08:00:00"))
    move_position(db)
    db.close()
    expect(page.locator("circle")).to_have_count(3, timeout=SOON)
    box = page.locator("polyline").bounding_box()
    assert box is not None and box["height"] > 50


def test_a_list_is_saved_as_a_file(signed_in: Page) -> None:
    page = signed_in
    page.goto("/office/cattle?sort=number&status=active")
    with page.expect_download() as saved:
        page.get_by_role("link", name="CSV").click()
    text = saved.value.path().read_text("utf-8-sig")
    assert saved.value.suggested_filename.startswith("cattle-")
    assert text.startswith("id,cattle_id,") and text.count("\n") > 300


def test_on_paper_a_list_is_black_on_white_and_nothing_else(signed_in: Page) -> None:
    page = signed_in
    page.emulate_media(media="print", color_scheme="dark")
    page.goto("/office/cattle?status=active")
    for hidden in ("body > header", "form.filters", ".pager", ".export"):
        expect(page.locator(hidden)).to_be_hidden()
    expect(page.locator("table")).to_be_visible()
    colours = page.evaluate("[getComputedStyle(document.querySelector('td')).color, getComputedStyle(document.body).backgroundColor]")
    assert colours == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]


def test_the_keyboard_alone_is_enough(signed_in: Page) -> None:
    page = signed_in
    page.goto("/office/batches")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the page")).to_be_focused()
    for _ in range(6):
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="LoRa payloads")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="LoRa payloads")).to_be_visible()


def test_pages_work_without_javascript(browser: Browser, address: str) -> None:
    context = browser.new_context(base_url=address, java_script_enabled=False)
    page = context.new_page()
    page.goto("/office/login?next=/office/payloads")
    page.get_by_label("User name").fill("user")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="LoRa payloads")).to_be_visible()
    expect(page.locator("tbody time").first).to_contain_text("UTC")
    context.close()
