"""What an update costs in metadata: a bundle stays below 4 kB on the wire, however many firmwares a product has."""

import dataclasses
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.metadata import Metadata, Targets  # type: ignore[attr-defined]  # exported without saying so

from cloud.bundles import BUNDLE_BYTES, make_patch
from cloud.key_files import load_key
from cloud.roles import SignedFirmware, to_target
from device_agent.trust import DeviceTrust
from protocol.chunks import BlobRef
from protocol.codec import decode, encode
from protocol.down import Bundle
from protocol.errors import MessageError
from protocol.manifest import Blob, Manifest, Requirements
from protocol.patches import Patch
from protocol.topics import Topics
from tests.cloud.repositories import House

MQTT_BYTES = 2 + 3 + 2 + len(Topics().bundle("thermostat")) + 1
"""What PUBLISH adds at most: fixed header, remaining length, topic, no properties."""


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def firmware(number: int) -> SignedFirmware:
    """A firmware as a release manager's pipeline describes it: 24 MB, two hardware models, a sentence of notes."""
    image = BlobRef(digest=digest(f"image {number}"), size_bytes=24_000_000 + number, lists=(digest(f"list {number}"),))
    manifest = Manifest(
        product="thermostat",
        component="app",
        version=f"1.{number // 10}.{number % 10}",
        build=1000 + number,
        seq=number + 1,
        hardware_models=("pi4", "pi5"),
        blobs=(Blob(encoding="identity", ref=image),),
        requires=Requirements(agent="0.1.0"),
        notes="Fixes the calibration of the valve after a cold start.",
    )
    return SignedFirmware(manifest, image.size_bytes, image.digest)


class Product:
    """A product whose firmwares are signed many at a time, and a device of it."""

    def __init__(self, place: Path) -> None:
        self.house = House(place)
        self.house.add_product("thermostat")
        self.asked: list[str] = []
        self.made = 0
        self.directory = place / "device"
        self.restart()

    def restart(self) -> None:
        def ask(name: str) -> bytes | None:
            self.asked.append(name)
            return self.house.repository.metadata(name)

        root = self.house.keyring.roots()[0]
        clock = self.house.clock
        self.trust = DeviceTrust(self.directory, root, "thermostat", ask=ask, now=lambda: clock().timestamp())

    def grow(self, count: int) -> None:
        """Sign until there are as many firmwares, in one step."""
        role = Metadata[Targets].from_bytes(self.house.role())
        for number in range(self.made, count):
            item = firmware(number)
            role.signed.targets[item.manifest.target_path] = to_target(item)
        self.made = count
        role.signed.version += 1
        role.sign(load_key(self.house.directory / "operator" / "product-thermostat.pem"))
        self.house.repository.accept_product_role("thermostat", role.to_bytes())

    def update(self) -> Bundle:
        """Publish the bundle as it goes over the wire, and have the device take it."""
        sent = encode(self.house.repository.bundle("thermostat"))
        assert self.trust.offer_bundle(decode(sent, Bundle))
        self.trust.refresh()
        newest = firmware(self.made - 1).manifest.target_path
        assert self.trust.signed_firmware(newest).manifest.seq == self.made
        return decode(sent, Bundle)


@pytest.fixture
def product(tmp_path: Path) -> Product:
    return Product(tmp_path)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 100, 1000])
def test_an_update_costs_less_than_4_kb_of_metadata_and_no_question(product: Product, count: int) -> None:
    if count > 1:
        product.grow(count - 1)
        product.update()
        product.asked.clear()
    product.grow(count)
    bundle = product.update()
    sent = len(encode(bundle)) + MQTT_BYTES
    print(f"{count} firmwares: {sent} bytes, the role {len(product.house.role())}")  # noqa: T201 - docs/benchmarks.md
    assert sent <= BUNDLE_BYTES
    assert product.asked == []


@pytest.mark.parametrize("products", [2, 3, 9, 12, 13, 20, 100])
def test_many_products_cost_an_update_of_one_of_them_no_more(product: Product, products: int) -> None:
    for number in range(products - 1):
        product.house.add_product(f"product-{number:02}")
    product.grow(9)
    product.update()
    product.asked.clear()
    product.grow(10)
    sent = len(encode(product.update())) + MQTT_BYTES
    print(f"{products} products: {sent} bytes")  # noqa: T201 - docs/benchmarks.md
    assert sent <= BUNDLE_BYTES
    assert product.asked == []


@pytest.fixture
def one_of_many(product: Product) -> Product:
    """A product beside 29 others, and its device is up to date."""
    for number in range(29):
        product.house.add_product(f"product-{number:02}")
    product.grow(9)
    product.update()
    product.asked.clear()
    return product


def test_other_products_updates_in_between_cost_this_one_a_line_each(one_of_many: Product) -> None:
    for number in range(0, 20, 4):
        one_of_many.house.publish("1.0.0", 1, product=f"product-{number:02}")
        one_of_many.house.repository.bundle(f"product-{number:02}")
    one_of_many.grow(10)
    sent = len(encode(one_of_many.update())) + MQTT_BYTES
    print(f"and 5 others in between: {sent} bytes")  # noqa: T201 - docs/benchmarks.md
    assert sent <= BUNDLE_BYTES
    assert one_of_many.asked == []


def test_said_again_or_signed_again_the_snapshot_is_still_told_by_what_devices_have(one_of_many: Product) -> None:
    house = one_of_many.house
    one_of_many.grow(10)
    house.repository.bundle("thermostat")  # said while the device does not listen
    house.clock.advance(days=4)
    assert house.repository.resign_if_due()
    assert not any("snapshot" in name for name in house.repository.bundle("thermostat").files)
    one_of_many.update()
    assert [name.partition(".")[2] for name in one_of_many.asked] == ["snapshot.json"], "it missed one, and asks for it"
    one_of_many.asked.clear()
    house.clock.advance(days=4)
    assert house.repository.resign_if_due()
    one_of_many.update()
    assert one_of_many.asked == []


def test_a_new_process_says_the_snapshot_whole_once(one_of_many: Product) -> None:
    one_of_many.house.reopen()
    assert any("snapshot" in name for name in one_of_many.update().files)
    one_of_many.grow(10)
    assert not any("snapshot" in name for name in one_of_many.update().files)
    assert one_of_many.asked == []


def test_a_device_that_missed_a_version_asks_for_the_role_alone(product: Product) -> None:
    product.grow(10)
    product.update()
    product.grow(11)
    product.grow(12)
    product.asked.clear()
    product.update()
    (asked,) = product.asked
    assert asked.endswith(".thermostat.json")


def test_a_new_device_asks_for_what_it_lacks(product: Product) -> None:
    product.grow(10)
    product.grow(11)
    product.update()
    assert [name.partition(".")[2] for name in product.asked] == ["thermostat.json"]


def test_a_base_that_was_damaged_is_asked_for(product: Product) -> None:
    product.grow(10)
    product.update()
    product.asked.clear()
    path = product.directory / "thermostat.json"
    path.write_bytes(path.read_bytes().replace(b"pi4", b"pi3"))
    product.grow(11)
    product.update()
    assert len(product.asked) == 1


def test_a_patch_that_lies_costs_questions_and_nothing_else(product: Product) -> None:
    product.grow(10)
    product.update()
    product.grow(11)
    bundle = product.house.repository.bundle("thermostat")
    ((name, patch),) = bundle.patches.items()
    texts = tuple(text.replace("valve", "devil") for text in patch.texts)
    assert texts != patch.texts
    forged = dataclasses.replace(bundle, patches={name: dataclasses.replace(patch, texts=texts)})
    product.asked.clear()
    assert product.trust.offer_bundle(forged)
    product.trust.refresh()
    assert (
        product.trust.signed_firmware(firmware(10).manifest.target_path).manifest.notes == firmware(10).manifest.notes
    )
    assert name in product.asked


def test_what_a_patch_may_not_say() -> None:
    good = {"base": digest(""), "texts": ["a", "b"], "copies": [[0, 1]]}
    assert decode(encode(good), Patch).apply(b"x") is None
    bad: tuple[dict[str, object], ...] = (
        {"copies": []},
        {"copies": [[0, 1, 2]]},
        {"copies": [[-1, 1]]},
        {"copies": [[0, 2**40]]},
        {"base": "../x"},
        {"copies": [[0, 1]] * 65, "texts": ["a"] * 66},
    )
    for wrong in bad:
        with pytest.raises(MessageError):
            decode(encode({**good, **wrong}), Patch)


def test_a_patch_never_reads_beyond_its_base() -> None:
    for copy in ((0, 4), (3, 1), (4, 0), (2, 2)):
        assert Patch(base=digest("abc"), texts=("", ""), copies=(copy,)).apply(b"abc") is None


pieces = st.lists(st.sampled_from([f'"p/a/{n}":{{"x":{n},' + "y" * 40 + "}" for n in range(30)]), max_size=30)


@given(old=pieces, new=pieces)
def test_a_patch_makes_what_it_was_made_of(old: list[str], new: list[str]) -> None:
    before, after = ("head," + "".join(items) + ",tail" for items in (old, new))
    patch = make_patch(before.encode(), after.encode())
    if patch is not None:
        assert patch.apply(before.encode()) == after.encode()
        assert sum(map(len, patch.texts)) < len(after) / 2


def test_text_that_is_not_ascii_is_told_whole() -> None:
    assert make_patch(b"x" * 1000, b"x" * 1000 + "ü".encode()) is None
