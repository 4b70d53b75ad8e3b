"""Whose request it is: what a client writes into its headers decides nothing, unless a trusted proxy wrote it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fastapi import Request

from indexer.errors import ConfigError
from reranker.serving import addresses, visits
from reranker.serving.keys import Key


def request(peer: str, forwarded: list[str], trusted: str) -> Request:
    app = SimpleNamespace(state=SimpleNamespace(proxies=addresses.trusted(trusted)))
    headers = [(b"x-forwarded-for", each.encode()) for each in forwarded]
    return Request({"type": "http", "app": app, "client": (peer, 1), "headers": headers, "state": {"arrived": 5.0}})


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "found"),
    [
        ("203.0.113.9", [], "", "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "", "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "10.0.0.0/8", "203.0.113.9"),
        ("10.0.0.2", ["198.51.100.1"], "10.0.0.0/8", "198.51.100.1"),
        ("10.0.0.2", ["6.6.6.6, 198.51.100.1"], "10.0.0.0/8", "198.51.100.1"),
        ("10.0.0.2", ["6.6.6.6", "198.51.100.1, 10.9.9.9"], "10.0.0.0/8", "198.51.100.1"),
        ("10.0.0.2", ["10.1.1.1"], "10.0.0.0/8, 127.0.0.1", "10.1.1.1"),
        ("10.0.0.2", [""], "10.0.0.0/8", "10.0.0.2"),
        ("10.0.0.2", ["nonsense" * 100], "10.0.0.0/8", ("nonsense" * 100)[:100]),
        ("2001:db8:1:2:3:4:5:6", [], "", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", [], "", "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.2", ["::ffff:198.51.100.1"], "10.0.0.0/8", "198.51.100.1"),
        ("10.0.0.2", ["::ffff:198.51.100.2"], "::ffff:10.0.0.0/104", "10.0.0.2"),
    ],
)
def test_an_address_is_the_peers_or_what_a_trusted_proxy_says(
    peer: str, forwarded: list[str], trusted: str, found: str
) -> None:
    visit = visits.of(request(peer, forwarded, trusted), None)
    assert visit.share.name == f"address {found}"
    assert visit.deadline(500) == 5.5


def test_a_key_shares_as_itself_wherever_it_comes_from() -> None:
    key = Key("shop", frozenset({"search"}), b"", shares=4)
    shares = {visits.of(request(peer, [], ""), key).share for peer in ("203.0.113.9", "198.51.100.1")}
    assert [(share.name, share.weight) for share in shares] == [("key shop", 4.0)]


@pytest.mark.parametrize("text", ["nonsense", "10.0.0.0/33", "10.0.0.1;10.0.0.2"])
def test_proxies_that_cannot_be_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"serve\.trusted_proxies"):
        addresses.trusted(text)


def test_an_ipv6_client_counts_by_its_network() -> None:
    assert addresses.network("2001:db8::1") == addresses.network("2001:db8::ffff:2")
    assert addresses.network("2001:db8:0:1::1") != addresses.network("2001:db8::1")
    assert addresses.network("fe80::1%eth0") == addresses.network("fe80::2")
    assert addresses.network("::ffff:192.0.2.1") != addresses.network("::ffff:192.0.2.2")
    assert (addresses.network("192.0.2.1"), addresses.network("")) == ("192.0.2.1", "")
