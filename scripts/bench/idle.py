"""What the roles take while nobody asks for anything, how soon they serve, and what each further replica costs the Pi."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import requests

from scripts import peer_litestream
from scripts.bench.figures import Figure, beside, single
from scripts.bench.ground import Ground, cpu_of
from scripts.large_farm import Farm, wait_for
from scripts.prove_push import Audience, Gauge, write

SETTLE = 5.0  # s before idleness counts
RATE = 10.0  # commits a second
PATIENCE = 60.0  # s
PROBES = ("/livez", "/readyz")


def idle(ground: Ground) -> Iterator[Figure]:
    """Pi and server with watcher and push on, and a page's worth of data; beside them Litestream's process."""
    program = peer_litestream.find()
    with ground.farm(1_000) as farm, ground.room("litestream") as folder:
        farm.server.settings["DB_SYNC_INTERVAL"] = 10
        farm.start()
        wait_for(lambda: farm.status()["push"], PATIENCE, "the socket")
        theirs: list[float] = []
        if program is None:
            used = _idle({role.name: role.pids() for role in farm.roles}, ground.sizes.idle)
        else:
            config = folder / "litestream.yml"
            config.write_text(f"dbs:\n  - path: {farm.pi.database}\n    replica:\n      path: {folder / 'files'}\n")
            with peer_litestream.running([program, "replicate", "-config", config], folder / "log") as process:
                time.sleep(1)
                farm.pi.sql("UPDATE batches SET notes='once'")  # before its first write it is never idle
                pids = {role.name: role.pids() for role in farm.roles}
                used = _idle({**pids, "litestream": [process.pid]}, ground.sizes.idle)
            theirs = [used.pop("litestream")]
    for name, percent in used.items():
        if theirs and theirs[0]:
            yield beside(f"idle.{name}", "% of a core", [percent], "litestream replicate", theirs)
        else:
            yield single(f"idle.{name}", "% of a core", [percent])


def push(ground: Ground) -> Iterator[Figure]:
    """The Pi's CPU while ten one-row commits a second are told to one replica, and to more."""
    for replicas in ground.sizes.replicas:
        with ground.farm(0) as farm:
            farm.pi.start()
            audience = [Audience(farm, number) for number in range(replicas)]
            wait_for(lambda audience=audience: all(each.head for each in audience), PATIENCE, "the replicas")  # type: ignore[misc]
            percent, late = _told(farm, audience, ground.sizes.seconds)
            for each in audience:
                each.close()
            wrong = [words for each in audience for words in each.wrong if "closed" not in words.lower()]
            assert not wrong, wrong
        more = {"series": "push to replicas, % of a core", "axis": "replicas", "at": replicas}
        yield single(f"push.CPU for {replicas} replicas", "% of a core", [percent], **more)
        yield single(f"push.to the last of {replicas}", "ms", late)


def start(ground: Ground) -> Iterator[Figure]:
    """From the start of a role's process to the first 200, over an existing database."""
    with ground.farm(ground.sizes.herd) as farm:
        del farm.server.settings["DB_SYNC_INTERVAL"]  # as it is shipped
        farm.pi.start()
        farm.server.start()
        wait_for(lambda: _answers(farm.server.url + "/readyz"), PATIENCE, "the replica")
        found: dict[str, list[float]] = {f"{role.name} {path}": [] for role in farm.roles for path in PROBES}
        for _ in range(ground.sizes.rounds):
            for role in farm.roles:
                role.stop()
                began, missing = time.perf_counter(), list(PROBES)
                role.launch()
                while missing:
                    for path in [path for path in missing if _answers(role.url + path, role.data / "pi-cert.pem")]:
                        missing.remove(path)
                        found[f"{role.name} {path}"].append(time.perf_counter() - began)
                    assert time.perf_counter() - began < PATIENCE, role.log
                    time.sleep(0.005)
        for name, times in found.items():
            yield single(f"start.{name}", "s", times)


def _answers(url: str, certificate: Path | None = None) -> bool:
    with suppress(requests.ConnectionError):
        return requests.get(url, timeout=5, verify=certificate or True).ok
    return False


def _idle(pids: dict[str, list[int]], seconds: float) -> dict[str, float]:
    """Percent of a core that each took."""
    time.sleep(min(SETTLE, seconds))
    began, before = time.monotonic(), {name: cpu_of(found) for name, found in pids.items()}
    time.sleep(seconds)
    passed = time.monotonic() - began
    return {name: 100 * (cpu_of(found) - before[name]) / passed for name, found in pids.items()}


def _told(farm: Farm, audience: list[Audience], seconds: float) -> tuple[float, list[float]]:
    """Percent of a core of the Pi, and of each commit the ms until the last one held its frame."""
    told, tell = multiprocessing.Pipe(duplex=False)
    writer = multiprocessing.get_context("spawn").Process(target=write, args=(str(farm.pi.database), RATE, seconds, tell))
    writer.start()
    time.sleep(1)  # it imports
    gauge = Gauge(farm.pi)
    committed: dict[int, float] = told.recv()
    percent = gauge.cpu()
    writer.join()
    newest = max(committed)
    wait_for(lambda: all(each.head >= newest for each in audience), PATIENCE, "the last frame")
    return percent, [(max(each.heard[seq] for each in audience) - at) * 1000 for seq, at in committed.items()]
