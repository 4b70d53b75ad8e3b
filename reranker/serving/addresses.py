"""Network addresses of clients: whom one counts for, and which of them are proxies to be believed."""

from __future__ import annotations

import ipaddress

from indexer.errors import ConfigError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def network(host: str) -> str:
    """Whom an address counts for: itself, or the network of 64 bits that an IPv6 client has to itself."""
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host[:100]
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((found, 64), strict=False))


def trusted(text: str) -> tuple[Network, ...]:
    """Addresses and networks of `serve.trusted_proxies`, with commas between. Raises ConfigError."""
    try:
        return tuple(ipaddress.ip_network(each.strip(), strict=False) for each in text.split(",") if each.strip())
    except ValueError as error:
        raise ConfigError(
            f"serve.trusted_proxies is {text!r}: {error}. Write addresses or networks with commas between, such as "
            "10.0.0.0/8, 127.0.0.1."
        ) from error


def is_in(host: str, networks: tuple[Network, ...]) -> bool:
    """Whether one of the networks holds an address, an IPv4 one that came by IPv6 too."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return any(each in of for of in networks for each in (found, mapped) if each is not None)
