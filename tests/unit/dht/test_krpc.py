"""KRPC envelopes: what is read, what is refused, and the bytes that are written."""

from __future__ import annotations

import pytest

from relay.dht import krpc
from relay.dht.krpc import ErrorReply, KrpcDecodeError, Query, Response
from relay.dht.node_id import NodeInfo

ID = bytes(range(20))
ADDRESS = ("93.184.216.34", 6881)
PACKED = bytes([93, 184, 216, 34, 0x1A, 0xE1])


def test_query_is_written_as_the_reference_writes_it() -> None:
    """protocol.md, section 7.1: ping query; only the version tag is ours."""
    query = Query(b"\0\0\0\1", b"ping", {b"id": ID}, read_only=True)
    assert krpc.encode(query) == (
        b"d1:ad2:id20:%be1:q4:ping2:roi1e1:t4:\0\0\0\1" % ID + b"1:v4:PK\x00\x011:y1:qe"
    )


def test_reply_and_error_carry_ip_ro_and_the_asked_transaction_id() -> None:
    reply = krpc.encode(Response(b"ab", {b"id": ID}, requester=ADDRESS))
    assert reply == b"d2:ip6:%b1:rd2:id20:%be2:roi0e1:t2:ab1:v4:%b1:y1:re" % (
        PACKED,
        ID,
        krpc.VERSION,
    )
    error = krpc.encode(ErrorReply(b"", 203, b"Bad token", requester=ADDRESS))
    assert error == b"d1:eli203e9:Bad tokene2:ip6:%b2:roi0e1:t0:1:v4:%b1:y1:ee" % (
        PACKED,
        krpc.VERSION,
    )


@pytest.mark.parametrize(
    "message",
    [
        Query(b"t" * 32, b"get", {b"id": ID, b"seq": -5, b"target": ID}, True, b"LT\1\2"),
        Response(b"aaaa", {b"id": ID, b"v": [1, b"x", {b"k": 2}]}, ADDRESS, False, b"v" * 1000),
        ErrorReply(b"aaaa", 301, b"CAS mismatched", ADDRESS, False, b"RS\0\5"),
    ],
)
def test_messages_survive_the_wire(message: krpc.Message) -> None:
    assert krpc.decode(krpc.encode(message)) == message


@pytest.mark.parametrize("read_only", [False, True])
def test_a_template_writes_what_encode_writes(read_only: bool) -> None:
    arguments: dict[bytes, krpc.Value] = {b"target": ID, b"id": ID, b"seq": 5}
    template = krpc.QueryTemplate(b"get", arguments, read_only)
    for transaction_id in (b"", b"ab", b"abcd", b"x" * 32):
        query = Query(transaction_id, b"get", arguments, read_only)
        assert template.fill(transaction_id) == krpc.encode(query)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"hello hello hello hello",
        b"d1:y1:qe",  # under 15 bytes
        b"i123456789012345e",
        b"l1:a1:b1:c1:d1:ee",
        b"d1:ad2:id20:" + ID + b"e1:q4:ping1:t4:aaaa1:y1:q",  # cut off
        b"d1:ad2:id20:" + ID + b"e1:q4:ping1:t4:aaaae",  # no y
        b"d1:ad2:id20:" + ID + b"e1:q4:ping1:y1:qe",  # no t
        b"d1:ad2:id20:" + ID + b"e1:q4:ping1:ti5e1:y1:qe",
        b"d1:ad2:id20:" + ID + b"e1:q4:ping1:t33:" + b"t" * 33 + b"1:y1:qe",
        b"d1:ad2:id20:" + ID + b"e1:t4:aaaa1:y1:qe",  # no q
        b"d1:ad2:id20:" + ID + b"e1:qi1e1:t4:aaaa1:y1:qe",
        b"d1:ad2:id20:" + ID + b"e1:q4:ping1:t4:aaaa1:y1:xe",
        b"d1:t4:aaaa1:y1:re      ",  # no r
        b"d1:rl1:ae1:t4:aaaa1:y1:re",
        b"d1:t4:aaaa1:y1:ee      ",  # no e
        b"d1:ele1:t4:aaaa1:y1:ee",
        b"d1:el3:abce1:t4:aaaa1:y1:ee",
        b"d" + b"1:a" + b"d" * 2000,  # deeper than any message
    ],
)
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(KrpcDecodeError):
        krpc.decode(payload)


def test_keys_in_any_order_and_bytes_behind_are_accepted() -> None:
    payload = b"d1:y1:q1:t4:aaaa2:xx1:z1:q4:ping1:ad2:id20:" + ID + b"ee trailing"
    assert krpc.decode(payload) == Query(b"aaaa", b"ping", {b"id": ID})


def test_missing_arguments_are_left_to_the_responder() -> None:
    """It answers 203; a message without t or q it cannot answer."""
    assert krpc.decode(b"d1:q4:ping1:t4:aaaa1:y1:qe") == Query(b"aaaa", b"ping", {})
    assert krpc.decode(b"d1:ale1:q4:ping1:t4:aaaa1:y1:qe") == Query(b"aaaa", b"ping", {})


def test_optional_keys_of_the_wrong_type_count_as_absent() -> None:
    payload = b"d2:ip5:short1:rd2:id20:" + ID + b"e2:ro1:11:t4:aaaa1:vi7e1:y1:re"
    assert krpc.decode(payload) == Response(b"aaaa", {b"id": ID})
    long_tag = b"d1:rd2:id20:" + ID + b"e1:t4:aaaa1:v1001:" + b"v" * 1001 + b"1:y1:re"
    assert krpc.decode(long_tag) == Response(b"aaaa", {b"id": ID})


def test_libtorrent_errors_carry_r_too_and_y_decides() -> None:
    payload = b"d1:eli203e3:bade1:rd2:id20:" + ID + b"e1:t2:ab1:y1:ee"
    assert krpc.decode(payload) == ErrorReply(b"ab", 203, b"bad")


def test_an_error_without_text_is_an_error() -> None:
    assert krpc.decode(b"d1:eli201ee1:t2:ab1:y1:ee") == ErrorReply(b"ab", 201, b"")


def test_compact_nodes() -> None:
    nodes = [NodeInfo(ID, ADDRESS), NodeInfo(ID[::-1], ("10.0.0.1", 1))]
    packed = krpc.pack_nodes(nodes)
    assert packed == ID + PACKED + ID[::-1] + bytes([10, 0, 0, 1, 0, 1])
    assert krpc.unpack_nodes(packed) == nodes
    assert krpc.unpack_nodes(packed + b"incomplete") == nodes
    assert krpc.unpack_nodes(b"") == []
    assert krpc.unpack_address(krpc.pack_address(ADDRESS)) == ADDRESS
