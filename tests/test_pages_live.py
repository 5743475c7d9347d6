"""Pages that change by themselves: what is committed on a real Pi appears in a real browser, in the same document."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from farm_processes import PASSWORD, USER, Farm
from office_browser import PHONE, session_of, sign_in
from playwright.sync_api import Browser, BrowserContext, Page, expect

QUICK = 2_000  # ms for what is told over the socket, on a busy machine
SOON = 10_000  # ms for what is looked for, and for a socket that comes back
SPOKEN = 12_000  # ms until what lasts is spoken
ASLEEP = 12  # s: more than the server waits for the answer to a ping
ANIMALS = 45
OUTCOME = """(address) => new Promise((done) => {
  const socket = new WebSocket(address);
  socket.onopen = () => done("open");
  socket.onclose = () => done("refused");
})"""


@pytest.fixture(scope="module")
def session(browser: Browser, running_farm: Farm) -> Any:
    """The cookies of somebody who signed in, on a farm with one batch of animals and 60 batches without."""
    running_farm.fill(ANIMALS)
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<60)"
    running_farm.pi.sql(f"{many} INSERT INTO batches(batch_number, induction_date) SELECT 'OLD'||i, date('2020-01-01', i||' days') FROM n")
    running_farm.assert_identical()
    return session_of(browser, running_farm.server.url, USER, PASSWORD)


@pytest.fixture(scope="module")
def address(running_farm: Farm) -> str:
    return running_farm.server.url


def opened(page: Page, path: str = "/office/batches") -> Page:
    """The page, live, with a mark that a reload would wipe away."""
    page.goto(path)
    expect(page.locator("#connection")).to_have_text("Live", timeout=SOON)
    page.evaluate("window.sameDocument = true")
    return page


def is_same(page: Page) -> bool:
    return page.evaluate("window.sameDocument === true")


def add_batch(farm: Farm, number: str) -> None:
    farm.pi.sql(f"INSERT INTO batches(batch_number, induction_date) VALUES('{number}', '2026-05-05')")


def link(page: Page, number: str) -> Any:
    return page.get_by_role("link", name=number, exact=True)


def test_a_payload_posted_to_the_pi_appears_in_every_tab_without_a_reload(page: Page, context: BrowserContext, running_farm: Farm) -> None:
    pages = [opened(page), opened(context.new_page()), opened(context.new_page(), "/office/payloads")]
    assert running_farm.post("hxb:LIVE1:LFL1:UHFL1").status_code == 201
    for each in pages:
        expect(link(each, "LIVE1")).to_be_visible(timeout=QUICK)
        assert is_same(each)


def test_what_is_typed_into_the_shell_appears_changes_and_goes(page: Page, running_farm: Farm) -> None:
    opened(page)
    add_batch(running_farm, "LIVE2")
    row = page.get_by_role("row").filter(has=link(page, "LIVE2"))
    expect(row).to_be_visible(timeout=QUICK)
    running_farm.pi.sql("UPDATE batches SET notes='by hand' WHERE batch_number='LIVE2'")
    expect(row.get_by_text("by hand")).to_be_visible(timeout=QUICK)
    running_farm.pi.sql("DELETE FROM batches WHERE batch_number='LIVE2'")
    expect(row).to_have_count(0, timeout=QUICK)
    assert is_same(page)


def test_only_what_changed_is_marked_and_for_a_moment(page: Page, running_farm: Farm) -> None:
    opened(page, "/office/batches/1")
    weight = page.get_by_role("row").filter(has_text="BATCH001-7 ").locator("[data-label=Weight]")
    page.evaluate("document.querySelectorAll('tbody tr').forEach((row) => { row.wasHere = true; })")
    running_farm.pi.sql("UPDATE cattle SET weight=432 WHERE cattle_id='BATCH001-7'")
    expect(weight).to_have_text("432\u00a0kg", timeout=QUICK)
    assert page.locator("[data-mark]").all_inner_texts() == ["432\u00a0kg"]
    assert page.evaluate("[...document.querySelectorAll('tbody tr')].every((row) => row.wasHere)")
    expect(page.locator("[data-mark]")).to_have_count(0, timeout=SOON)


@pytest.mark.parametrize(("motion", "running"), [("no-preference", True), ("reduce", False)])
def test_nothing_moves_for_who_does_not_want_it(page: Page, running_farm: Farm, motion: Any, running: bool) -> None:
    page.emulate_media(reduced_motion=motion)
    opened(page)
    add_batch(running_farm, f"MOTION-{motion}")
    marked = page.locator("tr[data-mark=new] th")
    expect(marked).to_have_text(f"MOTION-{motion}", timeout=QUICK)
    moves, colour = marked.evaluate("(cell) => [cell.getAnimations().length > 0, getComputedStyle(cell).backgroundColor]")
    assert moves == running
    assert colour != page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_scroll_focus_and_what_is_being_typed_stay(page: Page, running_farm: Farm) -> None:
    opened(page)
    row = page.locator("tbody tr").nth(30)
    row.locator("a").focus()
    focused = page.evaluate("document.activeElement.id")
    row.scroll_into_view_if_needed()
    before = row.evaluate("(row) => { window.theRow = row; return row.getBoundingClientRect().top; }")
    add_batch(running_farm, "LIVE3")
    expect(link(page, "LIVE3")).to_be_attached(timeout=QUICK)
    assert page.evaluate("document.activeElement.id") == focused
    assert abs(page.evaluate("theRow.getBoundingClientRect().top") - before) < 2
    search = page.get_by_role("searchbox")
    search.fill("half a wor")
    search.evaluate("(box) => box.setSelectionRange(2, 5)")
    add_batch(running_farm, "LIVE4")
    expect(link(page, "LIVE4")).to_be_attached(timeout=QUICK)
    assert search.evaluate("(box) => [box.value, box.selectionStart, box.selectionEnd]") == ["half a wor", 2, 5]
    expect(search).to_be_focused()
    assert is_same(page)


def test_a_filter_and_a_place_in_the_list_stay(page: Page, running_farm: Farm) -> None:
    opened(page, "/office/batches?q=LIVE5")
    add_batch(running_farm, "OTHER5")
    add_batch(running_farm, "LIVE5")
    expect(link(page, "LIVE5")).to_be_visible(timeout=QUICK)
    expect(link(page, "OTHER5")).to_have_count(0)
    assert page.url.endswith("?q=LIVE5")


def test_the_replication_line_moves_with_every_change(page: Page, running_farm: Farm) -> None:
    opened(page, "/office/pens")
    seq = int(page.locator("#replication").get_attribute("data-seq") or 0)
    running_farm.pi.sql("UPDATE cattle SET notes='moved' WHERE cattle_id='BATCH001-1'")
    expect(page.locator("#replication")).to_have_attribute("data-seq", str(seq + 1), timeout=QUICK)
    assert is_same(page)


def test_a_burst_is_few_fetches_and_a_quiet_farm_none(page: Page, running_farm: Farm) -> None:
    opened(page)
    fetched: list[float] = []
    page.on("request", lambda request: fetched.append(time.monotonic()))
    page.wait_for_timeout(2_500)
    assert fetched == []
    began = time.monotonic()
    for number in range(40):
        running_farm.post(f"hxb:BURST:LFB{number}:UHFB{number}")
    took = time.monotonic() - began
    expect(page.get_by_role("row").filter(has=link(page, "BURST")).locator("[data-label=Animals]")).to_have_text("40", timeout=QUICK)
    assert 0 < len(fetched) <= 10 * took + 4


def test_a_tab_that_slept_shows_what_it_missed(page: Page, running_farm: Farm) -> None:
    opened(page)
    with asleep():
        add_batch(running_farm, "LIVE6")
        running_farm.assert_identical()
        time.sleep(ASLEEP)
    expect(link(page, "LIVE6")).to_be_visible(timeout=QUICK)
    expect(page.locator("#connection")).to_have_text("Live", timeout=SOON)
    assert is_same(page)


@contextmanager
def asleep() -> Iterator[None]:
    """No page runs meanwhile, as on a laptop whose lid is closed. The processes are those of our own browser."""
    stopped = [pid for pid in descendants(os.getpid()) if b"--type=renderer" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert stopped
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def descendants(pid: int) -> list[int]:
    children = [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]
    return [*children, *(each for child in children for each in descendants(child))]


def test_who_was_offline_catches_up(context: BrowserContext, running_farm: Farm) -> None:
    page = opened(context.new_page())
    context.set_offline(True)
    add_batch(running_farm, "LIVE7")
    page.wait_for_timeout(500)
    context.set_offline(False)
    expect(link(page, "LIVE7")).to_be_visible(timeout=SOON)
    assert is_same(page)


def test_without_a_socket_the_page_looks_by_itself(page: Page, running_farm: Farm) -> None:
    page.route_web_socket(re.compile("socket.io"), lambda socket: socket.close())
    page.goto("/office/batches")
    page.evaluate("window.sameDocument = true")
    add_batch(running_farm, "LIVE8")
    expect(link(page, "LIVE8")).to_be_visible(timeout=SOON)
    expect(page.locator("#connection")).to_have_text("Looks every 3 s")
    assert is_same(page)


def test_without_the_library_too(context: BrowserContext, running_farm: Farm) -> None:
    page = context.new_page()
    page.route("**/socket.io.min.js*", lambda route: route.abort())
    page.goto("/office/batches")
    add_batch(running_farm, "LIVE9")
    expect(link(page, "LIVE9")).to_be_visible(timeout=SOON)


def test_whoever_signs_out_in_one_tab_is_signed_out_in_the_others(browser: Browser, running_farm: Farm) -> None:
    context = browser.new_context(base_url=running_farm.server.url)
    sign_in(context.new_page(), USER, PASSWORD)
    first, second = opened(context.new_page()), opened(context.new_page(), "/office/pens")
    first.get_by_role("button", name="Sign out").click()
    expect(first.get_by_text("You are signed out.")).to_be_visible()
    expect(second.get_by_role("heading", name="Sign in")).to_be_visible(timeout=QUICK)
    context.close()


def test_a_batch_that_is_removed_says_so(context: BrowserContext, running_farm: Farm) -> None:
    add_batch(running_farm, "LIVE10")
    running_farm.assert_identical()
    page = opened(context.new_page())
    link(page, "LIVE10").click()
    opened(page, page.url)
    running_farm.pi.sql("DELETE FROM batches WHERE batch_number='LIVE10'")
    expect(page.get_by_role("heading", name="Not found")).to_be_visible(timeout=QUICK)


def test_a_page_of_another_origin_gets_no_socket(context: BrowserContext, running_farm: Farm) -> None:
    page = context.new_page()
    page.route("http://127.0.0.1:9/", lambda route: route.fulfill(content_type="text/html", body="<p>of somebody else"))
    page.goto("http://127.0.0.1:9/")  # another port: the browser sends the office's cookie along
    address = running_farm.server.url.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
    assert page.evaluate(OUTCOME, address) == "refused"


@pytest.mark.parametrize(
    "path",
    ["/office/", "/office/cattle", "/office/cattle/1", "/office/batches", "/office/batches/1", "/office/payloads", "/office/replication"],
)
def test_live_pages_fit_a_phone(page: Page, path: str) -> None:
    page.set_viewport_size(PHONE)
    opened(page, path)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_a_server_that_goes_and_comes_back_is_told_in_words_and_nothing_is_missed(browser: Browser, farm: Farm) -> None:
    farm.start()
    context = browser.new_context(base_url=farm.server.url)
    sign_in(context.new_page(), USER, PASSWORD)
    page = opened(context.new_page())
    assert page.locator("#spoken").text_content() == ""
    farm.server.stop()
    expect(page.locator("#connection")).to_have_text("No answer", timeout=SOON)
    expect(page.locator("#spoken")).to_contain_text("does not answer", timeout=SPOKEN)
    add_batch(farm, "MISSED")
    farm.server.start()
    expect(page.locator("#connection")).to_have_text("Live", timeout=SOON)
    expect(link(page, "MISSED")).to_be_visible(timeout=SOON)
    expect(page.locator("#spoken")).to_contain_text("live again", timeout=SPOKEN)
    assert is_same(page)
    context.close()


def test_a_pi_that_is_away_is_seen_on_the_page(browser: Browser, farm: Farm) -> None:
    farm.server.settings["STALE_AFTER"] = 2
    farm.start()
    context = browser.new_context(base_url=farm.server.url)
    sign_in(context.new_page(), USER, PASSWORD)
    page = opened(context.new_page())
    farm.pi.stop()
    expect(page.locator("#replication strong")).to_have_text("Stale", timeout=SOON)
    farm.pi.start()
    expect(page.locator("#replication strong")).to_have_text("Following the Pi", timeout=SOON)
    assert is_same(page)
    context.close()
