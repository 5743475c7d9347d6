"""Who is asking: login against the replicated users, sessions, CSRF tokens."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import apsw
from flask import Blueprint, Flask, flash, g, redirect, render_template, request, session, url_for
from werkzeug.security import check_password_hash, generate_password_hash

from changelog.errors import Forbidden, TooMany
from changelog.values import is_yes
from server.lockout import LONGEST_NAME, Failures
from server.office import office
from server.paging import rows_of
from server.replica import FileGone
from server.sessions import Sessions

COOKIE = "drover"  # in which a browser keeps its session
SESSION_LIFETIME = timedelta(hours=12)
HASHES_AT_ONCE = threading.Semaphore(2)  # a scrypt check takes 32 MiB and a core: a flood of logins must not take all
WAIT_FOR_HASH = 5.0  # s
USABLE_HASH = "scrypt:"
NEXT_PROOF = "next_proof"  # in a session: the proof of a row that is on its way

logger = logging.getLogger(__name__)
login = Blueprint("login", __name__, url_prefix="/office")
keeping: set[str] = set()  # endpoints that keep what was typed: see `sign_in_again`


@dataclass(frozen=True, slots=True)
class User:
    """One row of the replicated users. `proof` changes with the password, the role and the name: a session of before is then over."""

    id: int
    username: str
    role: str
    password_hash: str
    active: bool

    @property
    def is_admin(self) -> bool:
        """Whether this user may set the replica back."""
        return self.role == "admin"

    @property
    def proof(self) -> str:
        """What a session keeps of the row, to see that it is still the same; tells nothing about the password."""
        return hashlib.sha256(f"{self.username}\0{self.role}\0{self.password_hash}".encode(errors="replace")).hexdigest()[:32]


failures = Failures()


def install_login(app: Flask, secret_key: str, data_dir: Path) -> None:
    """Sessions, CSRF protection of every form, and the login pages."""
    app.config.update(
        SECRET_KEY=secret_key or kept_secret(data_dir / "secret_key"),
        SESSION_COOKIE_NAME=COOKIE,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        PERMANENT_SESSION_LIFETIME=SESSION_LIFETIME,
        SESSION_REFRESH_EACH_REQUEST=False,
    )
    app.session_interface = Sessions()
    app.register_blueprint(login)
    app.jinja_env.globals["csrf_token"] = csrf_token


def kept_secret(path: Path) -> str:
    """The secret in the file, which is made (mode 0600) when missing or empty."""
    if not path.exists() or not path.read_text().strip():
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    return path.read_text().strip()


def session_user(db: apsw.Connection) -> User | None:
    """The user of this request's session, or None: no session, or it was ended, or the row changed, was deactivated or removed since."""
    user = _find(db, "id", session["user"]) if "user" in session else None
    if user is None or not user.active or office().store.has_ended(session_name()):
        return None
    return user if any(hmac.compare_digest(user.proof, str(session.get(name))) for name in ("proof", NEXT_PROOF)) else None


def keep_signed_in(user: User) -> None:
    """Let this session go on when the user's row comes back from the Pi as it is in `user`: it was changed here."""
    session[NEXT_PROOF] = user.proof


def signed_in(view: Callable[..., Any]) -> Callable[..., Any]:
    """`view(db, ...)` for signed-in people only: user, position and page are read from one snapshot."""

    def answer(arguments: dict[str, Any]) -> Any:
        with office().replica.read() as db:
            g.user = session_user(db)
            if g.user is None:
                return redirect(url_for("login.form", next=request.full_path.rstrip("?") if request.method == "GET" else None))
            g.position = rows_of(db, "SELECT epoch, seq, at FROM changelog_position")[0]
            return view(db, **arguments)

    @wraps(view)
    def wrapper(**arguments: Any) -> Any:
        try:
            return answer(arguments)
        except FileGone:
            if request.method != "GET":
                raise
            return answer(arguments)  # the file broke while it was read: once more, from the copy that replaces it

    return wrapper


def session_name() -> str:
    """What tells this session from every other, of the same user too."""
    return str(session.get("csrf", ""))


def csrf_token() -> str:
    """The token of this session, for a hidden field of every form: in every answer under another mask, which stands before it.

    Answers are compressed, and their length would tell, guess by guess, a secret that stands the same in all of them (BREACH).
    """
    if "csrf" not in session:
        session["csrf"] = secrets.token_urlsafe(24)
    token = session["csrf"].encode()
    mask = secrets.token_bytes(len(token))
    return (mask + _masked(token, mask)).hex()


def _masked(text: bytes, mask: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(text, mask, strict=True))


def _unmasked(token: str) -> bytes:
    """The token under its mask; nothing where it is none of ours."""
    try:
        given = bytes.fromhex(token)
        return _masked(given[len(given) // 2 :], given[: len(given) // 2])
    except ValueError:
        return b""


def check_csrf() -> None:
    """Raises Forbidden unless the form (or the header X-CSRF-Token) carries the token of the session."""
    given = request.headers.get("X-CSRF-Token") or request.form.get("csrf_token", "")
    token = _unmasked(given)
    if not token or not hmac.compare_digest(token, session.get("csrf", "").encode()):
        raise Forbidden("This form is too old, or was not ours: go back, reload the page and send it again.")


@login.before_app_request
def protect_forms() -> None:
    """Every POST of a page needs the token; the API (blueprint `status`) decides by itself, since keys need none.

    A page that keeps what was typed is not asked for it where there is no session: it writes nothing then, and says `sign_in_again`.
    """
    if request.method != "POST" or request.blueprint == "status" or request.routing_exception is not None:
        return  # what is not there is told as such
    if request.endpoint not in keeping or "user" in session:
        check_csrf()


def sign_in_again(kept: dict[str, str]) -> Any:
    """The login, for who sent a form after the session had ended: what was typed is `kept`, and leads back into the form."""
    return _form(wrong=False, kept=json.dumps(kept, ensure_ascii=False), target=request.path), 401


@login.get("/login")
def form() -> Any:
    """The login form, or the page asked for when there is a session already."""
    with office().replica.read() as db:
        if session_user(db):
            return redirect(own_path(request.args.get("next", "")))
    return _form(wrong=False)


@login.post("/login")
def enter() -> Any:
    """Begin a session, or show the form again with a 401."""
    username, password = request.form.get("username", ""), request.form.get("password", "")
    with office().replica.read() as db:
        user = _find(db, "username", username)
    shown = username[:LONGEST_NAME]
    try:
        allowed = is_allowed(user, username, password)
    except TooMany as exc:
        wait = exc.facts.get("retry_after", WAIT_FOR_HASH)
        return _form(wrong=False, username=shown, wait=exc.message, **_kept()), TooMany.status, {"Retry-After": f"{wait:.0f}"}
    if not allowed:
        logger.warning("login refused user=%r address=%s", shown, request.remote_addr)
        return _form(wrong=True, username=shown, **_kept()), 401
    assert user is not None
    session.clear()
    session.permanent = True
    session["user"], session["proof"] = user.id, user.proof
    csrf_token()  # from now on the session has a name
    logger.info("login user=%r address=%s", username, request.remote_addr)
    target = own_path(request.args.get("next", ""))
    if (typed := _kept_fields()) is not None:
        return render_template("resume.html", target=target, typed=typed)
    return redirect(target)


@login.post("/logout")
def leave() -> Any:
    """End the session, and what listens with it."""
    if "user" in session:
        office().store.end_session(session_name())
    if (live := office().live) is not None:
        live.sign_out(session_name())
    session.clear()
    flash("You are signed out.")
    return redirect(url_for("login.form"))


def _form(*, wrong: bool, username: str = "", **more: Any) -> str:
    return render_template("login.html", wrong=wrong, username=username, **more)


def _kept() -> dict[str, str]:
    """What `sign_in_again` kept, for the same page once more."""
    kept = request.form.get("kept")
    return {} if kept is None else {"kept": kept, "target": own_path(request.args.get("next", ""))}


def _kept_fields() -> dict[str, str] | None:
    """The fields of the form that was sent without a session, if one was."""
    try:
        typed = json.loads(request.form.get("kept", ""))
    except (ValueError, RecursionError):
        return None
    return {str(name): str(text) for name, text in typed.items()} if isinstance(typed, dict) else None


def is_allowed(user: User | None, name: str, password: str) -> bool:
    """Whether `password` opens `user`, whom somebody at the address of this request called `name`; a failure counts. Raises TooMany."""
    address = str(request.remote_addr)
    if not HASHES_AT_ONCE.acquire(timeout=WAIT_FOR_HASH):
        raise TooMany("Too many logins at once: try again in a few seconds.")
    try:
        failures.check(name, address)
        allowed = is_password(user, password)
        (failures.succeeded if allowed else failures.failed)(name, address)
        return allowed
    finally:
        HASHES_AT_ONCE.release()


def own_path(target: str) -> str:
    """`target` when it is a path of the office, else its first page: a login must not lead to another host, or fail over a line's end."""
    path = target.partition("?")[0].split("/")
    own = path[:2] == ["", "office"] and len(path) > 2 and not {".", ".."} & set(path) and "\\" not in target and target.isprintable()
    return target if own else url_for("pages.dashboard")


def is_password(user: User | None, password: str) -> bool:
    """Whether the password opens this user; takes the same time where there is no such user or no usable hash."""
    usable = user is not None and user.active and user.password_hash.startswith(USABLE_HASH)
    known = user.password_hash if usable and user is not None else _unmatched()
    try:
        return check_password_hash(known, password) and usable
    except ValueError:  # scrypt with parameters that it refuses
        return False


_hash_of_nothing: list[str] = []


def _unmatched() -> str:
    """A hash that costs what a real one does and that nobody knows a password of."""
    if not _hash_of_nothing:
        _hash_of_nothing.append(generate_password_hash(secrets.token_hex(32)))
    return _hash_of_nothing[0]


def _find(db: apsw.Connection, column: str, value: Any) -> User | None:
    found = rows_of(db, f"SELECT * FROM users WHERE {column}=?", (value,))
    if not found:
        return None
    row = found[0]
    return User(row.id, str(row.username), str(row.role), str(row.password_hash), is_yes(getattr(row, "is_active", 1)))
