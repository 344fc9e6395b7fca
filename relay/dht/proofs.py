"""Which items' signatures hold: each is verified once, those that come together in one batch.

The same item reaches a node many times: from each node that stores it, for each caller that
wants it, in puts of others. And where many look-ups run, answers to several of them are read from
the socket together; a batch of sixteen signatures costs half of what they cost one by one.

Bounded: the verdicts on `VERDICTS_MAX` items, the oldest forgotten first.

Source: BEP 44; issue 4, section 2.
"""

from collections.abc import Iterable
from random import Random
from typing import Final

from relay import _kernels
from relay.dht.items import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, MutableItem
from relay.dht.traffic import Traffic

VERDICTS_MAX: Final = 1024


class Proofs:
    """Verifies items, and remembers for a while what came out.

    Args:
        rng: for the coefficients of a batch, which whoever signs must not know.
        traffic: where batches are counted.
    """

    def __init__(self, rng: Random, traffic: Traffic) -> None:
        self._rng = rng
        self._batches = traffic.batches
        self._verdicts: dict[MutableItem, bool] = {}

    def holds(self, item: MutableItem) -> bool:
        """Whether the signature is that of the item's key, as `MutableItem.verify`."""
        verdict = self._verdicts.get(item)
        if verdict is None:
            verdict = item.verify()
            self._batches.observe(1)
            self._remember(item, holds=verdict)
        return verdict

    def verify(self, items: Iterable[MutableItem]) -> None:
        """Verify items together, so that `holds` knows them; a single one is left to it."""
        unknown = [
            item
            for item in dict.fromkeys(items)
            if item not in self._verdicts
            and len(item.public_key) == PUBLIC_KEY_BYTES
            and len(item.signature) == SIGNATURE_BYTES
        ]
        if len(unknown) < 2:
            return
        self._batches.observe(len(unknown))
        verdicts = _kernels.verify_batch(
            [(item.public_key, item.signature, item.signable) for item in unknown],
            self._rng.randbytes,
        )
        for item, verdict in zip(unknown, verdicts, strict=True):
            self._remember(item, holds=verdict)

    def _remember(self, item: MutableItem, *, holds: bool) -> None:
        self._verdicts[item] = holds
        if len(self._verdicts) > VERDICTS_MAX:
            del self._verdicts[next(iter(self._verdicts))]
