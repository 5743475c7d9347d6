"""From an address to a store: `s3://bucket/path`, `file:///path`, or a plain path.

The one place that imports boto3, when an s3 address is met.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from changelog.errors import BadRequest, ConfigError, DroverError
from changelog.ltx.store.folder import FolderStore
from changelog.ltx.store.names import Store

REGION = "us-east-1"  # where nothing says which; stores that are not Amazon's take any
CONNECT_TIMEOUT, READ_TIMEOUT = 10, 30  # s
ATTEMPTS = 4  # of one request
CONNECTIONS = 24  # that are kept: threads that fetch, and those that ask for times
OPTIONS = {"endpoint", "region", "force-path-style"}  # Litestream's names


def open_store(url: str, endpoint: str = "", region: str = "") -> Store:
    """The store at an address; nothing is asked yet.

    Keys and profile of S3 come from where Amazon's tools look for them (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...), never from the address.
    `endpoint` and `region` may stand in it: s3://bucket/path?endpoint=https://s3.example.org&region=eu-central-1. Raises BadRequest.
    """
    if "://" not in url:
        return FolderStore(Path(url))
    parts = urlsplit(url)
    if "#" in url:
        raise BadRequest("in an address # is written %23")
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.strip("/") or parts.query:
            raise BadRequest("a folder is written file:///path, and ? in it %3F")
        return FolderStore(Path(unquote(parts.path)))
    if parts.scheme != "s3":
        raise BadRequest(f"{parts.scheme}:// is no store that is known here: s3://bucket/path, file:///path or a path")
    if "@" in parts.netloc:
        raise BadRequest("keys do not belong into an address: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
    if unknown := query.keys() - OPTIONS:
        raise BadRequest(f"unknown in the address: {', '.join(sorted(unknown))}; known are {', '.join(sorted(OPTIONS))}")
    if not parts.netloc:
        raise BadRequest("a bucket is written s3://bucket/path")
    endpoint = query.get("endpoint", endpoint)
    if "@" in urlsplit(endpoint).netloc:
        raise BadRequest("keys do not belong into an endpoint: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    elsewhere = bool(endpoint or {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"} & os.environ.keys())
    path_style = query.get("force-path-style", str(elsewhere)).lower() == "true"
    from changelog.ltx.store.s3 import S3Store

    return S3Store(s3_client(endpoint, query.get("region", region), path_style), parts.netloc, unquote(parts.path))


def store_at(bucket: str, path: str, endpoint: str, region: str) -> Store:
    """The store that the settings LITESTREAM_... name: a bucket, or a folder such as /path or file:///path. Raises ConfigError.

    A bucket may be a whole address; `path` goes behind the path in it.
    """
    if not bucket:
        raise ConfigError("LITESTREAM_BUCKET is empty: set the name of a bucket, or a folder such as file:///mnt/backup")
    if "://" not in bucket and not bucket.startswith(("/", ".", "~")):
        bucket = f"s3://{bucket}"
    if "://" in bucket:
        place, question, options = bucket.partition("?")
        path = quote(path, safe="/%")  # %20 is a space, as everywhere in an address
    else:
        place, question, options = str(Path(bucket).expanduser()), "", ""
    try:
        return open_store(f"{place.rstrip('/')}/{path.strip('/')}".rstrip("/") + question + options, endpoint, region)
    except DroverError as exc:
        raise ConfigError(f"LITESTREAM_BUCKET: {exc.message}") from exc


def s3_client(endpoint: str = "", region: str = "", path_style: bool = False) -> Any:
    """boto3's client: certificates are verified, requests and their repetitions are bounded. Raises BadRequest."""
    if (bundle := os.environ.get("AWS_CA_BUNDLE")) and not os.access(bundle, os.R_OK):
        raise BadRequest(f"AWS_CA_BUNDLE names {bundle}, which cannot be read")
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=CONNECTIONS,
        request_checksum_calculation="when_required",  # others than Amazon do not know the newer checksums
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if path_style else "auto"},
    )
    try:
        session = boto3.session.Session()
        region = region or session.region_name or os.environ.get("AWS_REGION", "") or REGION
        return session.client("s3", endpoint_url=endpoint or None, region_name=region, config=config)
    except (BotoCoreError, ValueError) as exc:
        raise BadRequest(f"S3 cannot be used as it is set up: {exc}") from exc
