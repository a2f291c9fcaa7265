"""A webhook leads to public addresses alone, unless it was said otherwise, and to the very address that was checked."""

import asyncio
import socket
from typing import Any

import pytest

from cloud.store.errors import InvalidError
from cloud.webhooks.addresses import AddressError, is_allowed, is_public, resolve
from cloud.webhooks.sending import Sender
from cloud.webhooks.values import DeliveryState, check_url
from tests.cloud.webhooks.desks import Desk
from tests.support.receivers import Receiver

PUBLIC = ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"]
PRIVATE = [
    *("127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("::1", "fe80::1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "2002:7f00:1::1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "198.18.0.1", "192.0.2.1", "240.0.0.1"),
]
NEVER = ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "::ffff:0.0.0.0"]  # noqa: S104 - nothing is bound to them


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_allowed(address, allow_private=False)
    assert is_public(address)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused_unless_they_are_meant(address: str) -> None:
    assert not is_allowed(address, allow_private=False)
    assert is_allowed(address, allow_private=True)
    assert not is_public(address)


@pytest.mark.parametrize("address", NEVER)
def test_no_address_of_none_or_of_many_is_ever_spoken_to(address: str) -> None:
    assert not is_allowed(address, allow_private=False)
    assert not is_allowed(address, allow_private=True)


async def resolved(name: str, *, allow_private: bool) -> tuple[str, ...]:
    return await resolve(name, 443, allow_private=allow_private)


def answer(*addresses: str) -> Any:
    def found(_host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        return [
            (socket.AF_INET6 if ":" in it else socket.AF_INET, socket.SOCK_STREAM, 6, "", (it, port))
            for it in addresses
        ]

    return found


def test_of_a_name_only_the_addresses_that_are_allowed_are_used(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answer("10.0.0.1", *PUBLIC, "127.0.0.1"))
    assert asyncio.run(resolved("pager.example", allow_private=False)) == tuple(PUBLIC)
    monkeypatch.setattr(socket, "getaddrinfo", answer("10.0.0.1", "127.0.0.1"))
    with pytest.raises(AddressError, match=r"10\.0\.0\.1, 127\.0\.0\.1, which is not a public address"):
        asyncio.run(resolved("pager.example", allow_private=False))


def test_a_name_that_leads_inside_gets_nothing(desk: Desk, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.add(f"http://pager.example:{receiver.port}/", allow_private=False)
    asked: list[str] = []

    def found(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    with desk.delivering():
        desk.happen("1.1.0")
        assert desk.expect_tries(1).answer == "pager.example is at 127.0.0.1, which is not a public address"
    assert asked == ["pager.example"]
    assert receiver.all == []


def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    desk: Desk, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server whose second answer is another one (DNS rebinding) is asked once."""
    desk.add(f"http://pager.example:{receiver.port}/")
    answers = [answer("127.0.0.1"), answer("127.255.255.254")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: answers.pop(0)(*a, **k) if a[0] else [])
    with desk.delivering(Sender(timeout_s=30)):
        desk.happen("1.1.0")
        desk.expect(DeliveryState.DELIVERED)
    assert receiver.all[0].headers["host"] == f"pager.example:{receiver.port}"
    assert len(answers) == 1


def test_where_one_address_of_a_name_is_dead_the_next_is_tried(
    desk: Desk, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.add(f"http://pager.example:{receiver.port}/")
    monkeypatch.setattr(socket, "getaddrinfo", answer("::1", "127.0.0.1"))
    with desk.delivering(Sender(timeout_s=30)):
        desk.happen("1.1.0")
        desk.expect(DeliveryState.DELIVERED)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://pager.example/", "not encrypted"),
        ("ftp://pager.example/", "is not https://"),
        ("https:///path", "is not https://"),
        ("https://pager.example:99999/", "is not https://"),
        ("https://[::1/", "is not https://"),
        ("https://ann:word@pager.example/", "no user, password"),
        ("https://pager.example/#part", "no user, password"),
        ("https://pager.example/\nX: y", "ASCII"),
        ("https://p\u00e4ger.example/", "ASCII"),
        ("https://pager.example/" + "a" * 2000, "at most 2000"),
        ("https://127.0.0.1/", "--allow-private"),
        ("https://localhost/", "--allow-private"),
        ("https://[::1]/", "--allow-private"),
        ("https://192.168.0.7/", "--allow-private"),
        ("https://0.0.0.0/", "--allow-private"),
        ("http://127.0.0.1/", "--allow-private"),
    ],
)
def test_urls_that_nothing_may_be_sent_to_are_refused_when_they_are_added(url: str, says: str) -> None:
    with pytest.raises(InvalidError, match=says):
        check_url(url, allow_plain=False, allow_private=False)


def test_what_is_meant_is_allowed() -> None:
    check_url("https://pager.example/in?key=1", allow_plain=False, allow_private=False)
    check_url("http://127.0.0.1:9000/", allow_plain=False, allow_private=True)
    check_url("http://pager.example/", allow_plain=True, allow_private=False)
    check_url("https://10.1.2.3/", allow_plain=False, allow_private=True)
