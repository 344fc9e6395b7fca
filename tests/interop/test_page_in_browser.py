"""The relay's page in a real browser: what it shows, and that it runs nothing of strangers'.

The browser is Debian's package ``chromium``; pictures for people to judge are left in
``artifacts/``.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import trio

from relay.pkarr import dns_build
from relay.pkarr.keys import Keypair
from relay.pkarr.packet import SeenPacket, SignedPacket
from tests.integration.http_world import STATS, World

pytestmark = pytest.mark.interop

ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts"
ALICE = Keypair.from_seed(bytes(range(32)))
HOSTILE = (
    "</td><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">"
)


@pytest.fixture
def page_world() -> World:
    world = World(stats=lambda: STATS)
    records = [
        dns_build.txt("_iroh", "relay=https://relay.example.org/", ttl_s=30),
        dns_build.txt("_iroh", "addr=203.0.113.9:4433", ttl_s=30),
        dns_build.a("@", "203.0.113.9", ttl_s=3600),
        dns_build.aaaa("www", "2001:db8::9"),
        dns_build.txt("x", HOSTILE),
    ]
    packet = SignedPacket.build(ALICE, records, world.now_us - 7_000_000)
    world.cache.put_soon(SeenPacket(packet, world.now_us - 65_000_000))
    return world


def chromium() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "this test needs a browser: install the Debian package `chromium`"
    return path


async def browse(url: str, profile: Path, *options: str) -> str:
    command = [
        chromium(),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
        *options,
        url,
    ]
    with trio.fail_after(60):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True)
    return done.stdout.decode()


async def test_a_browser_runs_nothing_and_shows_everything(
    page_world: World, tmp_path: Path
) -> None:
    async with page_world.serving() as port:
        url = f"http://127.0.0.1:{port}/?key={ALICE.public_key}"
        dom = await browse(url, tmp_path, "--dump-dom")
        title = re.search(r"<title>(.*?)</title>", dom)
        assert title is not None
        assert title[1] == f"{str(ALICE.public_key)[:8]}… · Pkarr relay"
        assert "pwned" in dom  # as text
        assert "<script" not in dom
        assert "<img" not in dom


@pytest.mark.parametrize(
    ("name", "width", "height", "options"),
    [
        ("light", 1100, 1250, []),
        ("dark", 1100, 1250, ["--blink-settings=preferredColorScheme=0"]),
        ("phone", 420, 1900, []),
    ],
)
async def test_a_picture_for_people_to_judge(
    page_world: World, tmp_path: Path, name: str, width: int, height: int, options: list[str]
) -> None:
    ARTIFACTS.mkdir(exist_ok=True)
    picture = ARTIFACTS / f"page-{name}.png"
    picture.unlink(missing_ok=True)
    async with page_world.serving() as port:
        await browse(
            f"http://127.0.0.1:{port}/?key={ALICE.public_key}",
            tmp_path,
            f"--window-size={width},{height}",
            f"--screenshot={picture}",
            *options,
        )
    head = picture.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    assert (int.from_bytes(head[16:20]), int.from_bytes(head[20:24])) == (width, height)
