"""Debian's Chromium as the tests of the pages use it, and what it must never complain of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("there is no chromium on this machine", allow_module_level=True)

from playwright.sync_api import Browser, Page, expect, sync_playwright  # noqa: E402  # after the skip: it is useless without the browser

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1200, "height": 800}
LEFT = "net::ERR_ABORTED"  # a request that the next navigation cut off


@contextmanager
def running_browser() -> Iterator[Browser]:
    """One Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def faults_of(page: Page, address: str) -> list[str]:
    """From now on everything that must not happen on `page`: words on the console, failed, refused and foreign requests."""
    faults: list[str] = []
    own = (address, address.replace("http", "ws", 1), "data:")
    page.on("console", lambda message: faults.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("requestfailed", lambda request: None if request.failure == LEFT else faults.append(f"{request.failure}: {request.url}"))
    page.on("request", lambda request: None if request.url.startswith(own) else faults.append(f"foreign: {request.url}"))
    page.on("websocket", lambda socket: None if socket.url.startswith(own) else faults.append(f"foreign: {socket.url}"))
    page.on("response", lambda answer: faults.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None)
    return faults


def sign_in(page: Page, name: str, password: str) -> None:
    """As a person does it, by keyboard."""
    page.goto("/office/login")
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(password)
    page.keyboard.press("Enter")
    expect(page.get_by_role("navigation", name="Pages")).to_be_visible()


def session_of(browser: Browser, address: str, name: str, password: str) -> Any:
    """What a browser keeps of somebody who has signed in, for `storage_state` of other contexts."""
    context = browser.new_context(base_url=address)
    sign_in(context.new_page(), name, password)
    state = context.storage_state()
    context.close()
    return state
