"""The page: its head, its figures, its look-ups, and that hostile records stay text.

`tests/interop/test_page_in_browser.py` shows it to a browser.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from urllib.parse import quote

import pytest

from relay.config import Quota, RateLimiterConfig
from relay.errors import InvalidItemError, NoNodesRespondedError
from relay.http.limits import HttpLimits
from relay.pkarr import dns_build
from relay.pkarr.keys import Keypair
from relay.pkarr.packet import SeenPacket, SignedPacket
from tests.integration.http_world import STATS, World

ALICE = Keypair.from_seed(bytes(range(32)))
HOSTILE = (
    "</td><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
)


@pytest.fixture
def world() -> World:
    world = World(stats=lambda: STATS)
    records = [
        dns_build.txt("_iroh", "relay=https://relay.example.org/", ttl_s=30),
        dns_build.a("@", "203.0.113.9", ttl_s=3600),
        dns_build.aaaa("www", "2001:db8::9"),
        dns_build.txt("x", HOSTILE),
        dns_build.raw("<b>y", 65_280, b"\x00\x01"),
    ]
    packet = SignedPacket.build(ALICE, records, world.now_us - 7_000_000)
    world.cache.put_soon(SeenPacket(packet, world.now_us - 65_000_000))
    return world


async def test_head_of_the_page(world: World) -> None:
    reply = await world.request("GET", "/?policy=foo")
    html = reply.body.decode()
    style, script = (
        b64encode(sha256(own.encode()).digest()).decode()
        for own in re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", html, re.DOTALL)
    )
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["content-length"] == str(len(reply.body))
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"] == (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    assert not re.search(r"<[^>]*\b(src|style|on\w+)=", html)  # nothing the policy would stop
    head = await world.request("HEAD", "/?policy=foo")
    assert (head.status, head.body) == (200, b"")


async def test_figures_of_the_page(world: World) -> None:
    html = (await world.request("GET", "/")).body.decode()
    for figure in ("1.2.3", "25.00 %", ">7001<", "10.2M ± 4.12 %", ">no<", "3f3f3f", "All is well"):
        assert figure in html


async def test_troubles_are_shown() -> None:
    world = World(stats=lambda: STATS, troubles=lambda: {"cache": "the disk is <full>"})
    html = (await world.request("GET", "/")).body.decode()
    assert "Degraded" in html
    assert "the disk is &lt;full&gt;" in html


async def test_a_relay_that_knows_nothing_yet_has_a_page() -> None:
    world = World(stats=dict)
    assert (await world.request("GET", "/")).status == 200


async def test_records_are_shown_escaped(world: World) -> None:
    html = (await world.request("GET", f"/?key={ALICE.public_key}")).body.decode()
    assert html.count("<script") == 1  # our own
    assert "<img" not in html
    assert "&lt;script&gt;" in html
    assert "&#34;relay=https://relay.example.org/&#34;" in html
    assert "1 min 5 s ago" in html
    assert f'title="_iroh.{ALICE.public_key}"><div>_iroh<' in html
    assert f'title="{ALICE.public_key}"><div>@<' in html
    assert "TYPE65280" in html
    assert r"\# 2 0001" in html


async def test_an_iroh_endpoint_is_summed_up(world: World) -> None:
    html = (await world.request("GET", f"/?key={ALICE.public_key}")).body.decode()
    summary = re.search(r'<dl class="iroh".*?</dl>', html, re.DOTALL)
    assert summary is not None
    assert ALICE.public_key.octets.hex() in summary[0]
    assert "<dt>relay</dt><dd>https://relay.example.org/</dd>" in summary[0]
    world.cache.put_soon(SeenPacket(SignedPacket.build(ALICE, [], world.now_us), world.now_us))
    html = (await world.request("GET", f"/?key={ALICE.public_key}")).body.decode()
    assert 'class="iroh"' not in html


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        (
            "abc",
            "This is not a public key: Invalid PublicKey length, expected 32 bytes but got: 1.",
        ),
        ('"><script>alert(1)</script>', "&lt;script&gt;alert(1)&lt;/script&gt;"),
        (
            "\udcff\x00".encode("utf-8", "surrogatepass").decode("latin-1"),
            "This is not a public key",
        ),
        ("x" * 5000, "This is not a public key"),
        (str(Keypair.from_seed(bytes(32)).public_key), "Nobody has published a packet"),
        (f"https://{ALICE.public_key}/path", "203.0.113.9"),
        (ALICE.public_key.octets.hex(), "203.0.113.9"),
    ],
)
async def test_look_ups(world: World, typed: str, shown: str) -> None:
    reply = await world.request("GET", f"/?key={quote(typed)}")
    html = reply.body.decode()
    assert reply.status == 200
    assert shown in html
    assert html.count("<script") == 1  # our own
    assert "x" * 1000 not in html


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (NoNodesRespondedError(), "No queried DHT nodes responded."),
        (InvalidItemError(7), "DHT mutable item at seq 7 is not a valid signed packet."),
    ],
)
async def test_failed_look_ups_are_sentences(world: World, error: Exception, shown: str) -> None:
    world.cache.stored.clear()
    world.dht.error = error
    reply = await world.request("GET", f"/?key={ALICE.public_key}")
    assert reply.status == 200
    assert shown in reply.body.decode()


async def test_a_packet_without_records(world: World) -> None:
    packet = SignedPacket.build(ALICE, [], world.now_us)
    world.cache.put_soon(SeenPacket(packet, world.now_us))
    html = (await world.request("GET", f"/?key={ALICE.public_key}")).body.decode()
    assert "The packet holds no records." in html


async def test_look_ups_spend_the_user_dht_quota() -> None:
    quota = Quota(interval_s=3600.0, burst=1)
    config = RateLimiterConfig(behind_proxy=False, http=None, user_dht=quota, dht=None)
    world = World(limits=HttpLimits(config))
    replies = [await world.request("GET", f"/?key={ALICE.public_key}") for _ in range(2)]
    assert "Nobody has published a packet" in replies[0].body.decode()
    assert "Too many requests to DHT nodes." in replies[1].body.decode()


async def test_a_bug_behind_the_page_is_500(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.service.stats = None  # type: ignore[method-assign, assignment]
    reply = await world.request("GET", "/")
    assert (reply.status, reply.body) == (500, b"")
    assert "failed" in caplog.text


async def test_machines_get_the_same_figures(world: World) -> None:
    reply = await world.request("GET", "/stats")
    assert json.loads(reply.body)["dht"] == STATS["dht"]


async def test_the_plain_page_is_made_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for nothing else cannot keep the relay busy with it."""
    made = 0

    def count() -> dict[str, object]:
        nonlocal made
        made += 1
        return {**STATS, "version": f"9.9.{made}"}

    world = World(stats=count)
    pages = [(await world.request("GET", "/")).body for _ in range(3)]
    assert b"9.9.1" in pages[0]
    assert pages == [pages[0]] * 3
    looked_up = await world.request("GET", f"/?key={ALICE.public_key}")
    assert b"9.9.2" in looked_up.body
    assert (await world.request("GET", "/")).body == pages[0]
    monkeypatch.setattr("relay.http.pages.KEPT_S", 0.0)
    assert b"9.9.3" in (await world.request("GET", "/")).body
