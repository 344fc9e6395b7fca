"""The relay's page in a real browser: what it shows, what it renews, and what it does not run.

The browser is Debian's package ``chromium``. Pictures for people to judge are left in
``artifacts/``; the end of the run says so.
"""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import trio

from relay.config import Quota, RateLimiterConfig
from relay.http.figures import overview
from relay.http.limits import HttpLimits
from relay.pkarr import dns_build
from relay.pkarr.keys import Keypair
from relay.pkarr.packet import SeenPacket, SignedPacket
from tests.integration.http_world import STATS, World
from tests.interop.conftest import ARTIFACTS
from tests.support import peers
from tests.support.packets import Author
from tests.support.relay import RelayProcess

pytestmark = pytest.mark.interop

ALICE = Keypair.from_seed(bytes(range(32)))
HOSTILE = (
    "</td><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
)
BUSY: dict[str, Any] = {
    **STATS,
    "cache": {"packets": 412_730, "capacity": 1_000_000, "hits": 8_123_456, "misses": 61_002,
              "evictions": 0},
    "http": {
        "requests": {
            "get": {"200": 8_091_377, "304": 52_112, "404": 40_969, "429": 911},
            "put": {"204": 734_020, "409": 12, "429": 4_120},
            "index": {"200": 318},
        },
        "connections": {"open": 1288, "accepted": 90_233},
    },
    "dht": {**STATS["dht"], "lookups": 61_640, "puts": 734_020,
            "datagrams": {"kernel_drops": 0}},  # type: ignore[dict-item]
}  # fmt: skip
PERIOD_S = 10
"""How often the page asks for new figures."""


class Days:
    """Figures of a relay that is busy, and is asked for them every ten seconds."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> dict[str, object]:
        stats: dict[str, Any] = json.loads(json.dumps(BUSY))
        more = sum(900 + 37 * (turn * turn % 11) for turn in range(self.asked))
        stats["uptime_s"] += PERIOD_S * self.asked
        stats["http"]["requests"]["get"]["200"] += more
        stats["cache"]["hits"] += more
        stats["dht"]["queries_in"] += more // 9 + 31 * (self.asked % 3)
        self.asked += 1
        return stats


@pytest.fixture
def days() -> Days:
    return Days()


@pytest.fixture
def page_world(days: Days) -> World:
    world = World(stats=days)
    records = [
        dns_build.txt("_iroh", "relay=https://relay.example.org/", ttl_s=30),
        dns_build.txt("_iroh", "addr=203.0.113.9:4433", ttl_s=30),
        dns_build.a("@", "203.0.113.9", ttl_s=3600),
        dns_build.aaaa("www", "2001:db8::9"),
        dns_build.cname("blog", "www.example.com"),
        dns_build.ns("sub", "ns1.example.net", ttl_s=86_400),
        dns_build.https("@", 1, ".", {1: b"\x02h3\x02h2", 3: b"\x01\xbb"}),
        dns_build.svcb("_dns.resolver", 1, "dns.example.net", {1: b"\x03dot"}),
        dns_build.raw("sensor", 65_280, bytes.fromhex("c0ffee0123456789")),
        dns_build.txt("x", HOSTILE),
    ]
    packet = SignedPacket.build(ALICE, records, world.now_us - 7_000_000)
    world.cache.put_soon(SeenPacket(packet, world.now_us - 65_000_000))
    return world


def chromium() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "this test needs a browser: install the Debian package `chromium`"
    return path


async def browse(url: str, profile: Path, *options: str, complaint: str = "nothing") -> str:
    """Open a page; return what the browser prints, having complained of nothing else."""
    command = [
        chromium(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        f"--user-data-dir={profile}",
        *options,
        url,
    ]
    with trio.fail_after(120):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    complaints = [line for line in done.stderr.decode().splitlines() if "CONSOLE" in line]
    assert [line for line in complaints if complaint not in line] == []
    return done.stdout.decode()


def after(seconds: float) -> str:
    """Return the option that lets the page's clock run so far, as fast as the answers come."""
    return f"--virtual-time-budget={round(1000 * seconds)}"


def shown_figures(dom: str) -> dict[str, str]:
    found = re.findall(r'data-figure="(\w+)">([^<]*)<', dom)
    return {name: html.unescape(value) for name, value in found}


def without_scripts(profile: Path) -> None:
    """Forbid scripts in a browser's profile, as a careful user would."""
    (profile / "Default").mkdir()
    forbidden = {"profile": {"default_content_setting_values": {"javascript": 2}}}
    (profile / "Default" / "Preferences").write_text(json.dumps(forbidden))


@pytest.mark.parametrize("scripts", [True, False])
async def test_a_browser_runs_nothing_of_strangers_and_shows_everything(
    page_world: World, days: Days, tmp_path: Path, *, scripts: bool
) -> None:
    if not scripts:
        without_scripts(tmp_path)
    async with page_world.serving() as port:
        url = f"http://127.0.0.1:{port}/?key={ALICE.public_key}"
        dom = await browse(url, tmp_path, "--dump-dom")
        assert days.asked == 1
        title = re.search(r"<title>(.*?)</title>", dom)
        assert title is not None
        assert title[1] == f"{str(ALICE.public_key)[:8]}… · Pkarr relay"
        assert "pwned" in dom  # as text
        assert dom.count("<script") == 1  # our own
        assert "<img" not in dom
        for value in ("203.0.113.9", "1 . alpn=h3,h2 port=443", r"\# 8 c0ffee0123456789"):
            assert value in dom
        assert shown_figures(dom) == overview(BUSY).figures()


async def test_without_scripts_nothing_is_renewed(
    page_world: World, days: Days, tmp_path: Path
) -> None:
    without_scripts(tmp_path)
    async with page_world.serving() as port:
        url = f"http://127.0.0.1:{port}/"
        dom = await browse(url, tmp_path, "--dump-dom", after(3.5 * PERIOD_S))
    assert days.asked == 1
    assert shown_figures(dom) == overview(BUSY).figures()
    assert '<p id="live" hidden="">' in dom


async def test_the_figures_are_renewed(page_world: World, days: Days, tmp_path: Path) -> None:
    """Several times, and to the words that the relay itself finds for the same figures."""
    async with page_world.serving() as port:
        url = f"http://127.0.0.1:{port}/"
        dom = await browse(url, tmp_path, "--dump-dom", after(3.5 * PERIOD_S))
    assert days.asked == 4
    days.asked = 3
    renewed = overview(days()).figures()
    assert renewed != overview(BUSY).figures()
    assert shown_figures(dom) == renewed
    assert " a second</p>" in dom
    points = re.findall(r'points="([^"]+)"', dom)
    assert [len(line.split()) for line in points] == [3, 3]
    assert '<p id="live">Figures as of' in dom


@pytest.mark.parametrize(
    "stats",
    [
        {},
        {"uptime_s": 59.9, "cache": {"packets": 0, "capacity": 0, "hits": 0, "misses": 0}},
        {"uptime_s": 86_400, "dht": {"size_estimate": 8, "queries_in": 9_999, "puts": 10_000}},
        {"dht": {"local_address": "0.0.0.0:6881", "public_address": None, "server_mode": False}},
        {"http": {"requests": {"get": {"500": 3, "503": 1, "429": 2}}, "connections": {"open": 0}}},
    ],
)
async def test_words_of_the_browser_are_those_of_the_relay(
    tmp_path: Path, stats: dict[str, object]
) -> None:
    """What is missing is missing in both; the first figures are others, so that all change."""
    answers = [BUSY]
    world = World(stats=lambda: answers.pop() if answers else {"http": {}, **stats})
    async with world.serving() as port:
        dom = await browse(f"http://127.0.0.1:{port}/", tmp_path, "--dump-dom", after(PERIOD_S + 1))
    assert shown_figures(dom) == overview(stats).figures()


async def test_troubles_come_and_go(tmp_path: Path) -> None:
    troubles: list[dict[str, str | None]] = [{"cache": "the disk is <b>full</b>"}, {"cache": None}]

    def trouble() -> dict[str, str | None]:
        return troubles[0] if len(troubles) == 1 else troubles.pop()

    world = World(stats=lambda: BUSY, troubles=trouble)
    async with world.serving() as port:
        dom = await browse(f"http://127.0.0.1:{port}/", tmp_path, "--dump-dom", after(PERIOD_S + 1))
    assert re.search(r'class="status degraded" id="status">Degraded<', dom)
    assert "<strong>cache</strong> the disk is &lt;b&gt;full&lt;/b&gt;" in dom


async def test_a_page_that_is_refused_figures_asks_less_often(tmp_path: Path) -> None:
    """The budget of a client behind one address is for its packets."""
    quota = Quota(interval_s=3600.0, burst=2)
    config = RateLimiterConfig(behind_proxy=False, http=quota, user_dht=None, dht=None)
    world = World(stats=lambda: BUSY, limits=HttpLimits(config))
    async with world.serving() as port:
        url = f"http://127.0.0.1:{port}/"
        dom = await browse(url, tmp_path, "--dump-dom", after(65), complaint="status of 429")
    assert ">All is well<" in dom
    requests = world.counters.snapshot()["requests"]
    assert requests["index"] == {"200": 1}
    assert requests["stats"] == {"200": 1, "429": 1}


async def test_a_relay_that_answers_no_more(page_world: World, days: Days, tmp_path: Path) -> None:
    asked = page_world.service.stats

    def stats() -> dict[str, object]:
        if days.asked:
            raise OSError("as if it had gone")
        return asked()

    page_world.service.stats = stats  # type: ignore[method-assign]
    async with page_world.serving() as port:
        url = f"http://127.0.0.1:{port}/"
        dom = await browse(
            url, tmp_path, "--dump-dom", after(PERIOD_S + 1), complaint="status of 500"
        )
    assert re.search(r'class="status unavailable" id="status">No answer<', dom)
    assert shown_figures(dom) == overview(BUSY).figures()  # the last that were known


async def test_a_real_relay_is_watched(tmp_path: Path) -> None:
    """Our own network, a relay on it, and a packet published while the page is open."""
    author = Author.numbered(1)
    folder = tmp_path / "relay"
    folder.mkdir()

    def prepare() -> RelayProcess:
        relay = RelayProcess(folder, bootstrap=net.bootstrap[:2]).start().wait_bootstrapped()
        assert relay.put(author.key, author.packet("watched").payload).status == 204
        return relay

    with peers.own_net(8) as net:
        relay = await trio.to_thread.run_sync(prepare)
        try:
            url = f"{relay.url}?key={author.key}"
            dom = await browse(url, tmp_path / "profile", "--dump-dom", after(2.5 * PERIOD_S))
            shown = shown_figures(dom)
            assert "&quot;watched&quot;" in dom or '"watched"' in dom
            assert (shown["packets"], shown["written"], shown["puts"]) == ("1", "1", "1")
            assert shown["node_id"] == relay.dht_stats()["node_id"]
            assert int(shown["requests"]) >= 3  # the page's own among them
            assert " a second</p>" in dom
        finally:
            await trio.to_thread.run_sync(relay.stop)


DARK = "--blink-settings=preferredColorScheme=0"


@pytest.mark.parametrize(
    ("name", "path", "width", "height", "options"),
    [
        ("light", "", 1100, 1300, [after(45 * PERIOD_S)]),
        ("dark", "", 1100, 1300, [after(45 * PERIOD_S), DARK]),
        ("look-up-light", f"?key={ALICE.public_key}", 1100, 2000, [after(1)]),
        ("look-up-dark", f"?key={ALICE.public_key}", 1100, 2000, [after(1), DARK]),
        ("phone", f"?key={ALICE.public_key}", 390, 3360, [after(25 * PERIOD_S)]),
        ("no-scripts", "", 1100, 1300, []),
        ("not-found", f"?key={Author.numbered(9).key}", 1100, 1420, [after(1)]),
    ],
)
async def test_a_picture_for_people_to_judge(
    page_world: World,
    tmp_path: Path,
    name: str,
    path: str,
    width: int,
    height: int,
    options: list[str],
) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    picture = ARTIFACTS / f"page-{name}.png"
    picture.unlink(missing_ok=True)
    if name == "no-scripts":
        without_scripts(tmp_path)
    async with page_world.serving() as port:
        await browse(
            f"http://127.0.0.1:{port}/{path}",
            tmp_path,
            f"--window-size={width},{height}",
            f"--screenshot={picture}",
            *options,
        )
    head = picture.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    assert (int.from_bytes(head[16:20]), int.from_bytes(head[20:24])) == (width, height)
