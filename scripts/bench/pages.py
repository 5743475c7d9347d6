"""What a list of the office costs in the server, at a size and at ten times as many animals, and over http."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from office_farm import PASSWORD

from scripts.bench.figures import Figure, Spread, beside, single
from scripts.bench.ground import Ground
from scripts.prove_pages import LISTS, Asker, list_pages, make_office, running_server, signed_in

CLAIM = 10.0  # ms: the better end of what the document says of a page


def pages(ground: Ground) -> Iterator[Figure]:
    """In CPU time, each list, its last page too; then the list of all animals as a browser fetches it."""
    found: list[tuple[int, dict[str, tuple[float, float, int]]]] = []
    for animals in ground.sizes.herds:
        office = make_office(ground.replica(animals))
        ask = Asker(office)
        costs = {name: ask.costs(address, ground.sizes.page_rounds) for name, address in list_pages(office).items()}
        office.close()
        found.append((animals, costs))
        middle, most, _ = dearest = max(costs.values())
        name = next(name for name, cost in costs.items() if cost == dearest)
        ground.say(
            f"pages: of {len(costs)} lists over {animals} animals the dearest is {name!r}, {max(c[2] for c in costs.values())} B at most"
        )
        spread = Spread(middle, most, min(costs.values())[0], middle, ground.sizes.page_rounds)
        yield Figure(
            f"pages.dearest list of {animals} animals", "ms of CPU", spread, claim=CLAIM, series="list, ms", axis="animals", at=animals
        )
    (_, small), (_, large) = found[-2:]
    ratios = [large[name][0] / small[name][0] for name in large]
    yield beside(
        "pages.ten times the herd", "ms of CPU", [c[0] for c in large.values()], "a tenth", [c[0] for c in small.values()], ratios=ratios
    )
    yield single("pages.a list over http", "ms", _over_http(ground.replica(ground.sizes.herds[-2]), ground.sizes.page_rounds), claim=CLAIM)


def _over_http(folder: Path, rounds: int) -> list[float]:
    """ms of each load by one client."""
    times = []
    with running_server(folder) as address, signed_in(address, "admin", PASSWORD) as browser:
        for _ in range(rounds):
            began = time.perf_counter()
            answer = browser.get(address + LISTS["cattle"], timeout=30)
            times.append((time.perf_counter() - began) * 1000)
            assert answer.ok
    return times
