"""Every error leaves as a problem document (RFC 9457), and every answer with the headers that keep browsers careful."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Collection
from typing import Any

from flask import Flask, Request, Response, current_app, request, url_for
from gunicorn.http.errors import NoMoreData, ParseException  # type: ignore[import-untyped]
from werkzeug.exceptions import HTTPException, MethodNotAllowed, RequestedRangeNotSatisfiable
from werkzeug.http import HTTP_STATUS_CODES

from changelog.errors import DroverError

logger = logging.getLogger(__name__)

PROBLEM = "application/problem+json"
RETRY_AFTER = 5  # s, told with 429 and 503 where nothing better is known
FAILED = "Something went wrong here; the log of this machine says what."
POSITION_FACTS = ("epoch", "oldest", "head")  # facts of an error that the other side needs
API_CSP = "default-src 'none'; frame-ancestors 'none'"  # for a role without pages

Html = Callable[[int, str], Response]


def install_problems(app: Flask, *, csp: str = API_CSP, html: Html | None = None, facts: Collection[str] = ()) -> None:
    """Give `app` its error documents and security headers.

    `csp` is the Content-Security-Policy of all answers; `html(status, message)` renders an error for a browser that asked for a page
    (a path without /api/); `facts` names further facts of our errors that callers may see.
    """
    shown = (*POSITION_FACTS, *facts)

    def answer(exc: Exception) -> Response | HTTPException:
        if isinstance(exc, HTTPException) and (exc.response is not None or (exc.code or 0) < 400):
            return exc  # a redirect, or an answer that the view made itself
        status, message = _judged(exc)
        if html is not None and _is_page(request):
            response = html(status, message)
            response.status_code = status
        else:
            response = _problem(status, message, exc, shown)
        return _with_headers(response, exc)

    def harden(response: Response) -> Response:
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("X-Frame-Options", "DENY")
        response.headers.setdefault("Referrer-Policy", "same-origin")
        response.headers.setdefault("Content-Security-Policy", csp)
        if request.method == "OPTIONS" and not response.content_length:
            response.headers.pop("Content-Type", None)  # of nothing
        return response

    app.register_error_handler(Exception, answer)
    app.after_request(harden)


def _judged(exc: Exception) -> tuple[int, str]:
    """Status and message of an error; what nobody foresaw is logged here, once, and says nothing of itself outside."""
    if isinstance(exc, DroverError):
        if exc.status == 500:
            logger.error("%s %s: %s", request.method, request.path, exc.message)
        return exc.status, exc.message
    if isinstance(exc, HTTPException):
        return exc.code or 500, _in_words(exc)
    if isinstance(exc, (NoMoreData, ParseException)):  # met where a view reads the body
        return 400, "The body did not arrive whole and well-formed"
    logger.error("%s %s failed", request.method, request.path, exc_info=exc)
    return 500, FAILED


def _in_words(exc: HTTPException) -> str:
    """The message of an error that Flask met by itself: werkzeug's own say nothing of this request."""
    if isinstance(exc, RequestedRangeNotSatisfiable):
        return "The file does not have that range: ask for all of it, or for another one"
    shown = ascii(request.path)[1:-1][:80]
    if exc is not request.routing_exception:
        return exc.description or exc.name
    if isinstance(exc, MethodNotAllowed):
        return f"{shown} takes {', '.join(sorted(exc.valid_methods or ()))}, not {request.method[:20]}"
    if _is_page(request) or "openapi" not in current_app.view_functions:
        return f"There is no {shown} here"
    return f"There is no {shown} here: {url_for('openapi')} describes what there is"


def _problem(status: int, message: str, exc: Exception, shown: Collection[str]) -> Response:
    """The error as a problem document."""
    body: dict[str, Any] = {"type": "about:blank", "title": HTTP_STATUS_CODES.get(status, "Error"), "status": status, "detail": message}
    body |= {"success": False, "message": message}
    if isinstance(exc, DroverError):
        body |= {name: exc.facts[name] for name in shown if name in exc.facts}
        body |= {"action": exc.action} if exc.action else {}
    return Response(json.dumps(body, default=str) + "\n", status, mimetype=PROBLEM)


def _with_headers(response: Response, exc: Exception) -> Response:
    """`response` with what the status asks for: when to come again, which methods there are; and never from a cache."""
    response.headers["Cache-Control"] = "no-store"
    if isinstance(exc, HTTPException):
        for name, value in exc.get_headers():
            if name.lower() not in ("content-type", "content-length"):
                response.headers[name] = value
    if response.status_code in (429, 503) and "Retry-After" not in response.headers:
        wait: Any = exc.facts.get("retry_after", RETRY_AFTER) if isinstance(exc, DroverError) else RETRY_AFTER
        response.headers["Retry-After"] = str(math.ceil(wait))
    return response


def _is_page(request: Request) -> bool:
    """Whether a browser asked for a page: it names text/html itself (curl's */* does not), and the path is none of an API."""
    return "/api/" not in request.path and any(kind == "text/html" for kind, _ in request.accept_mimetypes)
