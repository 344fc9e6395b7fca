"""SIGHUP: what a running relay takes over from its file, and that nobody notices otherwise."""

from __future__ import annotations

import http.client
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.packets import Author
from tests.support.peers import Peer
from tests.support.relay import RelayProcess, exchange, wait_until

LANES = pytest.mark.parametrize("lane", ["task", "threads:2", "0"])
LIMITS = """behind_proxy = false
quota = "1000r/s"
user_dht_quota = "1000r/s"
dht_quota = "1000r/s"
"""


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[list[str]]:
    with Peer(sys.executable, "-m", "tests.support.own_dht", "--nodes", 3) as network:
        yield network.bootstrap


def reload(relay: RelayProcess, *, word: str = "reload") -> str:
    """Send SIGHUP and return the line that the relay logs of it."""
    before = len(relay.log())
    os.kill(relay.pid, signal.SIGHUP)

    def line() -> str | None:
        news = relay.log()[before:].splitlines(keepends=True)
        return next((line for line in news if word in line and line.endswith("\n")), None)

    return wait_until(line, f"a line with {word!r}") or ""


def rewrite(relay: RelayProcess, *pairs: tuple[str, str]) -> None:
    text = relay.config_path.read_text()
    for old, new in pairs:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    relay.config_path.write_text(text)


def changed(line: str) -> set[str]:
    return set(line.partition("changed: ")[2].partition(";")[0].strip().split(", "))


def waiting(line: str) -> set[str]:
    return set(line.partition("needs a restart: ")[2].strip().split(", ")) - {""}


@LANES
def test_limits_change_without_a_restart(tmp_path: Path, bootstrap: list[str], lane: str) -> None:
    relay = RelayProcess(
        tmp_path,
        bootstrap=bootstrap,
        sections={"rate_limiter": LIMITS},
        wrapper=("env", f"RELAY_FRONT_LANE={lane}"),
    )
    with relay:
        relay.wait_bootstrapped()
        packet = Author().packet()
        assert relay.put(packet.key, packet.payload).status == 204
        assert {relay.get(packet.key).status for _ in range(20)} == {200}

        rewrite(relay, ('quota = "1000r/s"\nuser', 'quota = "1r/d"\nburst = 3\nuser'))
        line = reload(relay)
        assert changed(line) == {"rate_limiter.quota", "rate_limiter.burst"}
        assert waiting(line) == set()
        answers = [relay.get(packet.key) for _ in range(6)]
        assert [answer.status for answer in answers] == [200] * 3 + [429] * 3
        assert answers[0].headers["x-ratelimit-limit"] == "3"
        assert relay.get("no-key").status == 429  # the application's, by the same cells
        assert relay.health().status == 200

        # Now our proxy is known: those it speaks for have each their own.
        rewrite(relay, ("[http]", '[http]\ntrusted_proxies = ["127.0.0.1"]'))
        assert changed(reload(relay)) == {"http.trusted_proxies"}
        for client in ("203.0.113.1", "203.0.113.2"):
            seen = [
                relay.request(packet.key, headers={"x-forwarded-for": client}).status
                for _ in range(4)
            ]
            assert seen == [200] * 3 + [429]
        assert relay.get(packet.key).status == 429

        rewrite(relay, ("behind_proxy = false", 'behind_proxy = false\nexempt = ["127.0.0.1"]'))
        assert changed(reload(relay)) == {"rate_limiter.exempt"}
        assert {relay.get(packet.key).status for _ in range(20)} == {200}

        relay.config_path.write_text(relay.config_path.read_text().partition("[rate_limiter]")[0])
        assert "rate_limiter.quota" in changed(reload(relay))
        assert "x-ratelimit-limit" not in relay.get(packet.key).headers


@LANES
def test_times_to_live_change_without_a_restart(
    tmp_path: Path, bootstrap: list[str], lane: str
) -> None:
    wrapper = ("env", f"RELAY_FRONT_LANE={lane}")
    sections = {"cache": "minimum_ttl = 300"}
    with RelayProcess(tmp_path, bootstrap=bootstrap, sections=sections, wrapper=wrapper) as relay:
        relay.wait_bootstrapped()
        packet = Author().packet()
        assert relay.put(packet.key, packet.payload).status == 204
        assert "max-age=300" in relay.get(packet.key).headers["cache-control"]
        rewrite(relay, ("minimum_ttl = 300", "minimum_ttl = 777\nserve_stale_seconds = 5"))
        line = reload(relay)
        assert changed(line) == {"cache.minimum_ttl", "cache.serve_stale_seconds"}
        assert "max-age=777" in relay.get(packet.key).headers["cache-control"]
        # From now on nothing is fresh, so every GET is a look-up.
        rewrite(relay, ("minimum_ttl = 777", "minimum_ttl = 0\nmaximum_ttl = 0"))
        reload(relay)
        misses = relay.stats()["cache"]["misses"]
        assert relay.get(packet.key).status == 200
        assert relay.stats()["cache"]["misses"] == misses + 1


def test_the_cache_changes_its_size_without_a_restart(tmp_path: Path, bootstrap: list[str]) -> None:
    sections = {"cache": "size = 50"}
    with RelayProcess(tmp_path, bootstrap=bootstrap, sections=sections) as relay:
        relay.wait_bootstrapped()
        packets = [Author().packet() for _ in range(8)]
        for packet in packets:
            assert relay.put(packet.key, packet.payload).status == 204
        rewrite(relay, ("size = 50", "size = 3"))
        assert changed(reload(relay)) == {"cache.size"}
        assert relay.stats()["cache"]["capacity"] == 3
        wait_until(lambda: relay.stats()["cache"]["packets"] == 3, "the eviction")
        kept = {relay.get(packet.key, "CacheOnly").status for packet in packets[-3:]}
        gone = {relay.get(packet.key, "CacheOnly").status for packet in packets[:-3]}
        assert (kept, gone) == ({200}, {404})
        rewrite(relay, ("size = 3", "size = 1_000_000"))
        reload(relay)
        for packet in packets:
            assert relay.put(packet.key, Author().packet().payload).status == 400  # not its key's
            assert relay.get(packet.key).status == 200
        assert relay.stats()["cache"]["packets"] == 8


def test_what_is_logged_changes_without_a_restart(tmp_path: Path) -> None:
    with RelayProcess(tmp_path) as relay:
        text = relay.config_path.read_text()
        addresses = 'client_addresses = "full"'
        relay.config_path.write_text(f'{text}[log]\nfilter = "pkarr_relay=debug"\n{addresses}\n')
        assert changed(reload(relay)) == {"log.filter", "log.client_addresses"}
        assert relay.get("no-key").status == 400
        wait_until(lambda: "client=127.0.0.1 " in relay.log(), "the request's line")
        relay.config_path.write_text(f'{text}[log]\nfilter = "inof"\n')
        assert "is ignored" in reload(relay, word="log filter")
        relay.config_path.write_text(text)
        assert "changed: log.filter" in reload(relay)
        before = relay.log()
        assert relay.get("no-key").status == 400
        assert relay.log() == before


def test_what_needs_a_restart_is_named_until_it_comes(tmp_path: Path, bootstrap: list[str]) -> None:
    with RelayProcess(tmp_path, bootstrap=bootstrap) as relay:
        assert changed(reload(relay)) == {"nothing"}
        other = relay.folder / "elsewhere"
        rewrite(
            relay,
            (f"port = {relay.port}", f"port = {relay.port + 1}\nmax_connection_age_seconds = 9"),
            ("server_mode = true", "server_mode = false\nrequest_timeout_seconds = 1"),
            (str(relay.cache), str(other)),
            ("[cache]", "[cache]\nminimum_ttl = 10"),
        )
        for taken_over in ({"cache.minimum_ttl"}, {"nothing"}):
            line = reload(relay)
            assert " WARN " in line
            assert changed(line) == taken_over
            assert waiting(line) == {
                "http.port",
                "http.max_connection_age_seconds",
                "mainline.server_mode",
                "mainline.request_timeout_seconds",
                "cache.path",
            }
        assert relay.health().status == 200
        assert not other.exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[http\n", "line 1"),
        ('[cache]\nsize = "many"\n', "cache.size"),
        ("[rate_limiter]\nbehind_proxy = false\nqouta = 1\n", "rate_limiter.qouta"),
        ("[cache]\nminimum_ttl = 9\nmaximum_ttl = 8\n", "cache.minimum_ttl must be"),
        (None, "No such file"),
    ],
)
def test_a_broken_file_changes_nothing(tmp_path: Path, text: str | None, why: str) -> None:
    sections = {"cache": "size = 50", "rate_limiter": LIMITS}
    with RelayProcess(tmp_path, sections=sections) as relay:
        if text is None:
            relay.config_path.unlink()
        else:
            relay.config_path.write_text(text)
        line = reload(relay)
        assert "ERROR" in line
        assert "reload refused, everything stays as it is: " in line
        assert why in line
        assert relay.stats()["cache"]["capacity"] == 50
        assert relay.get("no-key").headers["x-ratelimit-limit"] == "1000"


def test_warnings_of_the_new_file_are_told(tmp_path: Path) -> None:
    with RelayProcess(tmp_path) as relay:
        rewrite(relay, ("[http]", "[http]\nhost = 1"))
        assert "line 2: unknown key http.host is ignored" in reload(relay, word="unknown key")


@LANES
def test_nobody_is_dropped_by_reloads_under_load(
    tmp_path: Path, bootstrap: list[str], lane: str
) -> None:
    """Kept connections, hot GETs and PUTs at once, while limits, times and sizes go to and fro."""
    relay = RelayProcess(
        tmp_path,
        bootstrap=bootstrap,
        sections={"rate_limiter": LIMITS, "cache": "size = 10000\nminimum_ttl = 300"},
        wrapper=("env", f"RELAY_FRONT_LANE={lane}"),
    )
    with relay:
        relay.wait_bootstrapped()
        packets = [Author().packet() for _ in range(5)]
        for packet in packets:
            assert relay.put(packet.key, packet.payload).status == 204
        ended = threading.Event()
        wrong: list[object] = []
        served = [0, 0, 0, 0]

        def read(number: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", relay.port, timeout=30)
            with closing(connection):
                while not ended.is_set():
                    packet = packets[served[number] % len(packets)]
                    answer = exchange(connection, "GET", f"/{packet.key}")
                    if answer.status != 200 or answer.body != packet.payload:
                        wrong.append(answer)
                    served[number] += 1

        def write(number: int) -> None:
            while not ended.is_set():
                packet = Author().packet()
                if (answer := relay.put(packet.key, packet.payload)).status != 204:
                    wrong.append(answer)
                served[number] += 1

        def guarded(work: object, number: int) -> None:
            try:
                work(number)  # type: ignore[operator]
            except Exception as error:
                wrong.append(error)

        clients = [
            threading.Thread(target=guarded, args=(work, number))
            for number, work in enumerate((read, read, read, write))
        ]
        for client in clients:
            client.start()
        try:
            for turn in range(10):
                quota, size, ttl = (900, 100, 400) if turn % 2 else (1100, 200_000, 500)
                text = relay.config_path.read_text().splitlines()
                relay.config_path.write_text(
                    "\n".join(
                        f'quota = "{quota * 100}r/s"'
                        if line.startswith("quota")
                        else f"size = {size}"
                        if line.startswith("size")
                        else f"minimum_ttl = {ttl}"
                        if line.startswith("minimum")
                        else line
                        for line in text
                    )
                )
                assert {"rate_limiter.quota", "cache.size"} <= changed(reload(relay))
        finally:
            ended.set()
            for client in clients:
                client.join()
        assert wrong == []
        assert min(served) > 0
