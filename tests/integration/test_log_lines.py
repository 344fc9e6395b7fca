"""What a running relay logs of its requests, and what it keeps to itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.packets import Author
from tests.support.peers import Peer
from tests.support.relay import RelayProcess, wait_until

WITH_OPTIONS = ("sh", "-c", 'exec "$@" --log-format json -t pkarr_relay=debug', "sh")
PROXY = {"http": 'trusted_proxies = ["127.0.0.1"]'}


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[list[str]]:
    with Peer(sys.executable, "-m", "tests.support.own_dht", "--nodes", 3) as network:
        yield network.bootstrap


def events(relay: RelayProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in relay.log().splitlines()]


def requests(relay: RelayProcess, **wanted: object) -> list[dict[str, Any]]:
    """Return the events of requests that have these fields."""
    return [
        event
        for event in events(relay)
        if event["message"] == "request" and wanted.items() <= event.items()
    ]


def forwarded(address: str, request_id: str = "") -> Mapping[str, str]:
    given = {"x-request-id": request_id} if request_id else {}
    return {"x-forwarded-for": address, **given}


def test_each_request_is_a_line_and_its_id_is_on_all_that_it_causes(
    tmp_path: Path, bootstrap: list[str]
) -> None:
    with RelayProcess(tmp_path, bootstrap=bootstrap, sections=PROXY, wrapper=WITH_OPTIONS) as relay:
        relay.wait_bootstrapped()
        packet = Author().packet()
        headers = forwarded("203.0.113.77", "proxy-0815")
        answer = relay.request(packet.key, "PUT", packet.payload, headers)
        assert answer.status == 204
        assert "x-request-id" not in answer.headers  # answers are the reference's
        (put,) = requests(relay, method="PUT")
        assert put["key"] == packet.key
        assert put["status"] == 204
        assert put["route"] == "packet"
        assert put["client"] == "203.0.113.0/24"
        assert put["request_id"] == "proxy-0815"
        assert put["ms"] > 0
        (store,) = [event for event in events(relay) if event["message"] == "store"]
        assert store["request_id"] == "proxy-0815"
        assert store["stored"] >= 1

        nobody = Author().packet()
        hostile = forwarded("2001:db8:1:2::3", "a b")  # no well-formed id: not repeated
        assert relay.request(nobody.key, headers=hostile).status == 404
        (get,) = requests(relay, key=nobody.key)
        assert get["client"] == "2001:db8:1::/48"
        assert get["request_id"] not in {"a b", put["request_id"]}
        (lookup,) = [event for event in events(relay) if event["message"] == "look-up"]
        assert lookup["request_id"] == get["request_id"]
        assert lookup["found"] is False

        assert relay.get("no-key").status == 400
        (bad,) = requests(relay, status=400)
        assert bad["key"] == "no-key"
        assert bad["reason"].startswith("Invalid URL: ")
        ids = [event["request_id"] for event in requests(relay)]
        assert len(set(ids)) == len(ids)


def test_an_id_is_believed_of_trusted_proxies_only(tmp_path: Path) -> None:
    sections = {"log": 'client_addresses = "full"'}
    with RelayProcess(tmp_path, sections=sections, wrapper=WITH_OPTIONS) as relay:
        assert relay.request("no-key", headers=forwarded("203.0.113.7", "mine")).status == 400
        (bad,) = requests(relay, status=400)
        assert bad["client"] == "127.0.0.1"
        assert bad["request_id"] != "mine"


def test_no_request_is_logged_at_info(tmp_path: Path, bootstrap: list[str]) -> None:
    """Nor any client's address, nor what a stranger sends."""
    with RelayProcess(tmp_path, bootstrap=bootstrap, sections=PROXY) as relay:
        relay.wait_bootstrapped()
        packet = Author().packet()
        assert relay.put(packet.key, packet.payload).status == 204
        wait_until(lambda: "loaded from" in relay.log(), "the end of the start")
        before = relay.log()
        for _ in range(20):
            assert relay.get(packet.key).status == 200
            assert relay.get("no-key").status == 400
            assert relay.put(packet.key, b"junk").status == 400
            assert relay.request("health", headers=forwarded("203.0.113.7")).status == 200
        assert relay.log() == before


@pytest.mark.compiled
def test_what_the_lane_answers_from_the_cache_is_counted_only(
    tmp_path: Path, bootstrap: list[str]
) -> None:
    with RelayProcess(tmp_path, bootstrap=bootstrap, wrapper=WITH_OPTIONS) as relay:
        relay.wait_bootstrapped()
        packet = Author().packet()
        assert relay.put(packet.key, packet.payload).status == 204
        for _ in range(5):
            assert relay.get(packet.key).status == 200
        assert relay.stats()["http"]["requests"]["get"]["200"] == 5
        assert requests(relay, method="GET", key=packet.key) == []


def test_without_the_lane_each_answer_is_a_line(tmp_path: Path, bootstrap: list[str]) -> None:
    wrapper = ("env", "RELAY_FRONT_LANE=0", *WITH_OPTIONS)
    with RelayProcess(tmp_path, bootstrap=bootstrap, wrapper=wrapper) as relay:
        relay.wait_bootstrapped()
        packet = Author().packet()
        assert relay.put(packet.key, packet.payload).status == 204
        for _ in range(5):
            assert relay.get(packet.key).status == 200
        assert len(requests(relay, method="GET", key=packet.key, status=200)) == 5
