"""What our node sends for one call, against what the reference client library sends.

Bound are the arguments of each query but for the requester's id, and the result of the call
(issue 3, section 3); not the reference's extra pings, its random ids or the order.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from relay.dht import krpc
from relay.dht.events import GetFinished, PutFailure, PutFinished
from relay.dht.items import MutableItem
from relay.dht.krpc import ErrorReply, Query, Response, Value
from relay.dht.node import DhtNode
from tests.support.chance import seeded

VECTORS = Path(__file__).resolve().parents[4] / "shared" / "vectors" / "krpc-client.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text())["cases"]

NODE_ADDRESS = ("127.0.0.1", 23456)
NODE_ID = bytes(range(20))
TOKEN = b"tokn"

RESULTS = {
    "Err(Concurrency(CasFailed))": PutFailure.CAS_FAILED,
    "Err(Concurrency(NotMostRecent))": PutFailure.NOT_MOST_RECENT,
    "Err(Query(Timeout))": PutFailure.TIMED_OUT,
}


def recorded(case: dict[str, Any]) -> dict[bytes, dict[bytes, Value]]:
    """The recorded arguments by method, without ids and pings."""
    queries: dict[bytes, dict[bytes, Value]] = {}
    for request in case["requests"]:
        query = krpc.decode(bytes.fromhex(request["first_hex"]))
        assert isinstance(query, Query)
        if query.method != b"ping":
            queries[query.method] = {k: v for k, v in query.arguments.items() if k != b"id"}
    return queries


def start(node: DhtNode, arguments: dict[bytes, dict[bytes, Value]]) -> bytes:
    """Make the call that the recording is of; return its target."""
    if b"announce_peer" in arguments:
        announce = arguments[b"announce_peer"]
        port = None if announce[b"implied_port"] else announce[b"port"]
        assert isinstance(announce[b"info_hash"], bytes)
        assert port is None or isinstance(port, int)
        return node.start_announce_peer(announce[b"info_hash"], port=port, now=1.0).target
    put = arguments.get(b"put")
    if put is None:
        target = arguments[b"get"][b"target"]
        assert isinstance(target, bytes)
        return node.start_get_immutable(target, now=1.0).target
    if b"k" not in put:
        return node.start_put_immutable(put[b"v"], now=1.0).target
    item = MutableItem.from_value(put[b"k"], put[b"seq"], put[b"v"], put[b"sig"], put.get(b"salt"))  # type: ignore[arg-type]
    return node.start_put(item, cas=put.get(b"cas"), now=1.0).target  # type: ignore[arg-type]


def answer(query: Query, case_id: str) -> Response | ErrorReply:
    """What the recording's fake bootstrap node answered."""
    if query.method in (b"put", b"announce_peer") and "-err" in case_id:
        code = int(case_id.rpartition("-err")[2])
        return ErrorReply(query.transaction_id, code, b"refused")
    values: dict[bytes, Value] = {b"id": NODE_ID}
    if query.method in (b"get", b"find_node"):
        values |= {b"nodes": b"", b"token": TOKEN}
    return Response(query.transaction_id, values)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_a_call_sends_what_the_reference_sends(case: dict[str, Any]) -> None:
    expected = recorded(case)
    node = DhtNode(
        rng=seeded(1),
        secret=bytes(32),
        now=0.0,
        local_address=("127.0.0.1", 6881),
        server_mode=False,
        bootstrap=[NODE_ADDRESS],
    )
    seen: dict[bytes, dict[bytes, Value]] = {}
    events = []
    target = b""
    for called in (False, True):  # first let it bootstrap, as the reference does
        if called:
            target = start(node, expected)
        while datagrams := node.datagrams_to_send():
            for payload, address in datagrams:
                assert address == NODE_ADDRESS
                query = krpc.decode(payload)
                assert isinstance(query, Query)
                assert query.read_only
                assert len(query.transaction_id) == 4
                assert query.arguments[b"id"] == node.node_id
                arguments = {k: v for k, v in query.arguments.items() if k != b"id"}
                assert seen.setdefault(query.method, arguments) == arguments
                reply = krpc.encode(answer(query, case["id"]))
                node.receive_datagram(reply, NODE_ADDRESS, 1.0)
        events = node.take_events()
    # Only the recorded id of a start-up look-up differs from run to run.
    assert seen.pop(b"find_node") == {b"target": node.node_id}
    expected.pop(b"find_node", None)
    assert seen == expected
    (finished,) = events
    if isinstance(finished, GetFinished):
        assert case["api_result"] == ""
        assert (finished.outcome.best, finished.outcome.usable) == (None, 1)
        return
    assert isinstance(finished, PutFinished)
    if case["api_result"] in RESULTS:
        assert finished.outcome.failure is RESULTS[case["api_result"]]
        assert finished.outcome.stored == 0
    else:
        assert case["api_result"] == f"Ok(Id({target.hex()}))"
        assert (finished.outcome.failure, finished.outcome.stored) == (None, 1)


def test_a_mutable_get_names_the_target_and_the_known_seq() -> None:
    """Not among the recordings as such: protocol.md, section 7.1, shows the bytes."""
    node = DhtNode(
        rng=seeded(1),
        secret=bytes(32),
        now=0.0,
        local_address=("127.0.0.1", 6881),
        server_mode=False,
        bootstrap=[NODE_ADDRESS],
    )
    node.datagrams_to_send()
    handle = node.start_get(bytes(32), seq=77, now=0.0)
    ((payload, _),) = node.datagrams_to_send()
    query = krpc.decode(payload)
    assert isinstance(query, Query)
    assert query.method == b"get"
    assert query.arguments == {b"id": node.node_id, b"seq": 77, b"target": handle.target}
    assert payload == (
        b"d1:ad2:id20:%b3:seqi77e6:target20:%be1:q3:get2:roi1e1:t4:%b1:v4:%b1:y1:qe"
        % (node.node_id, handle.target, query.transaction_id, krpc.VERSION)
    )
