"""Where a webhook may lead: a public address, resolved here and connected to as it was checked.

A name that resolves to an address of this machine or network would let whoever may add webhooks speak to what only
this machine reaches (server-side request forgery). So the name is resolved once, each address is looked at, and the
connection goes to the very address that was allowed: a second answer of the name server changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Final

from protocol.errors import FleetliftError

MAX_ADDRESSES: Final = 3
"""How many addresses of a name are tried."""
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class AddressError(FleetliftError):
    """A host that cannot be found, or whose addresses a webhook may not lead to; nothing was sent."""


def is_public(host: str) -> bool | None:
    """Tell whether an address is public; None for what is no address but a name."""
    try:
        return all(_is_global(it) for it in _layers(ipaddress.ip_address(host)))
    except ValueError:
        return None


async def resolve(host: str, port: int, *, allow_private: bool) -> tuple[str, ...]:
    """Return the addresses of a host that may be connected to, in the resolver's order; raises AddressError."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no name of a host"
        raise AddressError(f"{host} cannot be found: {why}") from None
    addresses = list(dict.fromkeys(str(item[4][0]) for item in found))
    allowed = [it for it in addresses if is_allowed(it, allow_private=allow_private)]
    if not allowed:
        raise AddressError(f"{host} is at {', '.join(addresses[:3])}, which is not a public address")
    return tuple(allowed[:MAX_ADDRESSES])


def is_allowed(address: str, *, allow_private: bool) -> bool:
    """Tell whether a webhook may be sent to an address; `allow_private` lets it stay within this machine or network."""
    try:
        layers = _layers(ipaddress.ip_address(address))
    except ValueError:  # an address with a scope, as in fe80::1%eth0, is of this network at best
        return allow_private
    if any(it.is_unspecified or it.is_multicast for it in layers):
        return False
    return allow_private or all(_is_global(it) for it in layers)


def _is_global(address: Address) -> bool:
    return address.is_global and not (address.is_multicast or address.is_unspecified)


def _layers(address: Address) -> tuple[Address, ...]:
    """Return an address and the IPv4 addresses that are packed into it, to which it may lead."""
    if isinstance(address, ipaddress.IPv4Address):
        return (address,)
    if address.ipv4_mapped is not None:
        return (address.ipv4_mapped,)
    packed: list[Address] = [address]
    if address.sixtofour is not None:
        packed.append(address.sixtofour)
    if address.teredo is not None:
        packed.extend(address.teredo)
    if address in _NAT64:
        packed.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return tuple(packed)
