"""Sessions whose cookie says how long it lasts, and not until when: the clock of this server may be years behind the browser's."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response
from flask.sessions import SecureCookieSessionInterface, SessionMixin


class Sessions(SecureCookieSessionInterface):
    """Flask's own, with Max-Age in the place of Expires. That a session is too old, the server sees by what it has signed."""

    _serializer: Any = None

    def get_signing_serializer(self, app: Flask) -> Any:
        """Flask's, made once: it is asked for with every page, and the key stays as long as the process."""
        if self._serializer is None:
            self._serializer = super().get_signing_serializer(app)
        return self._serializer

    def get_expiration_time(self, app: Flask, session: SessionMixin) -> None:
        """No moment."""

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Set the cookie where the session has changed."""
        super().save_session(app, session, response)
        begin, end = f"{self.get_cookie_name(app)}=", f"; Max-Age={app.permanent_session_lifetime.total_seconds():.0f}"
        cookies = response.headers.getlist("Set-Cookie")
        if session.permanent and cookies:
            lasting = [cookie + end if cookie.startswith(begin) and "Max-Age" not in cookie else cookie for cookie in cookies]
            response.headers.setlist("Set-Cookie", lasting)
