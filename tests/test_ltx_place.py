"""Addresses of stores as people write them, and S3 servers behind TLS: whom we trust, and what is said where we do not."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from farm_processes import make_certificate
from ltx_parts import KEYS, S3Server, keys, moto_server

from changelog.errors import BadRequest, ConfigError, Unavailable
from changelog.ltx.store.folder import FolderStore
from changelog.ltx.store.names import Name
from changelog.ltx.store.place import open_store, s3_client, store_at
from changelog.ltx.store.s3 import S3Store

NAME = Name(0, 5, 5)
AT = 1_790_000_000_123


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gs://bucket/x", "no store that is known"),
        ("s3://key:geheim@bucket/x", "do not belong into an address"),
        ("s3:///x", "s3://bucket/path"),
        ("s3://bucket/x?secret=geheim", "unknown in the address: secret"),
        ("file://host/x", "file:///path"),
        ("s3://bucket/x?endpoint=nowhere", "cannot be used as it is set up"),
    ],
)
def test_an_address_that_cannot_be_is_refused(url: str, message: str) -> None:
    with keys(KEYS), pytest.raises(BadRequest, match=message) as raised:
        open_store(url)
    assert "geheim" not in str(raised.value)


def test_addresses_lead_to_stores(tmp_path: Path) -> None:
    with keys(KEYS):
        assert repr(open_store("s3://bucket/a/b/")) == "S3Store('s3://bucket/a/b')"
        assert repr(open_store("s3://bucket")) == "S3Store('s3://bucket')"
        assert isinstance(open_store("s3://bucket/x"), S3Store)
    assert open_store("file:///a%20b/c").url == "/a b/c"
    assert open_store("a/b").url == "a/b"


@pytest.mark.parametrize(
    ("bucket", "path", "url", "endpoint"),
    [
        ("barn", "farm", "s3://barn/farm", "https://s3.example.org"),
        ("barn", "farm#1", "s3://barn/farm#1", "https://s3.example.org"),
        ("barn", "farm?1", "s3://barn/farm?1", "https://s3.example.org"),
        ("barn", "north%20barn", "s3://barn/north barn", "https://s3.example.org"),
        ("barn/farms", "/one/", "s3://barn/farms/one", "https://s3.example.org"),
        ("s3://barn", "farm", "s3://barn/farm", "https://s3.example.org"),
        ("s3://barn?endpoint=http://nas:9000", "farm", "s3://barn/farm", "http://nas:9000"),
        ("s3://barn/farms/?endpoint=http://nas:9000/store&region=x", "one", "s3://barn/farms/one", "http://nas:9000/store"),
        ("s3://barn/farms?endpoint=http://nas:9000", "", "s3://barn/farms", "http://nas:9000"),
    ],
)
def test_bucket_and_path_of_the_settings_are_one_place_whatever_stands_in_them(bucket: str, path: str, url: str, endpoint: str) -> None:
    with keys(KEYS):
        store = store_at(bucket, path, "https://s3.example.org", "")
    assert isinstance(store, S3Store)
    assert (store.url, store._client.meta.endpoint_url) == (url, endpoint)


@pytest.mark.parametrize(("bucket", "url"), [("/mnt/a#b", "/mnt/a#b/farm?1"), ("file:///mnt/a%20b", "/mnt/a b/farm?1")])
def test_a_folder_of_the_settings_likewise(bucket: str, url: str) -> None:
    store = store_at(bucket, "farm?1", "", "")
    assert isinstance(store, FolderStore)
    assert store.url == url


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://barn/farm#1", "%23"),
        ("file:///mnt/farm#1", "%23"),
        ("file:///mnt/farm?1", "%3F"),
        ("s3://barn/farm?1", "unknown in the address: 1"),
        ("s3://barn/farm?endpoint=https://key:geheim@s3.example.org", "do not belong into an endpoint"),
    ],
)
def test_an_address_of_which_a_part_would_be_lost_is_refused(address: str, message: str) -> None:
    with keys(KEYS):
        with pytest.raises(BadRequest, match=message) as raised:
            open_store(address)
        with pytest.raises(ConfigError, match=message):
            store_at(address, "", "", "")
    assert "geheim" not in str(raised.value)


@dataclass
class Secured:
    """An S3 server behind TLS, and the certificates."""

    server: S3Server
    folder: Path

    def put(self, bundle: str, host: str = "127.0.0.1") -> None:
        """Put something while AWS_CA_BUNDLE names a file, or nothing."""
        with keys(KEYS | ({"AWS_CA_BUNDLE": str(self.folder / bundle)} if bundle else {})):
            store = open_store(f"s3://barn/tls?endpoint=https://{host}:{self.server.port}")
            assert store.put(NAME, io.BytesIO(b"x"), AT, if_absent=False) is None
            assert [file.name for file in store.list(0)] == [NAME]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Its certificate is signed by an authority of its own, and names 127.0.0.1 alone."""
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder, "authority")
    make_certificate(folder, "other")
    request = "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=s3 -keyout s3-key.pem -out s3.csr"
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    sign = "openssl x509 -req -in s3.csr -CA authority-cert.pem -CAkey authority-key.pem -CAcreateserial -days 2 -extfile names -out s3.pem"
    for command in (request, sign):
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    with ExitStack() as stack:
        stack.enter_context(keys(KEYS | {"AWS_CA_BUNDLE": str(folder / "authority-cert.pem")}))
        yield Secured(stack.enter_context(moto_server(folder / "log", folder / "s3.pem", folder / "s3-key.pem")), folder)


def test_who_trusts_the_authority_uses_a_server_behind_tls(secured: Secured) -> None:
    secured.put("authority-cert.pem")


@pytest.mark.parametrize(
    ("bundle", "host", "reason"),
    [
        ("", "127.0.0.1", "certificate verify failed"),
        ("other-cert.pem", "127.0.0.1", "certificate verify failed"),
        ("authority-cert.pem", "localhost", "doesn't match"),
        ("names", "127.0.0.1", "no certificate"),
    ],
)
def test_a_certificate_that_cannot_be_trusted_is_refused_with_the_remedy(secured: Secured, bundle: str, host: str, reason: str) -> None:
    with pytest.raises(Unavailable, match=f"refused for its certificate.*{reason}.*AWS_CA_BUNDLE"):
        secured.put(bundle, host)


def test_a_bundle_that_is_missing_is_said_before_anything_is_asked(secured: Secured) -> None:
    with pytest.raises(BadRequest, match=r"none\.pem, which cannot be read"):
        secured.put("none.pem")


def test_an_endpoint_with_a_path_is_asked_there(moto: S3Server) -> None:
    """What stands before the bucket in an endpoint stays there."""
    with keys(KEYS):
        client = s3_client(f"{moto.endpoint}/{moto.bucket}", path_style=True)
        S3Store(client, "as-a-folder", "pi").put(NAME, io.BytesIO(b"x"), AT, if_absent=False)
        assert [file.name for file in S3Store(s3_client(moto.endpoint, path_style=True), moto.bucket, "as-a-folder/pi").list(0)] == [NAME]
