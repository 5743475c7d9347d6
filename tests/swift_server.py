"""A real S3 server, which checks signatures and knows no conditional put: OpenStack Swift with its s3api, as Debian packs it."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ltx_parts import S3Server, wait_for

PACKAGES = ("swift-proxy", "swift-account", "swift-container", "swift-object")
KEYS = {"AWS_ACCESS_KEY_ID": "barn:herder", "AWS_SECRET_ACCESS_KEY": "the-secret-of-swift"}

COMMON = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
user = {user}
swift_dir = {folder}
devices = {folder}/node
mount_check = false
fallocate_reserve = 0
disable_fallocate = true
workers = 0
"""
STORAGE = """[pipeline:main]
pipeline = {role}-server
[app:{role}-server]
use = egg:swift#{role}
"""
PROXY = """[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache s3api tempauth bulk slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
s3_acl = false
[filter:tempauth]
use = egg:swift#tempauth
user_barn_herder = {secret} .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""


def is_installed() -> bool:
    """Whether Debian's packages are here."""
    return all(shutil.which(f"swift-{role}-server") for role in ("proxy", "account", "container", "object"))


@contextmanager
def swift_server(folder: Path) -> Iterator[S3Server]:
    """Four processes that keep their files in `folder`. The bucket is still to be made."""
    (folder / "node" / "d1").mkdir(parents=True)
    ports = {}
    for role in ("account", "container", "object", "proxy"):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            ports[role] = probe.getsockname()[1]
    with ExitStack() as stack:
        for role, port in ports.items():
            config = COMMON.format(port=port, folder=folder, user=getpass.getuser())
            if role == "proxy":
                config += PROXY.format(secret=KEYS["AWS_SECRET_ACCESS_KEY"])
            else:
                config += STORAGE.format(role=role)
                _make_ring(folder, role, port)
            (folder / f"{role}.conf").write_text(config)
            stack.enter_context(_running(folder, role, port))
        yield S3Server(ports["proxy"])


def _make_ring(folder: Path, role: str, port: int) -> None:
    for command in (["create", "4", "1", "0"], ["add", f"r1z1-127.0.0.1:{port}/d1", "1"], ["rebalance"]):
        subprocess.run(["swift-ring-builder", folder / f"{role}.builder", *command], check=True, capture_output=True)


@contextmanager
def _running(folder: Path, role: str, port: int) -> Iterator[None]:
    with (folder / f"{role}.log").open("wb") as log:
        process = subprocess.Popen([f"swift-{role}-server", folder / f"{role}.conf", "--verbose"], stdout=log, stderr=log)
    try:
        wait_for(port, process)
        yield
    finally:
        process.terminate()
        process.wait(20)
