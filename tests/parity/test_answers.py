"""The reader of responses against its twin, and both against the general decoder."""

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay._pure import answers as pure
from relay._pure.bencode import Value, encode
from relay._speedups import answers as compiled
from relay.dht import krpc
from relay.dht.krpc import KrpcDecodeError, Response

BOTH = pytest.mark.parametrize("kernel", [compiled, pure], ids=["compiled", "pure"])
ATTRIBUTES = (
    "transaction_id",
    "node_id",
    "nodes",
    "token",
    "public_key",
    "seq",
    "signature",
    "v_encoded",
    "peers",
    "requester",
    "read_only",
)

PLAIN = {
    b"id": bytes(20),
    b"k": bytes(32),
    b"nodes": bytes(52),
    b"seq": 5,
    b"sig": bytes(64),
    b"token": b"t",
    b"v": b"hello",
}


def envelope(values: Value, **outer: Value) -> dict[bytes, Value]:
    whole: dict[bytes, Value] = {b"r": values, b"t": b"aaaa", b"y": b"r", b"ip": bytes(6)}
    return whole | {key.encode(): value for key, value in outer.items()}


def facts(answer: object) -> tuple[object, ...] | None:
    if answer is None:
        return None
    return tuple(getattr(answer, name) for name in ATTRIBUTES)


integers = st.integers(-(10**19), 10**19) | st.sampled_from(
    [0, 1, -1, 10**18 - 1, 10**18, 1 - 10**18, -(10**18), 2**63]
)
strings = st.binary(max_size=30) | st.sampled_from([bytes(6), bytes(20), b"r", b"q", bytes(33)])
scalars = integers | strings
trees = st.recursive(
    scalars, lambda t: st.lists(t, max_size=3) | st.dictionaries(strings, t, max_size=3)
)
names = st.sampled_from([*PLAIN, b"values", b"x", b"", b"idx", b"nodes6"])
values = st.dictionaries(names, scalars, max_size=8) | st.dictionaries(names, trees, max_size=8)
plain_values = st.fixed_dictionaries(
    {}, optional={key: st.just(value) for key, value in PLAIN.items()}
)
outer = st.dictionaries(st.sampled_from([b"ip", b"ro", b"t", b"v", b"y", b"p", b"e"]), scalars)


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    whole = envelope(draw(plain_values | values)) | draw(st.just({}) | outer)
    data = encode(whole) + draw(st.sampled_from([b"", b"", b"trailing"]))
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        at = draw(st.integers(0, len(data) - 1))
        what = draw(st.sampled_from(["change", "cut", "insert"]))
        octet = bytes([draw(st.sampled_from(list(b"dile0123456789:-r")) | st.integers(0, 255))])
        tail = data[at:] if what == "insert" else data[at + 1 :]
        data = data[:at] + (b"" if what == "cut" else octet) + tail
    return data


@given(payloads() | st.binary(max_size=60))
def test_both_read_the_same(payload: bytes) -> None:
    assert facts(compiled.read_answer(payload)) == facts(pure.read_answer(payload))


@given(payloads())
def test_what_is_read_is_what_the_general_decoder_reads(payload: bytes) -> None:
    """What the kernel takes is right, and what it leaves changes nothing."""
    answer = compiled.read_answer(payload)
    try:
        message = krpc.decode(payload)
    except KrpcDecodeError:
        assert answer is None
        return
    if isinstance(message, Response):
        expected = facts(krpc.answer_of(message))
        assert answer is None or facts(answer) == expected
        assert facts(krpc.read(payload)) == expected
    else:
        assert answer is None
        assert krpc.read(payload) == message


@BOTH
def test_a_plain_response_is_read(kernel: ModuleType) -> None:
    answer = kernel.read_answer(encode(envelope(PLAIN, ro=1)))
    expected = (
        b"aaaa",
        bytes(20),
        bytes(52),
        b"t",
        bytes(32),
        5,
        bytes(64),
        b"5:hello",
        None,
        bytes(6),
        True,
    )
    assert facts(answer) == expected
    assert facts(kernel.Answer(*expected)) == expected
    assert facts(kernel.Answer(b"a")) == (b"a", *[None] * 9, False)


@BOTH
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"d1:rde1:t1:a1:y1:",
        encode(envelope({b"id": bytes(19)})),
        encode(envelope({b"id": 5})),
        encode(envelope({b"v": 5})),
        encode(envelope({b"v": []})),
        encode(envelope({b"seq": b"5"})),
        encode(envelope({b"seq": 10**18})),
        encode(envelope({b"values": b""})),
        encode(envelope({}, ip=b"short")),
        encode(envelope({}, ro=b"1")),
        encode(envelope({}, t=5)),
        encode(envelope({}, t=bytes(33))),
        encode(envelope({}, y=b"q")),
        encode(envelope({}, x={})),
        encode(envelope(b"")),
        b"d1:rd1:xi1e1:ai1ee1:t4:aaaa1:y1:re",
        b"d1:rde1:rde1:t4:aaaa1:y1:re",
        b"d1:t4:aaaa1:rde1:y1:re",
        b"d1:rde1:t4:aaaa1:y1:r",
    ],
)
def test_the_rest_is_left(kernel: ModuleType, payload: bytes) -> None:
    assert kernel.read_answer(payload) is None
