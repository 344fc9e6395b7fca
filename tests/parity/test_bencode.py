"""The bencode kernel against its twin: values, error texts, error positions."""

from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay._pure import bencode as pure
from relay._pure.bencode import Value
from relay._speedups import bencode as compiled

BOTH = pytest.mark.parametrize("kernel", [compiled, pure], ids=["compiled", "pure"])


def nested(depth: int) -> Value:
    """`depth` lists, each in the one before."""
    return [nested(depth - 1)] if depth > 1 else []


integers = st.integers(-(10**20) + 1, 10**20 - 1) | st.sampled_from(
    [0, 9, 10, 10**18 - 1, 10**18, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1]
)
values = st.recursive(
    integers | st.binary(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.binary(max_size=12), inner, max_size=5)
    ),
    max_leaves=25,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Bencode with a few bytes replaced, inserted, removed or cut off, as attackers write it."""
    data = bytearray(pure.encode(draw(values)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        octet = draw(st.sampled_from(b"0123456789ilde:-+ \x00\xff"))
        match draw(st.sampled_from(["replace", "insert", "remove", "cut"])):
            case "replace":
                data[at : at + 1] = bytes([octet])
            case "insert":
                data[at:at] = bytes([octet])
            case "remove":
                del data[at : at + 1]
            case _:
                del data[at:]
    return bytes(data)


def outcome(kernel: ModuleType, function: str, argument: object) -> tuple[object, ...]:
    """What a call came to: the value, or everything that can be known of the error."""
    try:
        return ("value", getattr(kernel, function)(argument))
    except kernel.BencodeError as error:
        return ("BencodeError", str(error), error.reason, error.position)
    except (TypeError, ValueError) as error:
        return (type(error).__name__, str(error))


@given(st.binary(max_size=1500) | mutated())
@settings(max_examples=500)
def test_decoders_agree(data: bytes) -> None:
    """Same value, or the same error at the same byte, for any datagram."""
    for function in ("decode", "decode_prefix"):
        assert outcome(compiled, function, data) == outcome(pure, function, data)


@given(values)
def test_encoders_agree_and_decoders_undo_them(value: Value) -> None:
    spelling = compiled.encode(value)
    assert spelling == pure.encode(value)
    assert compiled.decode(spelling) == pure.decode(spelling) == value


@given(
    st.recursive(
        st.none() | st.booleans() | st.text(max_size=3) | st.integers() | st.binary(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner)
            | st.dictionaries(st.binary(max_size=2) | st.text(max_size=2), inner, max_size=2)
        ),
        max_leaves=8,
    )
)
def test_encoders_refuse_alike(value: object) -> None:
    assert outcome(compiled, "encode", value) == outcome(pure, "encode", value)


@BOTH
@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"i0e", 0),
        (b"i-1e", -1),
        (b"i99999999999999999999e", 10**20 - 1),
        (b"i-9223372036854775808e", -(2**63)),
        (b"0:", b""),
        (b"10:0123456789", b"0123456789"),
        (b"le", []),
        (b"de", {}),
        (b"ld1:ali1e1:xeee", [{b"a": [1, b"x"]}]),
        (b"d1:bi1e1:ai2ee", {b"a": 2, b"b": 1}),  # unsorted keys are read
        (b"d1:ai1e1:ai2ee", {b"a": 2}),  # of equal keys the last one counts
        (b"l" * 32 + b"e" * 32, nested(32)),
    ],
)
def test_values(kernel: ModuleType, data: bytes, value: Value) -> None:
    assert kernel.decode(data) == value
    assert kernel.decode_prefix(data + b"rest") == (value, len(data))


@BOTH
@pytest.mark.parametrize(
    ("data", "reason", "position"),
    [
        (b"", "unexpected end", 0),
        (b"x", "unexpected byte", 0),
        (b"e", "unexpected byte", 0),
        (b"-1:", "unexpected byte", 0),
        (b"ie", "malformed integer", 0),
        (b"i-e", "malformed integer", 0),
        (b"i-0e", "malformed integer", 0),
        (b"i01e", "malformed integer", 0),
        (b"i+1e", "malformed integer", 0),
        (b"li1", "malformed integer", 1),
        (b"i100000000000000000000e", "malformed integer", 0),
        (b"00:", "malformed string length", 0),
        (b"01:a", "malformed string length", 0),
        (b"l1", "malformed string length", 1),
        (b"1000000000:", "malformed string length", 0),
        (b"2:a", "string is cut off", 0),
        (b"999999999:a", "string is cut off", 0),
        (b"l", "unexpected end", 1),
        (b"d", "unexpected end", 1),
        (b"d1:a", "unexpected end", 4),
        (b"d1:ae", "unexpected byte", 4),
        (b"di1ei2ee", "dictionary key is not a string", 1),
        (b"d1:ai1ele", "dictionary key is not a string", 7),
        (b"i1ei2e", "trailing bytes", 3),
        (b"l" * 33 + b"e" * 33, "nested too deeply", 32),
        (b"d1:a" * 33 + b"e" * 33, "nested too deeply", 128),
        (b"l" * 100_000, "nested too deeply", 32),
    ],
)
def test_errors(kernel: ModuleType, data: bytes, reason: str, position: int) -> None:
    with pytest.raises(kernel.BencodeError) as caught:
        kernel.decode(data)
    assert (caught.value.reason, caught.value.position) == (reason, position)
    assert str(caught.value) == f"{reason} at byte {position}"
    assert isinstance(caught.value, ValueError)


@BOTH
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "bencode has no bool"),
        (None, "bencode has no NoneType"),
        ([b"a", "b"], "bencode has no str"),
        ((1,), "bencode has no tuple"),
        ({b"a": 1, "b": 2}, "bencode has no str as a dictionary key"),
        (10**20, "integer has more than 20 digits"),
        (-(10**20), "integer has more than 20 digits"),
        (nested(33), "nested more than 32 deep"),
    ],
)
def test_what_cannot_be_written(kernel: ModuleType, value: object, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{message}$"):
        kernel.encode(value)


@BOTH
def test_a_list_that_holds_itself_is_refused(kernel: ModuleType) -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested"):
        kernel.encode(endless)


@BOTH
def test_keys_are_sorted_and_long_messages_are_whole(kernel: ModuleType) -> None:
    value: Value = {b"b": b"x" * 5000, b"a": [b"y" * 700, -7], b"": 0, b"\xff": b"", b"ab": {}}
    assert kernel.encode(value) == (
        b"d0:i0e1:al700:" + b"y" * 700 + b"i-7ee2:abde1:b5000:" + b"x" * 5000 + b"1:\xff0:e"
    )


@BOTH
def test_limits_are_those_of_the_twin(kernel: ModuleType) -> None:
    assert (kernel.DEPTH_MAX, kernel.DIGITS_MAX) == (32, 20)
