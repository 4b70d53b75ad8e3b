"""Clients that send slowly or too much, take all connections, or do not read: they stop nobody but themselves."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from reranker.serving import protocol
from tests.reranker.serving.raw import answer, certificate, connect, listener, rest, status
from tests.waiting import until

GET = b"GET /quick HTTP/1.1\r\nhost: x\r\n\r\n"
HALF = b"GET /quick HTTP/1.1\r\nhost: x\r\nx-slow: "
WAIT = b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
LARGE = b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n"
LARGE_BYTES = 20_000_000


class Shop:
    """An application that answers at once, or when it is let go, or with more than a socket holds."""

    def __init__(self) -> None:
        self.seen = 0
        self.left = threading.Event()
        self.go = threading.Event()
        paths = {"/quick": self.quick, "/wait": self.wait, "/echo": self.echo, "/large": self.large}
        self.app = Starlette(routes=[Route(path, each, methods=["GET", "POST"]) for path, each in paths.items()])

    async def quick(self, request: Request) -> Response:
        self.seen += 1
        return Response("quick")

    async def wait(self, request: Request) -> Response:
        self.seen += 1
        while not self.go.is_set() and not await request.is_disconnected():
            await asyncio.sleep(0.01)
        if not self.go.is_set():
            self.left.set()
        return Response("waited")

    async def echo(self, request: Request) -> Response:
        body = await request.body()
        names = [name.decode() for name, _ in request.scope["headers"]]
        return JSONResponse({"body": len(body), "headers": names})

    async def large(self, request: Request) -> Response:
        self.seen += 1
        return Response(b"a" * LARGE_BYTES)

    def ended(self, why: str) -> float:
        return float(self.app.state.metrics.ended.labels("service", why)._value.get())


@pytest.fixture
def shop() -> Iterator[Shop]:
    found = Shop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "HEAD_TIMEOUT_S", 1.0)
        patch.setattr(protocol, "KEEP_ALIVE_S", 2)
        yield found
        found.go.set()


def served(shop: Shop, **changes: Any) -> Any:
    return listener(shop.app, **{"read_timeout_s": 0.5, "write_timeout_s": 1.0, **changes})


# Slow


@pytest.mark.parametrize("sent", [b"", HALF, GET + HALF, GET + GET + HALF, GET + b"\r\n"], ids=repr)
def test_no_head_is_waited_for_the_first_or_a_later_one(shop: Shop, sent: bytes) -> None:
    with served(shop) as port, connect(port, sent) as connection:
        assert rest(connection).count(b"quick") == sent.count(GET)
        assert shop.ended("slow") + shop.ended("idle") == 1


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(shop: Shop) -> None:
    with served(shop) as port:
        for drop in (b"a", b"\r\n"):
            with connect(port, GET) as connection:
                answer(connection)
                if drop == b"a":
                    connection.sendall(HALF)
                with pytest.raises(OSError):
                    _dribble(connection, drop)
    assert shop.ended("slow") == 2


def _dribble(connection: Any, drop: bytes) -> None:
    """Raises OSError once the other side has closed the connection."""
    for _ in range(200):
        connection.sendall(drop)
        time.sleep(0.05)


def test_a_body_that_nobody_reads_is_not_waited_for_either(shop: Shop) -> None:
    """The application has answered; what is left of the body would hold the connection."""
    head = b"POST /quick HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reranker.serving.connections._BODY_GRACE_S", 0.5)
        with served(shop) as port, connect(port, head) as connection:
            assert status(answer(connection)) == 200
            with pytest.raises(OSError):
                _dribble(connection, b"a")
    assert shop.ended("slow") == 1


def test_a_connection_whose_body_came_after_its_answer_is_closed_when_it_idles(shop: Shop) -> None:
    head = b"POST /quick HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n"
    with served(shop) as port, connect(port, head) as connection:
        assert status(answer(connection)) == 200
        connection.sendall(b"late")
        assert rest(connection) == b""


def test_what_is_being_answered_is_answered_before_a_slow_client_is_left(shop: Shop) -> None:
    with served(shop) as port, connect(port, WAIT + HALF) as connection:
        until(lambda: shop.seen == 1)
        threading.Timer(3, shop.go.set).start()
        assert rest(connection).endswith(b"waited")


def test_a_client_that_sends_the_next_request_while_the_first_is_answered_has_its_time(shop: Shop) -> None:
    """Its body is not read meanwhile, which is not its fault."""
    body = b"a" * 300_000
    second = b"POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reranker.serving.connections._BODY_GRACE_S", 0.5)
        with served(shop) as port, connect(port, WAIT + second) as connection:
            until(lambda: shop.seen == 1)
            threading.Timer(4, shop.go.set).start()
            connection.sendall(body)
            assert b'"body":300000' in rest(connection)


# Too much


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /quick HTTP/1.1\r\nhost: x\r\nx-long: " + b"a" * 5_000_000,
        b"GET /quick HTTP/1.1\r\nhost: x\r\nx-" + b"a" * 5_000_000,
        b"GET /" + b"a" * 5_000_000,
        b"GET /quick HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 1_000_000,
        b"GET /quick HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 300 + b"\r\n",
    ],
    ids=["value", "name", "address", "endless fields", "many fields"],
)
def test_a_head_that_is_too_large_is_refused(shop: Shop, sent: bytes) -> None:
    with served(shop) as port, connect(port) as connection:
        threading.Thread(target=_send, args=(connection, sent)).start()
        assert status(answer(connection)) == 431
    assert shop.seen == 0


@pytest.mark.parametrize(
    "sent",
    [
        b"1;x=" + b"a" * 5_000_000,
        b"1\r\na\r\n0\r\nx-long: " + b"a" * 5_000_000,
        b"1\r\na\r\n0\r\n" + b"x-many: a\r\n" * 500_000,
    ],
    ids=["extension", "trailer", "trailers"],
)
def test_what_is_neither_head_nor_body_is_bounded_too(shop: Shop, sent: bytes) -> None:
    with served(shop, read_timeout_s=60.0) as port, connect(port, CHUNKED) as connection:
        threading.Thread(target=_send, args=(connection, sent)).start()
        assert status(answer(connection)) == 431


def _send(connection: Any, sent: bytes) -> None:
    with suppress(OSError):
        connection.sendall(sent)


def test_a_trailer_does_not_become_part_of_the_head(shop: Shop) -> None:
    sent = CHUNKED + b"3\r\nabc\r\n0\r\nx-api-key: another\r\n\r\n"
    with served(shop) as port, connect(port, sent) as connection:
        found = answer(connection)
    assert b'"body":3' in found
    assert b"x-api-key" not in found


def test_an_upgrade_that_is_not_offered_is_answered_as_a_request(shop: Shop) -> None:
    asked = b"GET /quick HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    with served(shop) as port, connect(port, asked) as connection:
        assert status(answer(connection)) == 200
        connection.sendall(GET)
        assert status(answer(connection)) == 200


def test_requests_that_wait_behind_one_another_are_few(shop: Shop) -> None:
    with served(shop) as port, connect(port) as connection:
        threading.Thread(target=_send, args=(connection, WAIT + GET * 20_000)).start()
        until(lambda: shop.seen == 1)
        time.sleep(0.5)
        shop.go.set()
        assert rest(connection).count(b"quick") <= protocol.PIPELINED
    assert shop.seen <= protocol.PIPELINED + 1


def test_a_request_learns_that_its_client_has_left_whatever_waits_behind_it(shop: Shop) -> None:
    with served(shop) as port:
        with connect(port, WAIT + GET):
            until(lambda: shop.seen == 1)
        assert shop.left.wait(30)


@pytest.mark.parametrize("sent", [b"\x00\x01", b"GET /quick HTTP/9.9\r\n\r\n", CHUNKED + b"nonsense\r\n"], ids=repr)
def test_what_is_not_http_is_refused_in_a_sentence(shop: Shop, sent: bytes) -> None:
    with served(shop) as port, connect(port, sent) as connection:
        found = rest(connection)
        assert status(found) == 400
        assert b'{"message": "Invalid HTTP request received."}' in found


# Too many


@pytest.mark.parametrize("sent", [b"", HALF, GET, GET + HALF], ids=repr)
def test_a_newcomer_gets_the_place_of_a_client_that_keeps_the_service_waiting(shop: Shop, sent: bytes) -> None:
    with served(shop, connections=8) as port:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(protocol, "HEAD_TIMEOUT_S", 60.0)
            patch.setattr(protocol, "KEEP_ALIVE_S", 60)
            held = [connect(port, sent) for _ in range(8)]
            until(lambda: shop.seen == 8 * sent.count(GET))
            for _ in range(20):
                with connect(port, GET) as connection:
                    assert status(answer(connection)) == 200
        for each in held:
            each.close()
    assert shop.ended("displaced") >= 1


def test_a_newcomer_gets_the_place_of_a_client_that_sends_its_body_slowly(shop: Shop) -> None:
    head = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
    with served(shop, connections=8, read_timeout_s=60.0) as port:
        held = [connect(port, head) for _ in range(8)]
        for _ in range(20):
            with connect(port, GET) as connection:
                assert status(answer(connection)) == 200
        for each in held:
            each.close()


def test_whoever_takes_all_connections_takes_them_from_itself(shop: Shop) -> None:
    """The honest client has idled longer than any of the attacker's connections."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "KEEP_ALIVE_S", 60)
        patch.setattr("reranker.serving.listening.KEEP_ALIVE_S", 60)
        with served(shop, connections=8) as port, connect(port, GET) as honest:
            assert status(answer(honest)) == 200
            held = [connect(port, HALF, source="127.0.0.2") for _ in range(40)]
            until(lambda: shop.ended("displaced") >= 33)
            honest.sendall(GET)
            assert status(answer(honest)) == 200
            for each in held:
                each.close()


def test_where_every_client_is_being_answered_a_newcomer_is_refused_and_they_are_not(shop: Shop) -> None:
    with served(shop, connections=4) as port:
        held = [connect(port, WAIT) for _ in range(4)]
        until(lambda: shop.seen == 4)
        with connect(port, GET) as connection:
            found = rest(connection)
            assert status(found) == 503
            assert b"retry-after: 1" in found
            assert b"4 connections (serve.connections)" in found
        shop.go.set()
        for each in held:
            assert status(answer(each)) == 200
            each.sendall(GET)
            assert status(answer(each)) == 200
            each.close()
        with connect(port, GET) as connection:
            assert status(answer(connection)) == 200


# Unread


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, str], ssl.SSLContext | None]:
    """Settings of TLS, and what a client needs for it; with and without."""
    if request.param == "plain":
        return {}, None
    cert, key = certificate(tmp_path)
    return {"tls_cert": cert, "tls_key": key}, ssl.create_default_context(cafile=cert)


def test_no_answer_waits_for_the_clients_next_word(shop: Shop, tls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, context = tls
    sends_at_once: list[int] = []
    arrive = protocol.Patient.arrive

    def looked_at(patient: protocol.Patient, outlet: Any) -> None:
        arrive(patient, outlet)
        sends_at_once.append(outlet.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(protocol.Patient, "arrive", looked_at)
    with served(shop, **settings) as port, connect(port, GET, tls=context) as connection:
        assert status(answer(connection)) == 200
    assert sends_at_once == [1]


def test_an_answer_that_nobody_reads_is_not_kept(shop: Shop, tls: Any) -> None:
    settings, context = tls
    with served(shop, **settings) as port, connect(port, LARGE, tls=context) as connection:
        until(lambda: shop.ended("unread") == 1)
        assert len(rest(connection)) < LARGE_BYTES


def test_a_client_that_reads_slowly_gets_all_of_it(shop: Shop, tls: Any) -> None:
    settings, context = tls
    with served(shop, write_timeout_s=30.0, **settings) as port, connect(port, LARGE, tls=context) as connection:
        time.sleep(2)
        assert len(answer(connection)) > LARGE_BYTES
        connection.sendall(GET)
        assert status(answer(connection)) == 200


def test_answers_that_nobody_reads_are_few(shop: Shop, tls: Any) -> None:
    """Of all clients together only so much is kept: who has not read for longest goes first."""
    settings, context = tls
    with served(shop, write_timeout_s=60.0, unread_bytes=3 * LARGE_BYTES, **settings) as port:
        held = [connect(port, LARGE, tls=context) for _ in range(12)]
        until(lambda: shop.seen == 12 and shop.ended("unread") >= 8)
        with connect(port, LARGE, tls=context) as honest:
            assert len(answer(honest)) > LARGE_BYTES
        for each in held:
            each.close()


def test_who_does_not_read_one_answer_is_made_no_other(shop: Shop) -> None:
    with served(shop, write_timeout_s=60.0) as port, connect(port, LARGE * 5) as connection:
        until(lambda: shop.seen >= 1)
        time.sleep(1)
        assert shop.seen == 1
        for _ in range(5):
            assert len(answer(connection)) > LARGE_BYTES


# TLS


def test_handshakes_that_never_end_take_no_place(shop: Shop, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    context = ssl.create_default_context(cafile=cert)
    with served(shop, tls_cert=cert, tls_key=key, connections=8) as port:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(protocol, "HEAD_TIMEOUT_S", 60.0)
            held = [connect(port, b"\x16\x03\x01") for _ in range(8)]
            for _ in range(10):
                with connect(port, GET, tls=context) as connection:
                    assert status(answer(connection)) == 200
        for each in held:
            each.close()


def test_a_handshake_has_its_time(shop: Shop, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    with served(shop, tls_cert=cert, tls_key=key) as port:
        for sent in (b"", b"\x16\x03\x01", GET):
            with connect(port, sent) as connection:
                assert b"quick" not in rest(connection)
        context = ssl.create_default_context(cafile=cert)
        with connect(port, tls=context) as connection:
            assert rest(connection) == b""
        with connect(port, GET, tls=context) as connection:
            assert status(answer(connection)) == 200
