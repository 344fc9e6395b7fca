"""The cache: packets in memory, with SQLite as their durable shadow. Knows nothing of HTTP or DHT.

`PacketStore` is what the rest of the relay uses; it lives in `relay.store.worker`.
"""
