"""`python -m benchmarks.console`: the time of a large fleet's pages and decisions, and what a first visit transfers.

The fleet is in a SQLite database, the server in this process, and one reader asks for one page after another. A page's
time is from the request to the last byte; it ends with the p95 of all its requests.
"""

import argparse
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bs4 import BeautifulSoup

from cloud.bulk import BulkOrder, Deed
from cloud.cli.serve import SWITCH_S
from cloud.fleet import DeviceFilter
from cloud.store.store import Store
from tests.cloud.console.visits import Reader, anonymous
from tests.cloud.homes import PRODUCT, serve_api
from tests.console.stage import ANN, staged

LOOKS = 30
BAR_S = 0.2
BAR_BYTES = 150_000
PAGES = (
    *("/", "/products", "/products/thermostat", "/products/thermostat/app/everyone"),
    *("/products/thermostat/app/everyone/release", "/releases/*", "/releases/*/edit", "/releases/+/rollback"),
    *("/releases/*/now", "/releases/*/promote"),
    *("/devices", "/devices?text=device-09", "/devices?online=false&version=2.0.0"),
    *(f"/devices?trouble={it}" for it in ("taken_back", "failed", "rolled_back", "refused", "certificate", "blocked")),
    *(f"/devices?{it}" for it in ("trouble=quiet", "trouble=held", "trouble=turn", "waits=declined", "refused=true")),
    *(f"/devices?certificate={it}" for it in ("none", "good", "expires_soon", "expired", "revoked")),
    *("/devices?after=device-050000", "/devices/device-050000", "/groups", "/groups/thermostat/site-01"),
    *("/firmware", "/firmware/thermostat/app/2.0.0", "/enrolment", "/people", "/audit", "/settings/webhooks"),
)
"""Addresses; a star stands for the newest release's id, a plus for the first one's."""
FILLED = (
    ("/releases/+/rollback", "Show whom it reaches"),
    ("/releases/*/now", "Show who waits for it"),
)
"""Pages that come at once and ask for what takes longer, and the button that asks for the same."""


def main() -> int:
    """Measure, print, and return 0 whatever the figures are."""
    parser = argparse.ArgumentParser(prog="benchmarks.console", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--devices", type=int, default=100_000, metavar="N")
    parser.add_argument("--looks", type=int, default=LOOKS, metavar="N", help="requests for each page")
    options = parser.parse_args()
    sys.setswitchinterval(SWITCH_S)  # as `fleetlift serve` does
    with (
        tempfile.TemporaryDirectory(prefix="fleetlift-console-") as scratch,
        staged(Path(scratch) / "home", "huge", devices=options.devices) as home,
        serve_api(home) as api,
        anonymous(api) as reader,
    ):
        print(f"first visit: {first_visit(reader)} bytes at most {BAR_BYTES}")
        ids = [it.release_id for it in api.backend.store.releases.releases()]
        known = str.maketrans({"*": ids[0], "+": ids[-1]})
        print(f"{options.devices} devices, {options.looks} looks at each page, the slowest pages last")
        print(f"{'page':44} {'median ms':>10} {'p95 ms':>8} {'bytes':>8}")
        for page, median_s, p95_s, size in sorted(measure(reader, known, options.looks), key=lambda it: it[2]):
            late = "" if p95_s <= BAR_S else "  over the bar"
            print(f"{page:44} {1000 * median_s:10.0f} {1000 * p95_s:8.0f} {size:8}{late}")
        print("what is filled in")
        for page, median_s, p95_s, size in fill(reader, known, options.looks):
            print(f"{page:44} {1000 * median_s:10.0f} {1000 * p95_s:8.0f} {size:8}")
        print("one decision for all of them, until it is answered")
        for deed, changed, took_s in decide(api.backend.store):
            print(f"{deed:44} {1000 * took_s:10.0f} {changed:17} changed")
    return 0


def decide(store: Store) -> Iterator[tuple[str, int, float]]:
    """Yield each deed, how many devices it changed, and what it took."""
    store.catalog.create_group(PRODUCT, "chosen", by=ANN)
    for order in (
        BulkOrder(product=PRODUCT, deed=Deed.ADD_TO_GROUP, group="chosen"),
        BulkOrder(product=PRODUCT, deed=Deed.OTA, component="app", version="1.3.0"),
        BulkOrder(product=PRODUCT, deed=Deed.LOCK, component="app", version="1.3.0"),
        BulkOrder(product=PRODUCT, deed=Deed.UNLOCK, component="app"),
        BulkOrder(product=PRODUCT, deed=Deed.REMOVE_FROM_GROUP, group="chosen"),
        BulkOrder(product=PRODUCT, deed=Deed.REVOKE),
    ):
        began = time.perf_counter()
        changed = store.bulk.do(order, DeviceFilter(), by=ANN).changed
        yield order.deed.value, changed, time.perf_counter() - began


def first_visit(reader: Reader) -> int:
    """Return what a browser that has nothing yet transfers until the overview is complete, with what its page loads."""
    page = reader.log_in(ANN)
    total = page.answer.num_bytes_downloaded
    soup = BeautifulSoup(page.answer.text, "html.parser")
    links = [str(it.get("src") or it.get("href")) for it in soup.select("script[src], link[href]")]
    plots = [str(it["data-plot"]) for it in soup.select("[data-plot]")]
    for link in (*links, *plots):
        total += reader.http.get(link).num_bytes_downloaded
    return total


def measure(reader: Reader, known: dict[int, str], looks: int) -> Iterator[tuple[str, float, float, int]]:
    """Yield each page's name, median, 95th percentile and transferred size."""
    for page in PAGES:
        path = page.translate(known)
        took, size = [], 0
        for _ in range(looks + 1):
            began = time.perf_counter()
            answer = reader.http.get(path, follow_redirects=False)
            took.append(time.perf_counter() - began)
            size = answer.num_bytes_downloaded
            if answer.status_code != 200:
                print(f"{page}: {answer.status_code} {re.sub(r'<[^>]+>|[ ]{2,}', ' ', answer.text)[-300:]}")
                break
        else:
            warm = sorted(took[1:])
            name = urlsplit(page).path + ("?" + urlsplit(page).query if urlsplit(page).query else "")
            yield name, statistics.median(warm), p95(warm), size


def fill(reader: Reader, known: dict[int, str], looks: int) -> Iterator[tuple[str, float, float, int]]:
    """Yield the same of what pages ask for when they are there."""
    for page, button in FILLED:
        first, took, size = reader.get(page.translate(known)), [], 0
        for _ in range(looks):
            began = time.perf_counter()
            answer = first.submit(button).answer
            took.append(time.perf_counter() - began)
            size = answer.num_bytes_downloaded
        yield page, statistics.median(took), p95(sorted(took)), size


def p95(ascending: list[float]) -> float:
    """Return the 95th percentile."""
    return ascending[max(0, round(0.95 * len(ascending)) - 1)]


if __name__ == "__main__":
    sys.exit(main())
