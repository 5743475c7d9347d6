"""Filling the forms of a running office without a browser."""

from __future__ import annotations

import errno
import html
import re
import socket
from typing import Any

import requests
from farm_processes import PASSWORD, USER, Farm, eventually


def kill_pi(farm: Farm) -> None:
    """A power cut at the Pi; from then on nobody listens there, not even a worker that is about to die."""
    port = int(str(farm.pi.settings["PI_PORT"]))
    farm.pi.kill9()

    def refuses() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED

    eventually(refuses)


class Desk:
    """Somebody who is signed in at the office of a farm."""

    def __init__(self, farm: Farm, name: str = USER, password: str = PASSWORD) -> None:
        self.farm, self.browser = farm, requests.Session()
        form = eventually(lambda: self._token(self.get("/office/login").text))
        sent = {"csrf_token": form, "username": name, "password": password}
        answer = self.browser.post(f"{farm.server.url}/office/login", data=sent, allow_redirects=False, timeout=10)
        assert answer.status_code == 302, answer.text

    def get(self, path: str) -> requests.Response:
        """A page."""
        return self.browser.get(self.farm.server.url + path, allow_redirects=False, timeout=30)

    def form(self, path: str) -> Filled:
        """A form, as it was shown."""
        answer = self.get(path)
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        return Filled(self, path, answer.text)

    def _token(self, text: str) -> str | None:
        match = re.search(r'name="csrf_token" value="([^"]+)"', text)
        return match[1] if match else None


class Filled:
    """One form with what stands in its fields."""

    def __init__(self, desk: Desk, path: str, text: str) -> None:
        self.desk, self.path, self.text = desk, path, html.unescape(text)
        self.values: dict[str, str] = {}
        for tag in re.finditer(r"<input[^>]*>", text):
            name, value = re.search(r' name="([^"]+)"', tag[0]), re.search(r' value="([^"]*)"', tag[0])
            if name:
                self.values[name[1]] = html.unescape(value[1]) if value else ""
        for name, value in re.findall(r'<textarea[^>]*? name="([^"]+)"[^>]*>\n(.*?)</textarea>', text, re.DOTALL):
            self.values[name] = html.unescape(value)
        for name, options in re.findall(r'<select[^>]*? name="([^"]+)"[^>]*>(.*?)</select>', text, re.DOTALL):
            chosen = re.search(r'<option value="([^"]*)" selected', options)
            self.values[name] = chosen[1] if chosen else ""

    def send(self, **typed: Any) -> requests.Response:
        """What the server answers to the form with these texts typed into it; lines end as browsers send them."""
        assert set(typed) <= set(self.values), (typed, self.values)
        self.values |= {name: str(text) for name, text in typed.items()}
        data = {name: text.replace("\r\n", "\n").replace("\n", "\r\n") for name, text in self.values.items()}
        url = self.desk.farm.server.url + self.path
        return self.desk.browser.post(url, data=data, allow_redirects=False, timeout=60)

    def again(self, answer: requests.Response) -> Filled:
        """The form that came back instead of a redirect."""
        return Filled(self.desk, self.path, answer.text)


def flashed(desk: Desk, path: str = "/office/pens") -> str:
    """What the next page says."""
    found = re.findall(r'<p class="notice" role="status">(.*?)</p>', desk.get(path).text, re.DOTALL)
    return html.unescape(" ".join(found))


def wrong(text: str, field: str = "") -> str:
    """The sentence with which a form came back, or the one at a field, to which the field is tied."""
    text = html.unescape(text)
    if field:
        tag = re.search(rf'<[^>]* name="{field}"[^>]*>', text)
        assert tag and f"error-{field}" in tag[0] and 'aria-invalid="true"' in tag[0], text
        [found] = re.findall(rf'id="error-{field}">(.*?)</p>', text, re.DOTALL)
        return found
    [found] = re.findall(r'role="alert" id="refusal"[^>]*>(.*?)</p>', text, re.DOTALL)
    return found
