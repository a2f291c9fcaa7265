"""A device's trust around a real repository, its clock and its cloud, for these tests."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from device_agent.trust import DeviceTrust, Distrust, TrustError
from protocol.down import Bundle
from tests.support.repository import NOW_S, Repository

PATH = "thermostat/app/1.0.0"
DAY_S = 86_400.0


def nobody(name: str) -> bytes | None:
    raise TimeoutError(f"nobody answered for {name}")


class Device:
    """A device's trust; its clock is `now_s`, and `restart` is what an agent's restart is to it."""

    def __init__(self, directory: Path, repository: Repository, product: str = "thermostat") -> None:
        self.directory = directory
        self.repository = repository
        self.product = product
        self.now_s = NOW_S
        self.ask: Callable[[str], bytes | None] = repository.ask
        self.restart()

    def restart(self) -> None:
        self.trust = DeviceTrust(
            self.directory,
            self.repository.bootstrap,
            self.product,
            ask=self._ask,
            now=lambda: self.now_s,
        )

    def _ask(self, name: str) -> bytes | None:
        return self.ask(name)

    def update(self) -> None:
        assert self.trust.offer_bundle(self.repository.bundle(self.product))
        self.trust.refresh()

    def refuses(self, code: Distrust, call: Callable[[], object] | None = None) -> TrustError:
        with pytest.raises(TrustError) as caught:
            (call or self.trust.refresh)()
        assert caught.value.code is code, caught.value
        return caught.value


def altered(bundle: Bundle, **files: bytes) -> Bundle:
    """A bundle with other files; `timestamp`, `snapshot`, `targets` and `thermostat` name them."""
    kept = {
        name: files[role].decode() if (role := name.removesuffix(".json").rpartition(".")[2]) in files else text
        for name, text in bundle.files.items()
    }
    return dataclasses.replace(bundle, files=kept)
