"""The forms in a real browser: by keyboard, on a phone, without scripts, and with a Pi that hangs or is killed in between."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from farm_processes import PASSWORD, USER, Farm
from office_browser import DESK, PHONE, faults_of, sign_in
from office_forms import kill_pi
from playwright.sync_api import Browser, Page, expect

FORMS = ("pens/new", "pens/1/edit", "pens/1/delete", "batches/1/notes", "account/password")
FORMS += tuple(f"cattle/1/{name}" for name in ("weight", "move", "tags", "notes", "edit"))
BACK = 30_000  # ms in which a form is answered while the Pi hangs


@pytest.fixture(scope="module")
def office(running_farm: Farm) -> Farm:
    running_farm.pi.sql("INSERT INTO pens(id, pen_number, capacity, description) VALUES(1, 'P1', 40, 'by the gate')")
    running_farm.fill(3)
    running_farm.assert_identical()
    return running_farm


def signed_in(browser: Browser, farm: Farm, **context: object) -> Page:
    """The first page of somebody who signed in."""
    page = browser.new_context(base_url=farm.server.url, **{"viewport": DESK, **context}).new_page()
    sign_in(page, USER, PASSWORD)
    return page


def focused(page: Page) -> str:
    found: str = page.evaluate("document.activeElement.name || document.activeElement.textContent.trim()")
    return found


def test_a_pen_is_made_by_keyboard_alone_and_what_is_wrong_gets_the_focus(browser: Browser, office: Farm) -> None:
    page = signed_in(browser, office)
    page.goto("/office/pens/new")
    assert focused(page) == "pen_number"
    for text in ("Keys 1", "ten", "made by keyboard"):
        page.keyboard.type(text)
        page.keyboard.press("Tab")
    assert focused(page) == "Make the pen"
    page.keyboard.press("Enter")
    expect(page.get_by_text("Capacity must be a whole number")).to_be_visible()
    assert focused(page) == "capacity"
    described = "How many animals find place in it. Capacity must be a whole number, such as 40."
    expect(page.get_by_label("Capacity")).to_have_accessible_description(described)
    expect(page.get_by_label("Description")).to_have_value("made by keyboard")
    faults = faults_of(page, office.server.url)
    page.keyboard.press("Control+A")
    page.keyboard.type("10")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Pen Keys 1 was made.")).to_be_visible()
    expect(page.get_by_role("rowheader", name="Keys 1")).to_be_visible()
    assert faults == []
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_forms_fit_a_phone_and_every_field_has_a_label(browser: Browser, office: Farm, scheme: str) -> None:
    page = signed_in(browser, office, viewport=PHONE, color_scheme=scheme)
    faults = faults_of(page, office.server.url)
    for path in FORMS:
        page.goto(f"/office/{path}")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
        fields = page.locator("main").locator("input:visible, select, textarea")
        assert fields.evaluate_all("fields => fields.filter(field => !field.labels.length).map(field => field.name)") == [], path
        buttons = page.locator("main").locator("button, [role=button]")
        assert buttons.evaluate_all("buttons => buttons.filter(b => b.getBoundingClientRect().height < 38).length") == 0, path
    assert faults == []
    page.context.close()


def test_forms_work_without_javascript(browser: Browser, office: Farm) -> None:
    page = signed_in(browser, office, java_script_enabled=False)
    page.goto("/office/batches/1/notes")
    page.get_by_label("Notes").fill("no script\nneeded")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("The notes on batch BATCH001 were saved.")).to_be_visible()
    expect(page.locator("dd", has_text="no script")).to_be_visible()
    page.context.close()


def test_a_time_is_typed_as_the_viewers_clock_shows_it(browser: Browser, office: Farm) -> None:
    page = signed_in(browser, office, timezone_id="America/Denver")
    page.goto("/office/cattle/1/weight")
    page.get_by_label("Weight in kg").fill("346")
    page.get_by_label("Weighed at (your time)").fill("yesterday")
    page.get_by_role("button", name="Record").click()
    expect(page.get_by_text("Weighed at must be a day and a time, such as 2024-01-15 10:30.")).to_be_visible()
    expect(page.get_by_label("Weighed at (your time)")).to_have_value("yesterday")
    page.get_by_label("Weight in kg").fill("heavy")
    page.get_by_label("Weighed at (your time)").fill("2024-01-15 10:30")
    page.get_by_role("button", name="Record").click()
    expect(page.get_by_text("Weight in kg must be a number")).to_be_visible()
    expect(page.get_by_label("Weighed at (your time)")).to_have_value("2024-01-15 10:30")
    faults = faults_of(page, office.server.url)
    page.get_by_label("Weight in kg").fill("345.5")
    page.get_by_role("button", name="Record").click()
    expect(page.locator("time[datetime='2024-01-15T17:30:00Z']").first).to_have_text("2024-01-15 10:30")
    assert office.pi.sql("SELECT weight, recorded_at FROM weight_records WHERE cattle_id=1") == "345.5|2024-01-15T17:30:00"
    assert faults == []
    page.context.close()


def test_without_javascript_a_time_is_typed_in_utc(browser: Browser, office: Farm) -> None:
    page = signed_in(browser, office, java_script_enabled=False, timezone_id="America/Denver")
    page.goto("/office/cattle/2/weight")
    page.get_by_label("Weight in kg").fill("400")
    page.get_by_label("Weighed at (UTC)").fill("2024-01-15 10:30")
    page.get_by_role("button", name="Record").click()
    expect(page.locator("time[datetime='2024-01-15T10:30:00Z']").first).to_be_visible()
    page.context.close()


def test_what_was_typed_outlives_a_pi_that_hangs_and_then_dies(browser: Browser, farm: Farm) -> None:
    farm.start()
    farm.fill(1)
    farm.assert_identical()
    page = signed_in(browser, farm)
    page.goto("/office/batches/1/notes")
    page.get_by_label("Notes").fill("first line\n  second line")
    for pid in farm.pi.pids():
        os.kill(pid, signal.SIGSTOP)
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("send it again, it is not written twice")).to_be_visible(timeout=BACK)
    expect(page.get_by_label("Notes")).to_have_value("first line\n  second line")
    kill_pi(farm)
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Nothing was written.")).to_be_visible(timeout=BACK)
    expect(page.get_by_label("Notes")).to_have_value("first line\n  second line")
    farm.pi.start()
    page.get_by_label("Notes").press("End")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("The notes on batch BATCH001 were saved.")).to_be_visible(timeout=BACK)
    farm.assert_identical()  # the server may still pause between two tries to reach the Pi
    assert farm.server.sql("SELECT notes FROM batches WHERE id=1") == "first line\n  second line"
    assert farm.pi.sql("SELECT count(*) FROM changelog WHERE tbl='batches' AND op='U'") == "1"
    page.context.close()


def test_who_changes_the_password_stays_signed_in_and_another_browser_does_not(browser: Browser, farm: Farm) -> None:
    farm.start()
    here, there = signed_in(browser, farm), signed_in(browser, farm)
    here.goto("/office/pens")
    faults = faults_of(here, farm.server.url)
    here.get_by_role("link", name="Password").click()
    here.get_by_label("Old password").fill(PASSWORD)
    here.get_by_label("New password", exact=True).fill("another long password")
    here.get_by_label("New password again").fill("another long password")
    here.keyboard.press("Enter")
    expect(here.get_by_text("Your password was changed.")).to_be_visible()
    expect(there.get_by_role("heading", name="Sign in")).to_be_visible(timeout=BACK)  # told over its socket
    here.wait_for_timeout(1_500)  # longer than a page that is told that its session ended waits before it looks
    expect(here.get_by_role("heading", name="Batches")).to_be_visible()
    here.get_by_role("link", name="Pens").click()
    expect(here.get_by_role("heading", name="Pens")).to_be_visible()
    assert faults == []
    here.context.close()
    there.context.close()


def test_a_form_on_its_way_is_waited_for_although_the_session_of_its_page_has_ended(browser: Browser, farm: Farm) -> None:
    """The Pi pushes the new password, which ends the sessions with the old one, before the slow answer to the form is here."""
    farm.start()
    page = signed_in(browser, farm)
    page.goto("/office/account/password")
    page.get_by_label("Old password").fill(PASSWORD)
    page.get_by_label("New password", exact=True).fill("another long password")
    page.get_by_label("New password again").fill("another long password")
    line, held = page.context.new_cdp_session(page), list[str]()

    def hold(told: dict[str, Any]) -> None:
        if told["request"]["method"] == "POST":
            held.append(told["requestId"])
        else:
            line.send("Fetch.continueRequest", {"requestId": told["requestId"]})

    line.on("Fetch.requestPaused", hold)
    line.send("Fetch.enable", {"patterns": [{"requestStage": "Response", "resourceType": "Document"}]})
    page.get_by_label("New password again").press("Enter", no_wait_after=True)
    page.wait_for_timeout(2_500)  # several times as long as a page that is told of its end waits before it looks
    line.send("Fetch.continueRequest", {"requestId": held[0]})
    line.send("Fetch.disable")
    expect(page.get_by_text("Your password was changed.")).to_be_visible()
    page.context.close()


def test_a_double_click_sends_a_form_once(browser: Browser, farm: Farm) -> None:
    farm.start()
    page = signed_in(browser, farm)
    page.goto("/office/account/password")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    page.get_by_label("Old password").fill(PASSWORD)
    page.get_by_label("New password", exact=True).fill("another long password")
    page.get_by_label("New password again").fill("another long password")
    box = page.get_by_role("button", name="Change the password").bounding_box()
    assert box is not None
    with page.expect_request(lambda request: request.method == "POST"):
        page.mouse.click(box["x"] + 9, box["y"] + 9)
    page.mouse.click(box["x"] + 9, box["y"] + 9)  # the answer is not there yet: a password takes a while to hash
    expect(page.get_by_text("Your password was changed.")).to_be_visible(timeout=BACK)
    assert len(sent) == 1
    page.context.close()
