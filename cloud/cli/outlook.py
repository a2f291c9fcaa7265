"""Before a decision: how many devices it will reach, and why the others not."""

from collections.abc import Iterable
from typing import Final

from cloud.cli.client import Json
from cloud.cli.context import Operator
from cloud.cli.render import shown

MAX_NAMES: Final = 5
MAX_REASONS: Final = 10


def tell_forecast(operator: Operator, request: Json, headline: str | None = None) -> Json:
    """Ask the server for the forecast of a release, say it to the person, and return it."""
    forecast: Json = operator.api.post("releases", "forecast", body=request)
    if headline:
        operator.output.say(headline)
    operator.output.say(forecast["sentence"])
    for line in held(forecast["holds"]):
        operator.output.say(line)
    return forecast


def held(holds: Iterable[Json]) -> list[str]:
    """Return a line per reason: how many devices, which, and why."""
    reasons: dict[str, list[Json]] = {}
    for hold in holds:
        reasons.setdefault(hold["reason"], []).append(hold)
    lines = []
    for reason, items in sorted(reasons.items(), key=lambda pair: -len(pair[1]))[:MAX_REASONS]:
        names = ", ".join(shown(item["device_id"]) for item in items[:MAX_NAMES])
        more = ", …" if len(items) > MAX_NAMES else ""
        lines.append(f"  not {len(items)}: {reason.replace('_', ' ')}: {names}{more}{_detail(items)}")
    return lines


def _detail(items: list[Json]) -> str:
    """Return what is said of these devices: of all of them, or of the first as an example where they differ."""
    device, detail = shown(items[0]["device_id"]), items[0]["detail"]
    if not detail:
        return ""
    alike = all(item["detail"] == detail for item in items)
    return f" ({shown(detail)})" if alike else f" (for example {device}: {shown(detail)})"
