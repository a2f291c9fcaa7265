"""What the runner's tests have in common besides fixtures."""

from collections.abc import Callable
from typing import Any

from device_agent.config import ComponentSettings, HealthSettings
from device_agent.control import Hold
from device_agent.health import AliveCheck
from tests.support.simulated_device import Device

Start = Callable[..., Device]


def hold(*scopes: str, owner: str = "dosing (pid 8, uid 1000)") -> Hold:
    return Hold(hold_id="h1", owner=owner, scope=frozenset(scopes), acquired_at=0.0, expires_at=2_000_000_000.0)


def waits(device: Device) -> dict[str, Any]:
    pending = device.status["pending"]
    assert pending is not None
    return dict(pending)


def component(**values: Any) -> ComponentSettings:
    health = HealthSettings(check=AliveCheck(), interval_s=1.0, timeout_s=1.0)
    return ComponentSettings(
        **{"name": "app", "command": ("app",), "health": health, "soak_s": 5.0, "prove_timeout_s": 20.0, **values}
    )


def writable(device: Device, *, on: bool) -> None:
    """Let SQLite refuse every write, or none."""
    device.journal._database._connection.execute(f"PRAGMA query_only={'OFF' if on else 'ON'}")
