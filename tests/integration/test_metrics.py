"""Metrics of real relays: counts after known requests, whoever answers; names; the public port."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection
from ipaddress import ip_address
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.packets import Author, Packet
from tests.support.peers import ROOT
from tests.support.relay import RelayProcess, exchange, fetch, free_port, wait_until

WAYS = {
    "task": {},
    "threads": {"RELAY_FRONT_LANE": "threads:2"},
    "no lane": {"RELAY_FRONT_LANE": "0"},
    "pure": {"RELAY_PURE_PYTHON": "1"},
}
COMPILED = [pytest.param(way, marks=pytest.mark.compiled) for way in ("task", "threads", "no lane")]
Samples = Mapping[tuple[str, tuple[tuple[str, str], ...]], float]


class Monitored(RelayProcess):
    """A relay whose metrics are read."""

    def __init__(
        self, folder: Path, *, bootstrap: Sequence[str] = (), sections: Mapping[str, str] = {}
    ) -> None:
        self.metrics_port = free_port()
        bind = f'bind = "127.0.0.1:{self.metrics_port}"'
        all_sections = {"metrics": bind, "rate_limiter": LIMITS, **sections}
        super().__init__(folder, bootstrap=bootstrap, sections=all_sections)

    def start(self) -> Monitored:
        super().start()
        wait_until(self._listens, "the listener for metrics")
        return self

    def families(self) -> dict[str, Metric]:
        answer = fetch(f"http://127.0.0.1:{self.metrics_port}/metrics")
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        text = answer.body.decode()
        return {family.name: family for family in text_string_to_metric_families(text)}

    def samples(self) -> Samples:
        return {
            (sample.name.removeprefix("pkarr_relay_"), tuple(sorted(sample.labels.items()))): (
                sample.value
            )
            for family in self.families().values()
            for sample in family.samples
        }

    def _listens(self) -> bool:
        try:
            return fetch(f"http://127.0.0.1:{self.metrics_port}/").status == 404
        except ConnectionError:
            return False


LIMITS = """behind_proxy = true
quota = "1r/d"
burst = 40
user_dht_quota = "1r/d"
user_dht_burst = 5
dht_quota = "1r/d"
"""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[str]:
    """Another relay, for ours to have a node to talk to; its address."""
    folder = tmp_path / "other"
    folder.mkdir()
    with RelayProcess(folder) as other:
        yield "{}:{}".format(*other.dht_address)


@pytest.fixture(params=[*COMPILED, "pure"])
def relay(
    request: pytest.FixtureRequest, network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Monitored]:
    """The relay under test, each way of serving in turn."""
    for name in ("RELAY_FRONT_LANE", "RELAY_PURE_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    for name, value in WAYS[request.param].items():
        monkeypatch.setenv(name, value)
    with Monitored(tmp_path, bootstrap=[network]) as process:
        yield process.wait_bootstrapped()


def of(samples: Samples, name: str) -> dict[tuple[str, ...], int]:
    """Return a family's values that are not 0, by the values of its labels in their order."""
    return {
        tuple(value for _, value in labels): int(value)
        for (found, labels), value in samples.items()
        if found == name and value
    }


def ask(relay: Monitored, packet: Packet) -> None:
    """Send the known requests."""
    other = Author().packet().key
    with closing(HTTPConnection("127.0.0.1", relay.port, timeout=30)) as client:

        def send(method: str, path: str, body: bytes | None = None, client_of: str = "a") -> int:
            fields = {"x-forwarded-for": client_of} if client_of != "a" else {}
            return exchange(client, method, path, body, fields).status

        assert send("GET", "/health") == 200
        assert send("PUT", f"/{packet.key}", packet.payload) == 204
        assert [send("GET", f"/{packet.key}") for _ in range(3)] == [200] * 3
        assert send("HEAD", f"/pkarr/{packet.key}") == 200
        assert (
            exchange(client, "GET", f"/{packet.key}", headers={"if-none-match": "*"}).status == 304
        )
        assert send("GET", f"/{other}") == 404
        assert send("GET", f"/{other}?policy=CacheOnly") == 404
        assert send("GET", f"/{packet.key}?policy=NetworkOnly") == 200
        assert send("GET", "/metrics") == 400  # a key like any other word
        assert send("GET", "/a/b") == 404
        assert send("PUT", f"/{packet.key}", packet.payload[:-1]) == 400
        assert send("DELETE", f"/{packet.key}") == 405
        assert send("OPTIONS", f"/{packet.key}") == 200
        assert send("GET", "/stats") == 200
        refused = [send("GET", f"/{packet.key}", client_of="192.0.2.7") for _ in range(43)]
        assert refused == [200] * 40 + [429] * 3


ANSWERED = {
    ("none", "health", "200"): 1,
    ("none", "put", "204"): 1,
    ("hit", "get", "200"): 3 + 40,
    ("hit", "head", "200"): 1,
    ("hit", "get", "304"): 1,
    ("miss", "get", "404"): 2,
    ("bypass", "get", "200"): 1,
    ("none", "get", "400"): 1,
    ("none", "unknown", "404"): 1,
    ("none", "put", "400"): 1,
    ("none", "packet", "405"): 1,
    ("none", "preflight", "200"): 1,
    ("none", "stats", "200"): 1,
    ("none", "get", "429"): 3,
}
"""What `ask` leaves behind, by cache, route and status."""


def test_counts_after_known_requests(relay: Monitored) -> None:
    """The same, whoever answers: a lane as a task, lanes in threads, Hypercorn, pure Python."""
    packet = Author().packet()
    before = relay.samples()
    ask(relay, packet)
    after = relay.samples()
    requests = of(after, "http_requests_total")
    for labels, count in of(before, "http_requests_total").items():
        requests[labels] -= count  # the fixture's own
    assert {labels: count for labels, count in requests.items() if count} == ANSWERED
    taken = of(after, "http_request_duration_seconds_count")
    assert [taken[work,] for work in ("hit", "miss", "put", "refused")] == [45, 3, 2, 3]
    assert sum(taken.values()) == sum(of(after, "http_requests_total").values())
    assert of(after, "rate_limit_refusals_total") == {("http",): 3}
    assert of(after, "cache_lookups_total") == {("hit",): 45, ("miss",): 2, ("bypass",): 1}
    assert of(after, "cache_packets") == {(): 1}
    assert of(after, "cache_commit_packets_sum")[()] >= 1
    assert of(after, "cache_commit_packets_count") == of(
        after, "cache_commit_duration_seconds_count"
    )
    assert of(after, "dht_puts_total") == {("stored",): 1}
    assert of(after, "dht_put_stored_nodes_sum") == {(): 1}
    assert of(after, "dht_put_stored_nodes_count") == {(): 1}
    assert of(after, "dht_queries_sent_total")["put", "answered"] == 1
    assert of(after, "dht_queries_sent_total")["get", "answered"] >= 2
    assert of(after, "dht_lookup_duration_seconds_count")["item",] >= 2
    assert of(after, "dht_routing_table_nodes") == {(): 1}
    assert of(after, "dht_server_mode") == {(): 1}
    assert of(after, "http_connections_accepted_total")[()] >= 2
    assert of(after, "verification_batch_signatures_sum")["http",] == 2  # one was cut
    assert of(after, "part_healthy") == {("http",): 1, ("cache",): 1, ("dht",): 1}


def test_others_queries_are_counted_by_kind(relay: Monitored, tmp_path: Path) -> None:
    """Whether the lane answers them or the node."""
    folder = tmp_path / "third"
    folder.mkdir()
    with RelayProcess(folder, bootstrap=["{}:{}".format(*relay.dht_address)]) as third:
        packet = Author().packet()
        third.wait_bootstrapped()
        assert third.put(packet.key, packet.payload).status == 204
        assert third.get(packet.key, "NetworkOnly").status == 200
    samples = relay.samples()
    queries = of(samples, "dht_queries_received_total")
    assert queries["find_node", "answered"] >= 1
    assert queries["get", "answered"] >= 1
    assert queries["put", "answered"] == 1
    assert sum(queries.values()) == relay.dht_stats()["queries_in"]
    datagrams = of(samples, "dht_datagrams_total")
    assert datagrams["in",] >= sum(queries.values())


@pytest.mark.parametrize(
    "believed",
    [LIMITS, LIMITS.replace("true", "false")],
    ids=["any proxy", "a trusted proxy"],
)
@pytest.mark.parametrize("way", [*COMPILED, "pure"])
def test_metrics_name_no_client_and_no_key(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, believed: str
) -> None:
    """Whoever may read them learns how many ask, and neither who nor for what."""
    for name, value in WAYS[way].items():
        monkeypatch.setenv(name, value)
    peers = [f"127.0.0.{number}" for number in range(71, 76)]
    proxy = peers[-1]
    clients = ["203.0.113.77", "198.51.100.8", "2001:db8:7::77"]
    sections = {"rate_limiter": believed}
    if believed != LIMITS:
        sections["http"] = f'trusted_proxies = ["{proxy}"]'
    stored, missing = Author().packet(), Author()
    asked = [
        ("PUT", f"/{stored.key}", stored.payload),
        ("PUT", f"/{missing.key}", stored.payload),  # refused
        ("GET", f"/{stored.key}", None),
        ("GET", f"/pkarr/{stored.key}", None),
        ("HEAD", f"/{stored.key}?policy=NetworkOnly", None),
        ("GET", f"/{missing.key}", None),
        ("DELETE", f"/{missing.key}", None),
        ("GET", "/a-path-of-theirs/another", None),
    ]
    with Monitored(tmp_path, bootstrap=[network], sections=sections) as relay:
        relay.wait_bootstrapped()
        before = relay.samples()
        answered = Counter[int]()
        for peer, client in [(peer, None) for peer in peers] + [(proxy, c) for c in clients]:
            fields = {} if client is None else {"x-forwarded-for": client}
            connection = HTTPConnection(
                "127.0.0.1", relay.port, timeout=30, source_address=(peer, 0)
            )
            with closing(connection):
                for _ in range(7):  # over all limits
                    for method, path, body in asked:
                        answered[exchange(connection, method, path, body, fields).status] += 1
        after = relay.samples()
        text = fetch(f"http://127.0.0.1:{relay.metrics_port}/metrics").body.decode().lower()
    assert {200, 204, 400, 404, 405, 429} <= answered.keys()
    counted = [sum(of(samples, "http_requests_total").values()) for samples in (before, after)]
    assert counted[1] - counted[0] == answered.total()
    secret = [*peers, *clients, stored.key, missing.key, "path-of-theirs"]
    secret += [author.hex() for author in (stored.public_key, missing.public_key)]
    secret += [octets.packed.hex() for octets in map(ip_address, [*peers, *clients])]
    assert [word for word in secret if word in text] == []


def test_histograms_are_sound(relay: Monitored) -> None:
    """Buckets rise to the count, and the sum fits between their bounds."""
    ask(relay, Author().packet())
    histograms = [f for f in relay.families().values() if f.type == "histogram"]
    assert len(histograms) >= 6
    for family in histograms:
        series: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
        ends: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
        for sample in family.samples:
            labels = dict(sample.labels)
            bound = labels.pop("le", None)
            key = tuple(sorted(labels.items()))
            if bound is None:
                ends.setdefault(key, {})[sample.name.rpartition("_")[2]] = sample.value
            else:
                series.setdefault(key, []).append((float(bound), sample.value))
        assert series.keys() == ends.keys()
        for key, steps in series.items():
            counts = [count for _, count in steps]
            assert counts == sorted(counts)
            assert steps[-1] == (float("inf"), ends[key]["count"])
            sizes = [count - before for count, before in zip(counts, [0, *counts], strict=False)]
            least = sum(
                size * bound for size, (bound, _) in zip(sizes, [(0.0, 0.0), *steps], strict=False)
            )
            assert ends[key]["sum"] >= least * 0.999999


def test_names_are_documented_and_documented_names_exist(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    documented = dict(re.findall(r"(?m)^\| `(\w+)` \| (\w+) \|", page))
    with Monitored(tmp_path) as relay:
        relay.request("health")
        found = {
            family.name + ("_total" if family.type == "counter" else ""): family.type
            for family in relay.families().values()
        }
        labels = {
            family.name + ("_total" if family.type == "counter" else ""): set(sample.labels)
            for family in relay.families().values()
            for sample in family.samples
        }
    assert documented == found
    for name, names in labels.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` "))
        assert set(re.findall(r"`(\w+)`", row.split(" | ")[2])) == names - {"le"}


def test_names_keep_to_the_rules(tmp_path: Path) -> None:
    """Prefix, base units in the plural, _total on counters and nowhere else."""
    with Monitored(tmp_path) as relay:
        families = relay.families()
    for name, family in families.items():
        assert re.fullmatch(r"(pkarr_relay|process)_[a-z_]+", name), name
        assert family.documentation.endswith("."), name
        assert not name.endswith("_total"), name
        assert not re.search(r"_(ms|us|milliseconds|s|kb)(_|$)", name), name
        if family.type == "histogram":
            assert name.endswith(("_seconds", "_packets", "_signatures", "_nodes")), name


def test_a_port_that_is_taken_is_an_error_of_start_up(tmp_path: Path) -> None:
    with RelayProcess(tmp_path) as taken:
        environment = {
            **os.environ,
            "PKARR_RELAY__METRICS__BIND": f"127.0.0.1:{taken.port}",
            "PKARR_RELAY__HTTP__PORT": "0",
            "PKARR_RELAY__MAINLINE__PORT": "0",
            "PKARR_RELAY__CACHE__PATH": str(tmp_path / "second"),
        }
        done = subprocess.run(
            [sys.executable, "-m", "relay", "-c", str(taken.config_path)],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{taken.port} (TCP): Address already in use" in done.stderr
    shutil.rmtree(tmp_path / "second")  # it let go of it


def test_without_the_setting_there_is_no_listener(tmp_path: Path) -> None:
    with RelayProcess(tmp_path) as relay:
        sockets = Path(f"/proc/{relay.pid}/net/tcp").read_text()
        inodes = set()
        for path in Path(f"/proc/{relay.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # a file closed meanwhile is no listener
                inodes.add(os.readlink(path))
        listening = [
            line
            for line in sockets.splitlines()[1:]
            if line.split()[3] == "0A" and f"socket:[{line.split()[9]}]" in inodes
        ]
        assert len(listening) == 1
        assert relay.request("metrics").status == 400
