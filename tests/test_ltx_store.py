"""One suite over every place for LTX files: a folder, moto's S3 server, and a real one that checks signatures (Swift)."""

from __future__ import annotations

import http.client
import io
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import ltx_parts
import pytest
import swift_server
from bad_bucket import BadBucket, Fault, Kind
from botocore import auth
from cutting_proxy import Behaviour, CuttingProxy
from ltx_parts import S3Server, keys

from changelog.errors import BadRequest, Conflict, DroverError, Forbidden, NotFound, Unavailable
from changelog.ltx.store.folder import FolderStore
from changelog.ltx.store.names import Name, Store, Stored, Taken, as_text, from_text
from changelog.ltx.store.place import open_store, s3_client
from changelog.ltx.store.s3 import S3Store
from changelog.ltx.store.uploads import WHOLE

NAME = Name(0, 5, 5)
AT = 1_790_000_000_123
LARGE = random.Random(1).randbytes(12_000_000)  # three parts


@pytest.fixture(params=["folder", "moto", "swift"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty place."""
    if request.param == "folder":
        yield open_store(tmp_path.as_uri() + "/farm")
        return
    server = request.getfixturevalue(request.param)
    with keys(ltx_parts.KEYS if request.param == "moto" else swift_server.KEYS):
        yield open_store(server.url(f"pi/{tmp_path.name}"))


def content(store: Store, name: Name) -> bytes:
    with store.open(name) as file:
        return file.read()


def test_what_is_put_is_there(store: Store) -> None:
    assert store.put(NAME, io.BytesIO(b"five"), AT) is None
    assert content(store, NAME) == b"five"
    assert store.timestamp(NAME) == AT
    (found,) = store.list(0)
    assert (found.name, found.size) == (NAME, 4)


def test_a_large_file_goes_in_parts_and_comes_back_whole(store: Store, tmp_path: Path) -> None:
    name = Name(9, 1, 5)
    assert store.put(name, io.BytesIO(LARGE), AT) is None
    with store.open(name, 1000, tmp_path) as file:
        assert file.read() == LARGE
    assert (store.timestamp(name), store.list(9)[0].size) == (AT, len(LARGE))
    assert store.put(name, io.BytesIO(LARGE), AT) == Taken(name, same=True)


def test_all_of_a_file_is_put_wherever_it_was_read(store: Store) -> None:
    file = io.BytesIO(b"all of it")
    file.read()
    store.put(NAME, file, AT)
    assert content(store, NAME) == b"all of it"


def test_a_folder_that_cannot_be_made_is_an_error_and_no_success(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere" / "deeper")
    with pytest.raises(DroverError):
        FolderStore(tmp_path / "gone").put(NAME, io.BytesIO(b"x"), AT)


def test_a_name_is_taken_once_and_the_second_learns_what_is_there(store: Store) -> None:
    store.put(NAME, io.BytesIO(b"first"), AT)
    assert store.put(NAME, io.BytesIO(b"first"), AT + 1) == Taken(NAME, same=True)
    assert store.put(NAME, io.BytesIO(b"other"), AT + 1) == Taken(NAME, same=False)
    assert (content(store, NAME), store.timestamp(NAME)) == (b"first", AT)
    assert store.put(NAME, io.BytesIO(b"forced"), AT + 1, if_absent=False) is None
    assert (content(store, NAME), store.timestamp(NAME)) == (b"forced", AT + 1)


def test_of_many_writers_at_once_one_wins_where_the_place_decides(store: Store) -> None:
    results: list[Taken | Unavailable | None] = []

    def write(n: int) -> None:
        try:
            results.append(store.put(NAME, io.BytesIO(b"%d" % n), AT))
        except Unavailable as exc:  # Swift tells some whose object was overtaken that it has not stored it
            results.append(exc)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8 and None in results
    if store.conditional:
        assert results.count(None) == 1 and all(isinstance(each, Taken) for each in results if each is not None)


def test_a_list_is_of_one_level_in_order_from_a_transaction_on(store: Store) -> None:
    names = [Name(0, 17, 17), Name(0, 2, 2), Name(0, 1, 1), Name(1, 1, 3), Name(9, 1, 2), Name(0, 3, 16)]
    for name in names:
        store.put(name, io.BytesIO(b"x"), AT)
    store.put_note("lease", b"mine")
    assert [file.name for file in store.list(0)] == [Name(0, 1, 1), Name(0, 2, 2), Name(0, 3, 16), Name(0, 17, 17)]
    assert [file.name for file in store.list(0, 2)] == [Name(0, 3, 16), Name(0, 17, 17)]
    assert [file.name for file in store.list(1)] == [Name(1, 1, 3)]
    assert store.list(0, 17) == store.list(2) == []


def test_what_is_deleted_is_gone_and_what_is_not_there_may_be_deleted(store: Store) -> None:
    names = [Name(0, txid, txid) for txid in range(1, 6)]
    for name in names:
        store.put(name, io.BytesIO(b"x"), AT)
    store.delete(names[:3])
    store.delete(names[:3])
    store.delete([])
    assert [file.name for file in store.list(0)] == names[3:]


def test_what_is_not_there_is_said_with_its_name(store: Store) -> None:
    for ask in (store.open, store.timestamp):
        with pytest.raises(NotFound, match=NAME.file):
            ask(NAME)
    assert store.list(0) == []


def test_notes_stand_beside_the_files(store: Store) -> None:
    assert store.note("lease") is None
    assert store.put_note("lease", b"mine", if_absent=True)
    assert not store.put_note("lease", b"yours", if_absent=True)
    assert store.note("lease") == b"mine"
    assert store.put_note("lease", b"ours") and store.note("lease") == b"ours"
    store.delete_note("lease")
    store.delete_note("lease")
    assert store.note("lease") is None


def test_more_than_a_thousand_files_are_listed_and_deleted(tmp_path: Path, moto: S3Server) -> None:
    with keys(ltx_parts.KEYS):
        store = open_store(moto.url("many"))
        names = [Name(0, txid, txid) for txid in range(1, 1006)]
        for name in names:
            store.put(name, io.BytesIO(b"x"), AT)
        assert [file.name for file in store.list(0)] == names
        store.delete(names)
        assert store.list(0) == []


def test_a_real_server_has_no_conditional_put_and_that_is_found_out(swift: S3Server, moto: S3Server) -> None:
    with keys(swift_server.KEYS):
        assert not open_store(swift.url("probe")).conditional
        assert s3_client(swift.endpoint, path_style=True).list_objects_v2(Bucket=swift.bucket, Prefix="probe/")["KeyCount"] == 0
    with keys(ltx_parts.KEYS):
        assert open_store(moto.url("probe")).conditional


def test_a_wrong_secret_is_refused_and_neither_it_nor_the_key_is_told(swift: S3Server) -> None:
    wrong = swift_server.KEYS | {"AWS_SECRET_ACCESS_KEY": "quite-another-secret"}
    with keys(wrong):
        store = open_store(swift.url("pi"))
        for ask in (lambda: store.list(0), lambda: store.open(NAME), lambda: store.put(NAME, io.BytesIO(b"x"), AT)):
            with pytest.raises(Forbidden, match="AWS_ACCESS_KEY_ID") as raised:
                ask()
            told = f"{raised.value} {raised.value.facts} {store!r} {store.url}"
            assert not any(secret in told for secret in wrong.values())


@pytest.mark.parametrize("path", ["a b+c", "q?x=1&y#z", "100%", "ö/ä", "a%2Fb", "it's <this>"])
def test_any_path_is_put_listed_read_and_deleted(path: str, moto: S3Server, swift: S3Server) -> None:
    for server, found in ((moto, ltx_parts.KEYS), (swift, swift_server.KEYS)):
        with keys(found):
            store = S3Store(s3_client(server.endpoint, path_style=True), server.bucket, f"odd/{path}")
            assert store.put(NAME, io.BytesIO(b"five"), AT) is None
            assert [file.name for file in store.list(0)] == [NAME]
            assert content(store, NAME) == b"five"
            store.delete([NAME])
            assert store.list(0) == []


def test_a_wrong_region_is_put_right_by_what_the_server_answers(swift: S3Server) -> None:
    with keys(swift_server.KEYS):
        store = open_store(swift.url("elsewhere").replace("us-east-1", "eu-nowhere-1"))
        assert store.put(NAME, io.BytesIO(b"x"), AT) is None
        assert [file.name for file in store.list(0)] == [NAME]


def test_a_clock_that_is_wrong_is_said_and_not_the_keys_blamed(swift: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    now = auth.get_current_datetime
    monkeypatch.setattr(auth, "get_current_datetime", lambda *words, **more: now(*words, **more).replace(year=2020))
    with keys(swift_server.KEYS), pytest.raises(Forbidden, match="set the clock of this machine"):
        open_store(swift.url("pi")).list(0)


def test_a_bucket_that_is_gone_is_named(swift: S3Server) -> None:
    with keys(swift_server.KEYS):
        client = s3_client(swift.endpoint, path_style=True)
        client.create_bucket(Bucket="shortlived")
        store = open_store(swift.url("pi", bucket="shortlived"))
        assert store.list(0) == []
        client.delete_bucket(Bucket="shortlived")
        for ask in (lambda: store.list(0), lambda: store.put(NAME, io.BytesIO(b"x"), AT), lambda: store.note("lease")):
            with pytest.raises(NotFound, match="there is no bucket shortlived"):
                ask()


def test_without_keys_that_is_said(moto: S3Server, tmp_path: Path) -> None:
    nowhere = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": str(tmp_path / "none")}
    with keys(nowhere | {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}):
        with pytest.raises(Forbidden, match="there is no key for S3"):
            open_store(moto.url("pi")).list(0)


def test_keys_are_taken_from_a_profile(swift: S3Server, tmp_path: Path) -> None:
    key, secret = swift_server.KEYS.values()
    (tmp_path / "credentials").write_text(f"[farm]\naws_access_key_id={key}\naws_secret_access_key={secret}\n")
    with keys({"AWS_PROFILE": "farm", "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")}):
        assert open_store(swift.url("unused")).list(0) == []
    with keys({"AWS_PROFILE": "other", "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")}):
        with pytest.raises(BadRequest, match="other"):
            open_store(swift.url("unused"))


def test_a_download_that_is_cut_again_and_again_goes_on_where_it_was(swift: S3Server) -> None:
    with keys(swift_server.KEYS):
        open_store(swift.url("cut")).put(NAME, io.BytesIO(LARGE[:2_000_000]), AT)
        with CuttingProxy(swift.port, behaviour=Behaviour(cut_after=300_000)) as proxy:
            assert content(open_store(swift.url("cut", proxy.port)), NAME) == LARGE[:2_000_000]
            assert proxy.cuts >= 6 and proxy.bytes("down") < 3_000_000


@pytest.mark.parametrize("size", [1_000_000, 12_000_000])
def test_an_upload_that_is_cut_leaves_nothing_and_can_be_done_again(swift: S3Server, size: int) -> None:
    with keys(swift_server.KEYS):
        with CuttingProxy(swift.port, behaviour=Behaviour(cut_after=700_000, direction="up")) as proxy:
            store = open_store(swift.url(f"up{size}", proxy.port))
            with pytest.raises(Unavailable, match="cannot be reached"):
                store.put(NAME, io.BytesIO(LARGE[:size]), AT)
            assert proxy.cuts > 1
            assert open_store(swift.url(f"up{size}")).list(0) == []
            proxy.behaviour = Behaviour()
            proxy.cut_all()
            assert store.put(NAME, io.BytesIO(LARGE[:size]), AT) is None
            assert content(store, NAME) == LARGE[:size]


class Busy(ThreadingHTTPServer):
    """Answers 503 so often, then passes requests on."""

    def __init__(self, target: int, refusals: int) -> None:
        super().__init__(("127.0.0.1", 0), _BusyHandler)
        self.target, self.refusals, self.refused = target, refusals, 0


class _BusyHandler(BaseHTTPRequestHandler):
    server: Busy

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.refused < self.server.refusals:
            self.server.refused += 1
            self._reply(503, {"Content-Type": "application/xml"}, b"<Error><Code>SlowDown</Code></Error>")
            return
        onward = http.client.HTTPConnection("127.0.0.1", self.server.target, timeout=30)
        onward.request(self.command, self.path, body, dict(self.headers))
        reply = onward.getresponse()
        self._reply(reply.status, dict(reply.getheaders()), reply.read())
        onward.close()

    def _reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize(("refusals", "passes"), [(2, True), (1000, False)])
def test_a_busy_server_is_asked_again_and_not_for_ever(swift: S3Server, refusals: int, passes: bool) -> None:
    with ExitStack() as stack:
        stack.enter_context(keys(swift_server.KEYS))
        busy = stack.enter_context(Busy(swift.port, refusals))
        thread = threading.Thread(target=busy.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(busy.shutdown)
        store = open_store(swift.url("busy", busy.server_address[1]))
        if passes:
            assert store.put(NAME, io.BytesIO(b"x"), AT, if_absent=False) is None
        else:
            with pytest.raises(Unavailable, match="503 SlowDown"):
                store.list(0)
        assert busy.refused == (2 if passes else 4)


@pytest.mark.parametrize("kind", ["html", "xhtml", "empty", "half answer"])
def test_an_answer_that_is_not_s3s_is_an_error_of_ours_and_no_success(moto: S3Server, kind: Kind) -> None:
    """A file was taken for stored, and a bucket for empty, where a login page had answered; other answers ended in a KeyError."""
    asked: dict[str, Callable[[Store], object]] = {
        "put": lambda store: store.put(NAME, io.BytesIO(b"x"), AT, if_absent=False),
        "put in parts": lambda store: store.put(NAME, io.BytesIO(LARGE), AT, if_absent=False),
        "list": lambda store: store.list(0),
        "open": lambda store: content(store, NAME),
        "timestamp": lambda store: store.timestamp(NAME),
        "delete": lambda store: store.delete([NAME]),
        "note": lambda store: store.note("lease"),
    }
    if kind == "half answer":
        del asked["put"], asked["timestamp"], asked["delete"]  # they say enough
    else:
        asked["put note"] = lambda store: store.put_note("lease", b"mine")
    with keys(ltx_parts.KEYS), BadBucket(moto.port) as bad:
        store = open_store(moto.url("portal", bad.port))
        for path in (NAME, Name(0, 6, 6)):
            store.put(path, io.BytesIO(b"x"), AT)
        store.put_note("lease", b"mine")
        bad.choose = lambda _method, _path: Fault(kind)
        for what, ask in asked.items():
            with pytest.raises(Unavailable):
                pytest.fail(f"{what} answered {ask(store)!r}")
        bad.choose = lambda _method, _path: None
        assert [file.name for file in store.list(0)] == [NAME, Name(0, 6, 6)]


@pytest.mark.filterwarnings("ignore:tzname")  # of a date that is cut short
def test_a_time_whose_answer_breaks_off_is_not_taken_for_another_one(moto: S3Server) -> None:
    """Cut within the head, an answer to HEAD looks whole."""
    with keys(ltx_parts.KEYS), BadBucket(moto.port) as bad:
        store, told = open_store(moto.url("cut head", bad.port)), set()
        store.put(NAME, io.BytesIO(b"x"), AT)
        for place in range(0, 1_000, 5):
            cut = iter([Fault("cut answer", place)])
            bad.choose = lambda _method, _path, cut=cut: next(cut, None)  # type: ignore[misc]
            with suppress(Unavailable):
                told.add(store.timestamp(NAME))
    assert told == {AT}


def test_what_a_killed_upload_left_is_taken_away_after_a_day_and_nothing_else(swift: S3Server) -> None:
    ours, theirs = "left/0009/0000000000000001-0000000000000005.ltx", ("left/0009/notes", "left/photo.jpg", "leftover/x", "x")
    with keys(swift_server.KEYS):
        client, store = (
            s3_client(swift.endpoint, path_style=True),
            S3Store(s3_client(swift.endpoint, path_style=True), swift.bucket, "left"),
        )
        for key in (ours, *theirs):
            client.create_multipart_upload(Bucket=swift.bucket, Key=key)

        def left() -> set[str]:
            return {upload["Key"] for upload in client.list_multipart_uploads(Bucket=swift.bucket)["Uploads"]}

        assert store.tidy() == 0 and left() == {ours, *theirs}
        assert store.tidy(kept=-2) == 1 and left() == set(theirs)  # the date of an answer has whole seconds


def test_an_upload_that_is_under_way_is_not_taken_away_however_long_it_takes(swift: S3Server) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            ended.append(store.tidy(kept=-2))
            return super().read(size)

    ended: list[int] = []
    with keys(swift_server.KEYS):
        store = S3Store(s3_client(swift.endpoint, path_style=True), swift.bucket, "slow")
        assert store.put(NAME, Slow(bytes(WHOLE + 1)), AT) is None
        assert len(ended) >= 2 and set(ended) == {0}
        assert content(store, NAME) == bytes(WHOLE + 1)


def test_uploads_that_may_not_be_listed_are_left_to_others(moto: S3Server) -> None:
    forbidden = b"<Error><Code>AccessDenied</Code></Error>"
    with keys(ltx_parts.KEYS), BadBucket(moto.port) as bad:
        bad.choose = lambda _method, path: Fault("say", 403, content=forbidden) if "uploads" in path else None
        assert open_store(moto.url("denied", bad.port)).tidy() == 0


def test_a_server_that_is_not_there_is_said(tmp_path: Path) -> None:
    with keys(ltx_parts.KEYS), pytest.raises(Unavailable, match="cannot be reached"):
        open_store("s3://barn/x?endpoint=http://127.0.0.1:1").list(0)


def test_a_folder_is_written_as_litestream_does_and_holds_nothing_else(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "a" / "b")
    store.put(Name(9, 1, 255), io.BytesIO(b"x"), AT)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [tmp_path / "a/b/ltx/9/0000000000000001-00000000000000ff.ltx"]
    assert files[0].stat().st_mtime_ns == AT * 1_000_000


def test_what_is_no_ltx_file_is_passed_over(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put(NAME, io.BytesIO(b"x"), AT)
    for name in ("note.txt", f"{NAME.file}.tmp", NAME.file.upper(), "0-1.ltx", f"x{NAME.file}"):
        (tmp_path / "ltx" / "0" / name).write_bytes(b"")
    assert [file.name for file in store.list(0)] == [NAME]


def test_a_folder_without_second_names_for_files_takes_files_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)  # as FAT does
    store = FolderStore(tmp_path)
    assert store.put(NAME, io.BytesIO(b"x"), AT) is None
    assert store.put(NAME, io.BytesIO(b"y"), AT) == Taken(NAME, same=False)
    assert [path.name for path in (tmp_path / "ltx" / "0").iterdir()] == [NAME.file]


def test_a_file_where_the_folder_should_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Conflict, match="something else stands there"):
        FolderStore(tmp_path / "file").put(NAME, io.BytesIO(b"x"), AT)


@pytest.mark.parametrize("text", ["2026-09-21T13:33:20.123Z", "2026-09-21T13:33:20.12Z", "2026-09-21T13:33:20Z"])
def test_times_are_written_as_litestream_writes_them(text: str) -> None:
    assert as_text(from_text(text)) == text
    assert from_text(text.replace("Z", "+00:00")) == from_text(text.removesuffix("Z")) == from_text(text)


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(BadRequest, match="yesterday"):
        from_text("yesterday")


def test_stored_files_sort_by_name() -> None:
    files = [Stored(Name(0, 2, 2), 1, 1), Stored(Name(0, 1, 9), 2, 2)]
    assert sorted(files) == files[::-1]


def test_every_error_of_a_store_is_one_of_ours(tmp_path: Path) -> None:
    (tmp_path / "ltx").mkdir()
    (tmp_path / "ltx" / "0").write_bytes(b"")
    with pytest.raises(DroverError):
        FolderStore(tmp_path).list(0)
