"""The page of replication in a real browser, over a real Pi: the plot that goes on by itself, comparisons, fresh copies, the history."""

from __future__ import annotations

import re
from typing import Any

import pytest
from farm_processes import PASSWORD, USER, Farm, eventually, shell
from office_browser import PHONE, session_of
from playwright.sync_api import Browser, Page, expect

QUICK = 3_000  # ms for what is told over the socket, on a busy machine
SOON = 15_000  # ms for what the sync service does between two steps


@pytest.fixture(scope="module")
def session(browser: Browser, running_farm: Farm) -> Any:
    running_farm.fill(5)
    running_farm.assert_identical()
    return session_of(browser, running_farm.server.url, USER, PASSWORD)


@pytest.fixture(scope="module")
def address(running_farm: Farm) -> str:
    return running_farm.server.url


def opened(page: Page) -> Page:
    page.goto("/office/replication")
    expect(page.locator("#connection")).to_have_text("Live", timeout=SOON)
    expect(page.locator("#lag canvas")).to_be_visible()
    return page


def points(page: Page) -> int:
    return int(page.locator("#lag").get_attribute("data-points") or 0)


def test_a_commit_on_the_pi_adds_a_point_to_the_plot(page: Page, running_farm: Farm) -> None:
    opened(page)
    page.wait_for_timeout(1500)  # the greeting has been told, and the next status may be
    for number in range(3):
        before = points(page)
        running_farm.pi.sql(f"INSERT INTO pens(pen_number, capacity) VALUES('PLOT{number}', 1)")
        page.wait_for_function("(before) => Number(document.getElementById('lag').dataset.points) > before", arg=before, timeout=QUICK)
    expect(page.locator("#lag-now")).to_have_text(re.compile("Now:"))
    assert page.evaluate("document.querySelector('#lag canvas').width") > 0


def test_the_last_hour_is_there_for_a_page_that_is_opened_later(page: Page, running_farm: Farm) -> None:
    kept = eventually(lambda: page.request.get(f"{running_farm.server.url}/office/api/lag").json()["data"])
    assert len(kept["at"]) == len(kept["changes"]) == len(kept["seconds"]) > 0
    assert kept["at"] == sorted(kept["at"])
    opened(page)
    assert points(page) >= len(kept["at"])


def test_the_plot_fits_the_window_in_both_colour_schemes(page: Page) -> None:
    opened(page)
    light = page.evaluate("document.querySelector('#lag canvas').toDataURL()")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("(light) => document.querySelector('#lag canvas').toDataURL() !== light", arg=light)
    page.set_viewport_size(PHONE)
    page.wait_for_function("document.querySelector('#lag .uplot').clientWidth <= 390")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_a_comparison_is_asked_for_and_its_result_appears(page: Page, running_farm: Farm) -> None:
    opened(page)
    page.get_by_role("button", name="Verify now").click()
    expect(page.get_by_role("heading", name="Compare with the Pi")).to_be_visible()
    page.get_by_role("button", name="Compare now").click()
    expect(page.get_by_role("status").filter(has_text="A comparison with the Pi was asked for")).to_be_visible()
    head = running_farm.pi.sql("SELECT max(seq) FROM changelog")
    expect(page.locator("#comparison")).to_contain_text(f"identical at seq {head}", timeout=SOON)


def test_a_difference_is_found_and_repaired_from_the_page(page: Page, running_farm: Farm) -> None:
    running_farm.server.damage("UPDATE cattle SET weight=999 WHERE id=3")
    opened(page)
    page.get_by_role("button", name="Verify now").click()
    page.get_by_role("button", name="Compare now").click()
    expect(page.locator("#comparison")).to_contain_text("differed in cattle (1); not repaired", timeout=SOON)
    page.get_by_role("button", name="Verify now").click()
    page.get_by_label("And repair").check()
    page.get_by_role("button", name="Compare now").click()
    expect(page.locator("#comparison")).to_contain_text("1 row repaired", timeout=SOON)
    running_farm.assert_identical()


def test_a_fresh_copy_is_confirmed_and_stands_in_the_history_with_its_reason(page: Page, running_farm: Farm) -> None:
    opened(page)
    page.get_by_role("button", name="Fetch a fresh copy").click()
    expect(page.get_by_role("heading", name="Fetch a fresh copy")).to_be_visible()
    page.get_by_role("button", name="Fetch it now").click()
    expect(page.get_by_role("row").filter(has_text="whole copy").filter(has_text=f"asked for by {USER}").first).to_be_visible(timeout=SOON)
    running_farm.assert_identical()


def test_it_all_works_without_javascript(browser: Browser, running_farm: Farm, session: Any) -> None:
    context = browser.new_context(base_url=running_farm.server.url, storage_state=session, java_script_enabled=False)
    page = context.new_page()
    page.goto("/office/replication")
    expect(page.get_by_text("The plot needs JavaScript")).to_be_visible()
    page.get_by_role("button", name="Verify now").click()
    page.get_by_role("button", name="Compare now").click()
    expect(page.get_by_role("heading", name="Replication")).to_be_visible()
    context.close()


def test_the_pushed_link_is_told(page: Page) -> None:
    opened(page)
    expect(page.locator("dl").first).to_contain_text("up: the Pi tells at once what is new")


def test_the_history_says_how_many_bytes_a_pull_moved(page: Page, running_farm: Farm) -> None:
    running_farm.pi.sql("UPDATE pens SET capacity=capacity+1")
    running_farm.assert_identical()
    opened(page)
    expect(page.get_by_role("row").filter(has_text="changes").locator("[data-label=Bytes]").first).not_to_have_text("0 B")


def test_the_history_is_paged_by_key(page: Page, running_farm: Farm) -> None:
    times = "strftime('%Y-%m-%dT%H:%M:%S','now')"
    shell(
        running_farm.server.data / "server.db",
        f"""WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<70)
            INSERT INTO sync_history(id, started_at, ended_at, kind, outcome, reason, times, records, bytes, seconds)
            SELECT -i, {times}, {times}, 'pull', 'failed', 'old failure '||i, 1, 0, 0, 0.1 FROM n""",
    )
    opened(page)
    for _ in range(4):
        if page.get_by_text("old failure 70", exact=True).count():
            break
        page.locator("#pager-onward").click()
    expect(page.get_by_text("old failure 70", exact=True)).to_be_visible()
    page.locator("#pager-back").click()
    expect(page.get_by_text("old failure 40", exact=True)).to_be_visible()
