"""A pair of each version of iroh meets through relays in containers; tests/iroh has the rest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.iroh.places import Containers, containers
from tests.iroh.steps import VERSIONS, Iroh, dial, listen, published, through

SYNC_BYTES = 10_000_000


@pytest.fixture(scope="module")
def place(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    with containers(image, tmp_path_factory.mktemp("iroh"), machines=2) as found:
        yield found


@pytest.mark.parametrize("iroh", VERSIONS, ids=lambda iroh: iroh.version)
def test_one_publishes_to_a_relay_and_the_other_finds_it_through_another(
    place: Containers, iroh: Iroh
) -> None:
    with listen(place, 0, iroh, through(place.a)) as far:
        key = str(far.ready["key"])
        published(place.a, key)
        assert place.b.get(key, "CacheOnly").status == 404
        dial(place, 1, iroh, through(place.b), key)


@pytest.mark.parametrize("iroh", VERSIONS, ids=lambda iroh: iroh.version)
def test_a_service_finds_the_relay_by_its_name_and_moves_ten_megabytes(
    place: Containers, iroh: Iroh
) -> None:
    url = f"http://{place.a.container.name}:8080/pkarr"
    sent, received = place.folder / "sent", place.folder / f"received-{iroh.version}"
    sent.write_bytes(bytes(range(250)) * (SYNC_BYTES // 250))
    with place.listen(0, iroh.sync, "--pkarr", url, "--send", place.path(sent), "listen") as far:
        met = place.run(
            *(1, iroh.sync, "--pkarr", url, "--receive", place.path(received)),
            *("dial", far.ready["key"]),
        )
    assert met["ok"], met
    assert received.read_bytes() == sent.read_bytes()
