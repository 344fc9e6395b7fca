"""Which paths are what (protocol.md 4.1, issue 3 section 6)."""

import pytest

from relay.http.routes import Kind, Route, route_of


@pytest.mark.parametrize(
    ("path", "route"),
    [
        (b"/", Route(Kind.INDEX)),
        (b"/health", Route(Kind.HEALTH)),
        (b"/healthz", Route(Kind.HEALTH)),
        (b"/stats", Route(Kind.STATS)),
        (b"/openapi.json", Route(Kind.DESCRIPTION)),
        (b"/pkarr/openapi.json", Route(Kind.PACKET, b"openapi.json")),
        (b"/key", Route(Kind.PACKET, b"key")),
        (b"/k%2Fy", Route(Kind.PACKET, b"k%2Fy")),
        (b"/%68ealth", Route(Kind.PACKET, b"%68ealth")),
        (b"/pkarr", Route(Kind.PACKET, b"pkarr")),
        (b"/pkarr/key", Route(Kind.PACKET, b"key")),
        (b"/pkarr//key", Route(Kind.PACKET, b"key")),
        (b"/pkarr/", Route(Kind.UNKNOWN)),
        (b"/pkarr//", Route(Kind.UNKNOWN)),
        (b"/pkarr///key", Route(Kind.UNKNOWN)),
        (b"/pkarr/key/", Route(Kind.UNKNOWN)),
        (b"/key/", Route(Kind.UNKNOWN)),
        (b"//key", Route(Kind.UNKNOWN)),
        (b"//", Route(Kind.UNKNOWN)),
        (b"/a/b", Route(Kind.UNKNOWN)),
        (b"*", Route(Kind.UNKNOWN)),
        (b"relay.test:80", Route(Kind.UNKNOWN)),
        (b"", Route(Kind.UNKNOWN)),
    ],
)
def test_route(path: bytes, route: Route) -> None:
    assert route_of(path) == route


def test_allow_names_the_methods_of_a_path() -> None:
    assert route_of(b"/").allow == [(b"allow", b"GET,HEAD")]
    assert route_of(b"/stats").allow == [(b"allow", b"GET,HEAD")]
    assert route_of(b"/pkarr/key").allow == [(b"allow", b"GET,HEAD,PUT")]
    assert route_of(b"/a/b").allow == []
