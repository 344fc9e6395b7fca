-- The durable shadow of the packet table. One file, made by relay/store/database.py, which also
-- sets application_id and user_version (1: this schema), WAL and incremental auto-vacuum.
--
-- Every row carries the CRC-32 of its other columns, so that a row spoiled on the disk is skipped
-- instead of served. Times are microseconds since 1970.

-- A rowid table with an index on the key: inserting under random keys is about three times faster
-- than WITHOUT ROWID, whose leaves hold the whole rows. The key finds a row on demand and when it
-- is written or deleted; the id gives the start-up scan its sequential order, newest first.
CREATE TABLE packets (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,       -- 32 bytes, ed25519 public key
    last_seen_us INTEGER NOT NULL,
    payload BLOB NOT NULL,          -- signature (64) || timestamp (8) || dns, as in relay bodies
    checksum INTEGER NOT NULL       -- CRC-32 of key || last_seen_us (8 bytes, big endian) || payload
);

-- What was evicted: an older packet of that key is refused for a while. Replacing a floor gives it
-- a new id, so ids follow the order of eviction and the oldest go first.
CREATE TABLE floors (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    timestamp BLOB NOT NULL,        -- 8 bytes, big endian: SQLite has no unsigned 64-bit integer
    evicted_us INTEGER NOT NULL,
    checksum INTEGER NOT NULL       -- CRC-32 of key || timestamp || evicted_us (8 bytes, big endian)
);

-- The order of use, most recent first, in pieces of 8192 keys, pieces in the order of their ids;
-- written as a whole now and then, because touching a row for every read would cost more than
-- serving it. While a new generation is being written the older one is still there and complete.
CREATE TABLE recency (
    id INTEGER PRIMARY KEY,
    generation INTEGER NOT NULL,
    newest_id INTEGER NOT NULL,     -- largest packets.id then; packets above it came later
    keys BLOB NOT NULL,             -- 32 bytes each
    checksum INTEGER NOT NULL       -- CRC-32 of keys
);

-- The DHT routing table, read once at the start and replaced as a whole.
CREATE TABLE nodes (
    position INTEGER PRIMARY KEY,
    node_id BLOB NOT NULL,          -- 20 bytes
    ip TEXT NOT NULL,
    port INTEGER NOT NULL,
    checksum INTEGER NOT NULL       -- CRC-32 of node_id || ip (ASCII) || port (2 bytes, big endian)
);
