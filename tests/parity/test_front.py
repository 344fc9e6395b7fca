"""The C of the lane against its Python twins: dates, cells, and what h11 makes of heads."""

from __future__ import annotations

import random
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay._speedups import front
from relay.errors import PublicKeyError
from relay.gcra import Gcra
from relay.histogram import SPANS_S, Histogram
from relay.http.clients import ClientRules, Network
from relay.http.cors import _SAFE_VALUE
from relay.http.front import _request
from relay.http.http1 import RequestParser
from relay.http.httpdate import format_http_date, parse_http_date
from relay.http.query import parse_policy
from relay.http.routes import Kind, route_of
from relay.pkarr.zbase32 import decode, encode

KEY = "8pinxxgqs41n4aididenw5apqp1urfmzdztr8jt4abrkdn435ewo"
LAST_SECOND_US = 253_402_300_799_000_000


# ---- Durations ----


@given(st.integers(0, 2**64 - 1) | st.integers(0, 2**20) | st.sampled_from(range(30)))
def test_durations_are_counted_alike(ns: int) -> None:
    histogram = Histogram(tuple(round(bound * 1e9) for bound in SPANS_S))
    histogram.observe(ns)
    assert histogram.counts.index(1) == front.span_of(ns)


@pytest.mark.parametrize("step", range(len(SPANS_S)))
def test_a_bound_belongs_to_its_step(step: int) -> None:
    ns = round(SPANS_S[step] * 1e9)
    assert [front.span_of(ns), front.span_of(ns + 1)] == [step, step + 1]


# ---- Dates ----


@given(st.integers(0, 2**64 - 1) | st.integers(0, 2 * LAST_SECOND_US))
def test_dates_are_written_alike(timestamp_us: int) -> None:
    assert front.format_http_date(timestamp_us) == format_http_date(timestamp_us)


@given(st.integers(0, LAST_SECOND_US))
def test_dates_are_read_alike(timestamp_us: int) -> None:
    text = format_http_date(timestamp_us).encode()
    assert front.parse_http_date(text) == parse_http_date(text) == timestamp_us // 10**6 * 10**6


@given(st.integers(0, LAST_SECOND_US), st.integers(0, 28), st.integers(0, 255))
def test_a_spoilt_date_is_no_other_date(timestamp_us: int, at: int, octet: int) -> None:
    """The lane reads one form of three; what it does read, the twin reads alike."""
    text = bytearray(format_http_date(timestamp_us).encode())
    text[at] = octet
    found = front.parse_http_date(bytes(text))
    assert found in (None, parse_http_date(bytes(text)))
    if found is None and parse_http_date(bytes(text)) is not None:
        assert bytes(text) != format_http_date(timestamp_us).encode()


@pytest.mark.parametrize(
    "text", [b"", b"Sun, 06 Nov 1994 08:49:37 GMT ", b"Thu, 30 Feb 2023 00:00:00 GMT", bytes(29)]
)
def test_what_is_no_date(text: bytes) -> None:
    assert front.parse_http_date(text) is None


# ---- The limiter's cells ----

ADDRESSES: Sequence[object] = [
    bytes([10, 0, 0, 1]),
    bytes([10, 0, 0, 2]),
    (64, 0x2001_0DB8_0000_0000),
    (64, 0x2001_0DB8_0000_0001),
    (128, 1),
    bytes(4),
    (64, 0),
    "local",
]


@given(
    st.floats(1e-9, 1e6),
    st.integers(1, 2**32 - 1) | st.integers(1, 5),
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(ADDRESSES), st.floats(0, 1e5) | st.just(0.0))),
)
def test_cells_decide_alike(
    interval_s: float, burst: int, max_keys: int, steps: list[tuple[object, float]]
) -> None:
    """Also what they forget: both keep the same clients, in order of the same heap."""
    compiled, pure = front.Cells(interval_s, burst, max_keys), Gcra(interval_s, burst, max_keys)
    now = 1000.0
    for key, pause_s in steps:
        now += pause_s
        assert compiled.check(key, now) == pure.check(key, now)
        assert len(compiled) == len(pure)


@pytest.mark.parametrize("seed", range(4))
def test_thousands_of_clients_decide_alike(seed: int) -> None:
    """Enough of them for the tables to grow and to be full."""
    chance = random.Random(seed)  # noqa: S311  # the same clients for the same seed
    compiled, pure = front.Cells(2.5, 3, 1500), Gcra(2.5, 3, 1500)
    now = 5.0
    for _ in range(20_000):
        now += chance.expovariate(200)
        key = chance.randrange(4000).to_bytes(4, "big")
        assert compiled.check(key, now) == pure.check(key, now)
    assert len(compiled) == len(pure)


@pytest.mark.parametrize("arguments", [(0.0, 1, 1), (-1.0, 1, 1), (1.0, 0, 1), (1.0, 1, 0)])
def test_impossible_rates_are_refused(arguments: tuple[float, int, int]) -> None:
    with pytest.raises(ValueError, match="not a rate"):
        front.Cells(*arguments)


@pytest.mark.parametrize("key", [b"123", b"12345678901234567"])
def test_only_clients_have_cells(key: bytes) -> None:
    with pytest.raises(ValueError, match="no client's key"):
        front.Cells(1.0, 1).check(key, 0.0)


def test_time_is_finite() -> None:
    with pytest.raises(ValueError, match="no time"):
        front.Cells(1.0, 1).check(b"", float("nan"))


# ---- Clients ----

PEERS = ["10.0.0.1", "fd00::1", "::ffff:10.0.0.2", "203.0.113.1", "2001:db8:1::1"]
HOPS = [
    "198.51.100.1",
    "192.0.2.7",
    "10.0.0.9",
    "::ffff:10.0.0.3",
    "::ffff:c633:6401",
    "fd00::9",
    "2001:db8::1",
    "2001:DB8:0:0::192.0.2.1",
    "fe80::1%eth0",
    "192.0.2.1%7",
    "198.51.100.1:80",
    "[2001:db8::1]:4711",
    "[fd00::2]",
    "[192.0.2.1]x",
    "2001:db8::1:80",
    "010.0.0.1",
    "1.2.3",
    "1.2.3.256",
    "1:2:3:4:5:6:7::",
    "::00001",
    "0000:0000:0000:0000:0000:ffff:198.051.100.001",
    "0000:0000:0000:0000:0000:ffff:198.151.100.101",
    "_hidden",
    "unknown",
    "",
    "\xa0198.51.100.1",
]
RULES = [
    ClientRules(),
    ClientRules(behind_proxy=True, exempt=(ip_network("10.0.0.1/32"), ip_network("192.0.2.7/32"))),
    ClientRules(
        trusted_proxies=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
        exempt=(ip_network("192.0.2.0/24"), ip_network("fd00::9/128")),
        ipv6_prefix=56,
    ),
    ClientRules(behind_proxy=True, trusted_proxies=(ip_network("0.0.0.0/0"),), ipv6_prefix=128),
]


def key_octets(key: object) -> bytes:
    """Return the key of a `Client` in the form of a cell's."""
    if isinstance(key, tuple):
        prefix, number = key
        octets: bytes = (number << (128 - prefix)).to_bytes(16, "big")
        return octets
    assert isinstance(key, bytes)
    return key


def packed(networks: Sequence[Network]) -> list[tuple[bytes, int]]:
    return [(network.network_address.packed, network.prefixlen) for network in networks]


def client_by_lane(head: bytes, peer: str, rules: ClientRules) -> tuple[bytes, bool, bool] | None:
    return front.read_client(
        head,
        ip_address(peer).packed,
        trusted=packed(rules.trusted_proxies),
        exempt=packed(rules.exempt),
        behind_proxy=rules.behind_proxy,
        ipv6_prefix=rules.ipv6_prefix,
    )


def client_by_twin(head: bytes, peer: str, rules: ClientRules) -> tuple[bytes, bool, bool]:
    client = rules.client_of(peer, _request(head, b"", peer).headers)
    return key_octets(client.key), client.exempt, rules.peer_key(peer) is not None


@given(
    st.ip_addresses() | st.ip_addresses(v=4).map(lambda v4: ip_address(f"::ffff:{v4}")),
    st.integers(1, 128),
    st.lists(st.tuples(st.ip_addresses(), st.integers(0, 128)), max_size=3),
    st.none() | st.integers(0, 128),
    st.booleans(),
)
def test_peers_are_told_apart_alike(
    address: IPv4Address | IPv6Address,
    ipv6_prefix: int,
    others: list[tuple[IPv4Address | IPv6Address, int]],
    around: int | None,
    behind_proxy: bool,
) -> None:
    networks = tuple(
        ip_network((other, min(length, other.max_prefixlen)), strict=False)
        for other, length in [*others, *([] if around is None else [(address, around)])]
    )
    for trusted, exempt in (((), networks), (networks, ()), (networks[:1], networks[1:])):
        rules = ClientRules(behind_proxy, trusted, exempt, ipv6_prefix)
        head = f"GET /{KEY} HTTP/1.1\r\n\r\n".encode()
        assert client_by_lane(head, str(address), rules) == client_by_twin(
            head, str(address), rules
        )


def forwarded_fields() -> st.SearchStrategy[str]:
    hop = st.sampled_from(HOPS) | st.text('0123456789abf:.[]%" \t;=', max_size=12)
    bare = st.lists(hop, min_size=1, max_size=4).map(",".join)
    named = st.builds(
        "{}{}={}{}".format,
        st.sampled_from(["", "by=10.0.0.2;", " proto=http ; "]),
        st.sampled_from(["for", "For", " FOR ", "fo"]),
        hop | hop.map(lambda text: f'"{text}"') | hop.map(lambda text: f'"" {text} "'),
        st.sampled_from(["", ";host=a", ";for=192.0.2.9"]),
    )
    elements = st.lists(named, min_size=1, max_size=3).map(", ".join)
    return (
        bare.map("X-Forwarded-For: {}".format)
        | bare.map("x-forwarded-for:{}".format)
        | hop.map("X-Real-IP: {}".format)
        | elements.map("Forwarded: {}".format)
        | bare.map("Forwarded: {}".format)
        | st.just("Via: 1.1 x")
    )


@given(
    st.lists(forwarded_fields(), max_size=4),
    st.sampled_from(PEERS),
    st.sampled_from(RULES),
)
def test_clients_behind_proxies_are_told_apart_alike(
    fields: list[str], peer: str, rules: ClientRules
) -> None:
    """The lane may leave a request to the twin, but only where letters are not ASCII."""
    head = "\r\n".join([f"GET /{KEY} HTTP/1.1", *fields, "", ""]).encode("latin-1")
    found = client_by_lane(head, peer, rules)
    if found is None:
        assert not head.isascii()
    else:
        assert found == client_by_twin(head, peer, rules)


@pytest.mark.parametrize("hop", HOPS)
@pytest.mark.parametrize("name", ["X-Forwarded-For", "X-Real-IP", "Forwarded"])
@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("peer", PEERS)
def test_each_form_of_an_address(hop: str, name: str, rules: ClientRules, peer: str) -> None:
    value = f'for="{hop}"' if name == "Forwarded" else hop
    head = f"GET /{KEY} HTTP/1.1\r\n{name}: {value}\r\n\r\n".encode("latin-1")
    found = client_by_lane(head, peer, rules)
    if found is None:
        assert not hop.isascii()
    else:
        assert found == client_by_twin(head, peer, rules)


def test_what_proxies_say_at_too_great_length_is_left_to_the_twin() -> None:
    rules = RULES[2]
    for size, understood in ((32, True), (33, False)):
        hops = ", ".join(["198.51.100.1"] * size)
        head = f"GET /{KEY} HTTP/1.1\r\nX-Forwarded-For: {hops}\r\n\r\n".encode()
        assert (client_by_lane(head, "10.0.0.1", rules) is not None) is understood
    for count, understood in ((8, True), (9, False)):
        fields = "X-Real-IP: 198.51.100.1\r\n" * count
        head = f"GET /{KEY} HTTP/1.1\r\n{fields}\r\n".encode()
        assert (client_by_lane(head, "10.0.0.1", rules) is not None) is understood


# ---- Requests ----

TARGETS = [
    *(f"/{KEY}", f"/pkarr/{KEY}", f"/pkarr//{KEY}"),
    *("/health", "/healthz", "/", "/stats", "/?key=a%20b+c&\x7e'\"<>", "/stats?x"),
]
PAGES = (Kind.HEALTH, Kind.INDEX, Kind.STATS)
QUERIES = ["", "?policy=CacheFirst", "?policy=CacheOnly", "?policy=NetworkOnly"]
FIELDS = [
    "Host: relay.test",
    "Connection: keep-alive, Close",
    "connection:\tclose-not",
    "Origin: https://a.test",
    "Origin: null",
    'If-None-Match: "x", W/"y"',
    "If-Modified-Since:  Sun, 06 Nov 1994 08:49:37 GMT ",
    "Content-Length: 0",
    "Content-Length: 7",
    "X-Forwarded-For: 192.0.2.1",
    "Forwarded:",
    "Upgrade: h2c",
    "Expect: 100-continue",
    "Transfer-Encoding: chunked",
    "Accept: */*",
    "Folded: a\r\n b",
    "Obsolete: \xe9\xff",
]
SPOILERS = [b"\r", b"\n", b"\0", b" ", b"\t", b":", b"\x7f", b"\x80", b"/", b"?", b"%", b",", b"9"]


def heads() -> st.SearchStrategy[bytes]:
    def build(method: str, target: str, query: str, fields: list[str], body: bytes) -> bytes:
        lines = [f"{method} {target}{query} HTTP/1.1", *fields, "", ""]
        return "\r\n".join(lines).encode("latin-1") + body

    return st.builds(
        build,
        st.sampled_from(["GET", "HEAD", "PUT"]),
        st.sampled_from(TARGETS),
        st.sampled_from(QUERIES),
        st.lists(st.sampled_from(FIELDS), max_size=5, unique=True),
        st.sampled_from([b"", b"1234567", b"GET / HTTP/1.1\r\n\r\n"]),
    )


@st.composite
def spoilt_heads(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(heads()))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.sampled_from(SPOILERS))
    return bytes(data)


def by_h11(data: bytes) -> tuple[h11.Request, int]:
    """Return the request that the other way makes of the same bytes, and the length of its body."""
    parser = RequestParser()
    parser.receive_data(data)
    request = parser.next_event()
    assert isinstance(request, h11.Request)
    size = 0
    while True:
        event = parser.next_event()
        if isinstance(event, h11.Data):
            size += len(event.data)
        elif isinstance(event, h11.EndOfMessage) or event in (h11.NEED_DATA, h11.PAUSED):
            return request, size


@given(heads() | spoilt_heads())
def test_what_the_lane_understands_h11_understands_alike(data: bytes) -> None:
    found = front.read_request(data)
    if not isinstance(found, tuple):
        return
    method, key, policy, plain, forwarded, close, origin, none_match, since, head, body = found
    request, h11_body = by_h11(data[: head + body])
    fields = list(request.headers)
    names = [name for name, _ in fields]
    path, _, query = request.target.partition(b"?")

    def first(name: bytes) -> bytes | None:
        return next((value for other, value in fields if other == name), None)

    route = route_of(path)
    assert request.method.decode() == method
    assert request.http_version == b"1.1"
    assert data[:head].endswith(b"\r\n\r\n")
    assert (key is None) == (route.kind in PAGES)
    if key is not None:
        assert route.kind is Kind.PACKET
        assert decode(route.segment.decode()) == key
        assert parse_policy(query).value == policy
    assert (first(b"origin"), first(b"if-modified-since")) == (origin, since)
    if plain:
        assert names.count(b"if-none-match") <= 1
        assert first(b"if-none-match") == none_match
        assert origin is None or _SAFE_VALUE.fullmatch(origin)
    assert forwarded == bool({b"x-forwarded-for", b"x-real-ip", b"forwarded"} & set(names))
    tokens = b",".join(value for name, value in fields if name == b"connection").lower().split(b",")
    assert close == (b"close" in [token.strip() for token in tokens])
    assert {b"transfer-encoding", b"expect"}.isdisjoint(names)
    assert body == int(first(b"content-length") or 0)
    assert h11_body == min(body, len(data) - head)


@given(heads())
def test_a_head_is_understood_when_it_is_whole(data: bytes) -> None:
    """Of its beginnings all say more, or all from some point on that it is not ours."""
    whole = front.read_request(data)
    if isinstance(whole, tuple):
        end = whole[9]
        assert [front.read_request(data[:size]) for size in range(end)] == [None] * end
    else:
        assert whole is False
        kinds = [front.read_request(data[:size]) is None for size in range(len(data))]
        assert kinds == sorted(kinds, reverse=True)


@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01",
        b"\r\n",
        b"GET  /",
        b"GET /x HTTP/1.1\r\n",
        b"GET /?\x80 HTTP/1.1\r\n",
        b"PUT / HTTP/1.1\r\n",
        b"GET /health?x HTTP/1.1\r\n",
        b"POST /",
        f"GET /{KEY} HTTP/1.0\r\n".encode(),
        f"GET /{KEY}? HTTP/1.1\r\n".encode(),
        f"GET /{KEY[:-1]} HTTP/1.1\r\n".encode(),
        f"GET /{KEY.upper()} HTTP/1.1\r\n".encode(),
        f"GET /{KEY}?policy=cacheonly HTTP/1.1\r\n".encode(),
        f"GET /{KEY} HTTP/1.1\n".encode(),
        f"GET /{KEY} HTTP/1.1\r\nHost: a\r\nHost: a\r\n".encode(),
        f"GET /{KEY} HTTP/1.1\r\nX: a\r\n b\r\n".encode(),
        f"GET /{KEY} HTTP/1.1\r\nX : a\r\n".encode(),
        f"GET /{KEY} HTTP/1.1\r\nContent-Length: 1\r\n".encode(),
        f"PUT /{KEY} HTTP/1.1\r\nContent-Length: 1105\r\n".encode(),
        f"PUT /{KEY} HTTP/1.1\r\nContent-Length: +1\r\n".encode(),
        b"PUT /health HTTP/1.1\r\n",
        f"GET /{KEY} HTTP/1.1\r\nX: {'x' * 8192}".encode(),
    ],
)
def test_what_the_lane_leaves_to_others(data: bytes) -> None:
    assert front.read_request(data) is False


@given(st.binary(min_size=32, max_size=32), st.sampled_from(encode(bytes([255] * 32)) + KEY))
def test_keys_are_read_alike(octets: bytes, last: str) -> None:
    """The last letter has four bits that nobody reads."""
    letters = encode(octets)[:-1] + last
    found = front.read_request(f"GET /{letters} HTTP/1.1\r\n\r\n".encode())
    assert isinstance(found, tuple)
    assert found[1] == decode(letters)


def test_a_key_of_other_letters_is_no_key() -> None:
    for letter in "lv02 -é":
        with pytest.raises((ValueError, PublicKeyError)):
            decode(KEY[:-1] + letter)
        data = f"GET /{KEY[:-1]}{letter} HTTP/1.1\r\n\r\n".encode("latin-1")
        assert front.read_request(data) is False


@given(st.binary(max_size=300))
def test_any_bytes_have_an_outcome(data: bytes) -> None:
    assert front.read_request(b"GET /" + data) in (None, False)
