"""The row of contacts against its twin: the same calls, the same row."""

from types import ModuleType
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay._pure import contacts as pure
from relay._pure.addresses import Address
from relay._pure.contacts import State
from relay._speedups import contacts as compiled
from relay.dht import krpc
from relay.dht.node_id import NodeInfo, secure_id
from tests.support.chance import seeded

BOTH = pytest.mark.parametrize("kernel", [compiled, pure], ids=["compiled", "pure"])
TARGET = bytes(20)
OWN_ID = b"\xff" * 20
OWN: Address = ("10.9.9.9", 6881)

RNG = seeded(1)
IPS = [
    *("10.0.0.1", "10.0.0.2", "127.0.0.1", "172.16.0.1", "172.31.2.3", "192.168.0.1"),
    *("169.254.3.4", "93.0.0.1", "93.0.0.2", "172.32.0.1", "192.167.0.1", "100.64.0.1"),
    *("0.1.2.3", "1.0.0.0", "223.255.255.255", "224.0.0.1", "255.255.255.255", "11.0.0.1"),
]
addresses = st.tuples(st.sampled_from(IPS), st.sampled_from([0, 1, 6881, 65535])) | st.just(OWN)
near = st.integers(0, 30).map(lambda distance: distance.to_bytes(20, "big"))
secure = st.sampled_from([secure_id(ip, RNG) for ip in IPS for _ in range(3)])
identifiers = near | secure | st.binary(min_size=20, max_size=20) | st.just(OWN_ID)
nodes = st.builds(NodeInfo, identifiers, addresses)
places = st.integers(0, 60)
steps = st.one_of(
    st.tuples(st.just("add"), nodes),
    st.tuples(st.just("add_address"), addresses),
    st.tuples(
        st.just("learn"),
        st.tuples(st.lists(nodes, max_size=12), st.binary(max_size=30), addresses),
    ),
    st.tuples(st.just("ask"), st.booleans()),
    st.tuples(st.just("limit_crowd"), near | identifiers),
    st.tuples(st.just("fill"), st.tuples(st.sampled_from([0, 20, 1 << 90]), st.integers(1, 2))),
    st.tuples(st.just("rename"), st.tuples(places, identifiers)),
    st.tuples(
        st.sampled_from(["on_response", "on_refusal", "on_slow", "on_late", "on_dead"]), places
    ),
)

Step: TypeAlias = tuple[str, object]


class Played:
    """A row of one of the twins, and every contact it has ever given out."""

    def __init__(self, kernel: ModuleType) -> None:
        self.row = kernel.Row(TARGET, OWN_ID, {OWN})
        self.given: list[compiled.Contact] = []

    def do(self, name: str, argument: object) -> None:
        match name, argument:
            case "learn", (list() as named, bytes() as rest, (str(), int()) as source):
                self.row.learn(krpc.pack_nodes(named) + rest, source)
            case "fill", (int() as nearest, int() as apart):
                for at in range(compiled.CANDIDATES_MAX - self.row.in_row):
                    distance = (nearest + at * apart).to_bytes(20, "big")
                    self.row.add(NodeInfo(distance, (f"10.{apart}.{at >> 8}.{at & 255}", 6881)))
            case "ask", bool() as suspect:
                contact = self.row.next_contact()
                if contact is not None:
                    self.given.append(contact)
                    self.row.on_sent(contact, suspect=suspect)
            case "rename", (int() as place, bytes() as node_id):
                if place < len(self.given):
                    self.row.rename(self.given[place], node_id)
            case (("on_response" | "on_refusal"), int() as place) if place < len(self.given):
                contact = self.given[place]
                answer = (contact.id or bytes(20),) if name == "on_response" else ()
                getattr(self.row, name)(contact, *answer, None)
            case _, int() as place:
                if place < len(self.given):
                    getattr(self.row, name)(self.given[place])
            case _:
                getattr(self.row, name)(argument)

    def facts(self) -> tuple[object, ...]:
        row = self.row
        following = row.next_contact()
        return (
            (row.sent, row.responded, row.waiting, row.slow, row.late),
            (row.in_row, row.known, row.machines),
            row.settled(),
            None if following is None else facts_of(following),
            [facts_of(contact) for contact in row.head()],
            [facts_of(contact) for contact in row.reached()],
            [facts_of(contact) for contact in row.responders()],
            [facts_of(contact) for contact in self.given],
        )


def facts_of(contact: compiled.Contact) -> tuple[object, ...]:
    return contact.address, contact.id, contact.state, contact.token


@settings(max_examples=300)
@given(st.lists(steps, max_size=60))
def test_rows_agree(history: list[Step]) -> None:
    rows = Played(compiled), Played(pure)
    for name, argument in history:
        for row in rows:
            row.do(name, argument)
        assert rows[0].facts() == rows[1].facts()


def test_crowded_rows_agree() -> None:
    """Where the row and the queries have their limits, and the farthest make room."""
    rng = seeded(2)
    rows = Played(compiled), Played(pure)
    for row in rows:
        row.do("limit_crowd", b"\0\0\0\x10" + bytes(16))
    for round_ in range(400):
        named = [
            NodeInfo(
                bytes(3) + rng.randbytes(17),
                (f"{rng.choice((10, 93))}.0.{rng.randrange(9)}.{rng.randrange(256)}", 6881),
            )
            for _ in range(45)
        ]
        for row in rows:
            row.do("learn", (named, b"", ("10.0.0.1", 1)))
            row.do("ask", False)
            row.do("ask", False)
            row.do("on_dead" if round_ % 16 else "on_response", round_)
        assert rows[0].facts() == rows[1].facts()
    assert rows[0].row.in_row == compiled.CANDIDATES_MAX
    assert rows[0].row.sent == compiled.QUERIES_MAX


distances = st.integers(0, 2**160 - 1) | st.sampled_from(
    [2**160 - 1, 2**160 - 2**30, 2**96 - 1, 2**96, 2**98 - 1, 2**32 - 1, 2**32, 2**34 - 1, 3, 4]
)


@settings(max_examples=500)
@given(distances, st.integers(-3, 3), st.booleans())
def test_rows_agree_where_a_place_ends(nearest: int, beyond: int, waiting: bool) -> None:
    """Ten contacts, one at the end of their place or beyond, and what is asked after them."""
    last = min(max(nearest + nearest // pure.CROWD_SPREAD + beyond, nearest + 10), 2**160 - 1)
    far = [min(last + at, 2**160 - 1) for at in range(1, 31)]
    rows = Played(compiled), Played(pure)
    for row in rows:
        for distance in {*(nearest + at for at in range(10)), last, *far}:
            if distance < 1 << 160:
                ip = f"10.0.{distance >> 8 & 255}.{distance & 255}"
                row.do("add", NodeInfo(distance.to_bytes(20, "big"), (ip, 6881)))
        for place in range(11):
            row.do("ask", False)
            if not waiting:
                row.do("on_response", place)
        for _ in range(30):
            row.do("ask", False)
    assert rows[0].facts() == rows[1].facts()


@BOTH
def test_misshapen_arguments_are_refused(kernel: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"^an identifier has 20 bytes$"):
        kernel.Row(bytes(19), OWN_ID, set())
    row = kernel.Row(TARGET, OWN_ID, set())
    with pytest.raises(ValueError, match=r"^an identifier has 20 bytes$"):
        row.add((bytes(21), OWN))
    with pytest.raises(ValueError, match=r"^an identifier has 20 bytes$"):
        row.rename(kernel.Contact(OWN), b"")
    with pytest.raises(ValueError, match=r"^an identifier has 20 bytes$"):
        row.limit_crowd(b"")
    for ip in ("", "1.2.3", "1.2.3.4.5", "1.2.3.x", "1..2.3", "::1"):
        with pytest.raises(ValueError, match=r"^not an IPv4 address"):
            row.add((bytes(20), (ip, 1)))
        with pytest.raises(ValueError, match=r"^not an IPv4 address"):
            row.add_address((ip, 1))


@BOTH
def test_the_constants_are_the_twins(kernel: ModuleType) -> None:
    assert (kernel.K, kernel.CANDIDATES_MAX) == (20, 400)
    assert (kernel.QUERIES_MAX, kernel.NODES_PER_ANSWER_MAX, kernel.CROWD_MAX) == (256, 40, 10)
    assert kernel.CROWD_SPREAD == 4
    contact = kernel.Contact(("10.0.0.1", 1), bytes(20), token=b"t")
    assert facts_of(contact) == (("10.0.0.1", 1), bytes(20), State.NEW, b"t")
