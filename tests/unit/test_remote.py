"""A relay's answers as the reference's client reads them, and what its transcripts leave out."""

import json
from pathlib import Path

import pytest
import trio

from relay import remote
from relay._http_request import Answer, RequestFailedError
from relay.errors import (
    InvalidItemError,
    LookupFailedError,
    NotMostRecentError,
    PublishFailedError,
)
from relay.http.httpdate import format_http_date
from relay.pkarr import dns_build
from relay.pkarr.keys import Keypair
from relay.pkarr.packet import SignedPacket
from relay.pkarr.policy import ResolvePolicy
from relay.remote import RemoteRelay

TRANSCRIPTS = Path(__file__).parents[3] / "shared" / "transcripts"
CASES = json.loads((TRANSCRIPTS / "client-pkarr7.json").read_text())["cases"]
PUBLISHES = [case for case in CASES if case["operation"] == "publish"]
NOW_US = 1_800_000_000_500_000
KEYPAIR = Keypair.from_seed(b"\x07" * 32)
PACKET = SignedPacket.build(KEYPAIR, [dns_build.txt("x", "y")], NOW_US - 5_000_000)
KEY = PACKET.public_key
POLICIES = {
    "resolve": ResolvePolicy.CACHE_FIRST,
    "network": ResolvePolicy.NETWORK_ONLY,
    "cacheonly": ResolvePolicy.CACHE_ONLY,
}


@pytest.fixture
def relay(monkeypatch):
    """A relay that gives `relay.answers` in turn, the last one again and again."""
    relay = RemoteRelay("http://relay.example", timeout_s=2, wall_clock_us=lambda: NOW_US)
    relay.answers = []
    relay.requests = []

    async def request(method, base, path, *, headers, body, body_bytes_max, ssl_context):
        await trio.lowlevel.checkpoint()
        assert body_bytes_max == 1104
        relay.requests.append((method, path, dict(headers), body))
        answer = relay.answers.pop(0) if len(relay.answers) > 1 else relay.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(remote, "request", request)
    return relay


def answer(status, body=b"", **headers):
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return Answer(status, tuple(named.items()), body)


def ok(**headers):
    return answer(200, PACKET.to_relay_payload(), **headers)


def scripted(head):
    """An answer of the transcripts."""
    status_line, *lines = head.split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    headers = tuple((name.encode(), value.encode()) for name, _, value in pairs)
    return int(status_line.split()[1]), headers


PUBLISH_RESULTS = {"NotMostRecent": NotMostRecentError}


@pytest.mark.parametrize("case", PUBLISHES, ids=lambda case: case["id"])
async def test_publish_as_the_reference_client(relay, case):
    payload = bytes.fromhex(case["requests"][0]["body_hex"])
    packet = SignedPacket.from_relay_payload(KEY, payload)
    relay.answers = [Answer(*scripted(head), b"") for head in case["server_answers"]]
    result = case["client_result"]
    if result.startswith("Ok("):
        assert await relay.publish(packet) == int(result[3:-1])
    else:
        error = PUBLISH_RESULTS.get(result[4:-1], PublishFailedError)
        with pytest.raises(error):
            await relay.publish(packet)
    assert relay.requests == [("PUT", f"/{KEY}", {}, payload)]


RESOLVES = [
    case
    for case in CASES
    if case["operation"] in POLICIES and case["id"] != "cli-resolve-toolarge"  # see http_request
]


@pytest.mark.parametrize("case", RESOLVES, ids=lambda case: case["id"])
async def test_resolve_as_the_reference_client(relay, case):
    """Same requests, in the same number; same kind of result, age left aside (see `Client`)."""
    payload = PACKET.to_relay_payload()
    relay.answers = []
    for head in case["server_answers"]:
        status, headers = scripted(head)
        length = dict(headers).get(b"content-length", b"0")
        relay.answers.append(Answer(status, headers, payload if length != b"0" else b""))
    outcome = None
    try:
        found = await relay.resolve(KEY, POLICIES[case["operation"]], None)
        outcome = "NotFound" if found is None else "Ok"
    except InvalidItemError:
        outcome = "InvalidSignedPacket"
    except LookupFailedError:
        outcome = "failed"
    expected = case["client_result"]
    aged = found_in_transcript_but_old(case)
    if expected.startswith("Ok") or aged:
        assert outcome == "Ok"
    else:
        assert outcome in {"NotFound", "InvalidSignedPacket", "failed"}
        assert (outcome == "NotFound") == ("NotFound" in expected)
    asked = [line["head_text"].split("\r\n") for line in case["requests"]]
    assert len(relay.requests) == len(asked)
    for (method, path, headers, _), lines in zip(relay.requests, asked, strict=True):
        assert lines[0].replace("GET /pkarr/", "GET /") == f"{method} {path} HTTP/1.1"
        sent = dict(line.split(": ", 1) for line in lines[1:])
        assert headers == {n: v for n, v in sent.items() if n not in ("accept", "host")}


def found_in_transcript_but_old(case):
    """The packet came, but was last seen too long ago for the reference client's cache."""
    return case["client_result"] == "Err(NotFound)" and "200" in case["server_answers"][-1][:15]


async def test_what_is_known_is_asked_for_again_from_a_second_before(relay):
    relay.answers = [ok()]
    seen = await relay.resolve(KEY, ResolvePolicy.CACHE_FIRST, PACKET)
    assert seen.packet == PACKET
    since = relay.requests[0][2]["if-modified-since"]
    assert since == format_http_date(PACKET.timestamp_us - 1_000_000)


async def test_not_modified_is_no_news(relay):
    relay.answers = [answer(304)]
    assert await relay.resolve(KEY, ResolvePolicy.CACHE_FIRST, PACKET) is None
    assert len(relay.requests) == 1


async def test_network_only_is_unconditional(relay):
    relay.answers = [ok()]
    await relay.resolve(KEY, ResolvePolicy.NETWORK_ONLY, PACKET)
    assert relay.requests[0][1:3] == (
        f"/{KEY}?policy=NetworkOnly",
        {"cache-control": "no-cache, no-store, must-revalidate"},
    )


@pytest.mark.parametrize(
    ("memento_us", "seen_us"),
    [
        (NOW_US - 10_000_000, (NOW_US - 10_000_000) // 1_000_000 * 1_000_000),
        (NOW_US + 10_000_000, NOW_US),
    ],
)
async def test_last_seen(relay, memento_us, seen_us):
    relay.answers = [ok(memento_datetime=format_http_date(memento_us))]
    assert (await relay.resolve(KEY, ResolvePolicy.CACHE_FIRST, None)).last_seen_us == seen_us


@pytest.mark.parametrize("headers", [{}, {"memento_datetime": "yesterday"}])
async def test_last_seen_when_the_relay_does_not_say(relay, headers):
    relay.answers = [ok(**headers)]
    assert (await relay.resolve(KEY, ResolvePolicy.CACHE_FIRST, None)).last_seen_us == NOW_US


async def test_invalid_item(relay):
    relay.answers = [answer(404, pkarr_invalid_signed_packet_seq="17")]
    with pytest.raises(InvalidItemError) as caught:
        await relay.resolve(KEY, ResolvePolicy.CACHE_FIRST, None)
    assert caught.value.seq == 17


@pytest.mark.parametrize("seq", ["", "x", "-1", "9" * 21, "1.0"])
async def test_a_404_with_a_senseless_seq_is_a_404(relay, seq):
    relay.answers = [answer(404, pkarr_invalid_signed_packet_seq=seq)]
    assert await relay.resolve(KEY, ResolvePolicy.CACHE_FIRST, None) is None


@pytest.mark.parametrize(
    "given",
    [answer(200, b"no packet"), answer(200, b"\0" * 90), answer(302), answer(200),
     RequestFailedError("no connection")],
)  # fmt: skip
async def test_what_is_no_answer(relay, given):
    relay.answers = [given]
    with pytest.raises(LookupFailedError) as caught:
        await relay.resolve(KEY, ResolvePolicy.CACHE_FIRST, None)
    assert str(caught.value)


async def test_a_packet_of_another_key_is_no_answer(relay):
    relay.answers = [ok()]
    with pytest.raises(LookupFailedError, match="signature error"):
        await relay.resolve(
            Keypair.from_seed(b"\x08" * 32).public_key, ResolvePolicy.CACHE_FIRST, None
        )


async def test_publishing_without_connection(relay):
    relay.answers = [RequestFailedError("no connection")]
    with pytest.raises(PublishFailedError, match="no connection"):
        await relay.publish(PACKET)


async def test_relays_that_do_not_answer(monkeypatch, autojump_clock):
    async def request(*arguments, **options):
        await trio.sleep_forever()

    monkeypatch.setattr(remote, "request", request)
    relay = RemoteRelay("http://relay.example", timeout_s=2, wall_clock_us=lambda: NOW_US)
    start = trio.current_time()
    with pytest.raises(LookupFailedError, match="within 2 s"):
        await relay.resolve(KEY, ResolvePolicy.CACHE_FIRST, None)
    assert trio.current_time() - start == pytest.approx(2)
    with pytest.raises(PublishFailedError, match="within 6 s"):
        await relay.publish(PACKET)
