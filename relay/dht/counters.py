"""What a node has counted since its start, for `/stats` and for tests."""

from dataclasses import dataclass


@dataclass(slots=True)
class NodeCounters:
    """Numbers of datagrams unless the name says otherwise. They only ever grow."""

    queries_in: int = 0
    """Queries received, answered or not."""
    queries_out: int = 0
    """Queries sent. One that is tried a second time, because the node is slow, counts once; so
    does its answer: `queries_out` minus `responses_in` and `errors_in` are those without one."""
    queries_repeated: int = 0
    """Second tries."""
    replies_out: int = 0
    responses_in: int = 0
    """Responses to queries of ours."""
    errors_in: int = 0
    """Error replies to queries of ours."""
    unsolicited: int = 0
    """Answers to nothing we asked, from somebody else than we asked, too late, or to a second
    try after the first was answered."""
    timeouts: int = 0
    """Queries that nobody answered within the request time-out."""
    paced: int = 0
    """Queries that waited for their turn at an address."""
    dropped_pacing: int = 0
    """Queries that would have waited too long and were not sent."""
    dropped_budget: int = 0
    """Queries or replies beyond the budget of their source address."""
    dropped_filter: int = 0
    """Queries refused by the query filter (the configured DHT rate limit)."""
    dropped_malformed: int = 0
    """Datagrams that are no KRPC message."""
    dropped_outbox: int = 0
    """Replies dropped because too many datagrams waited to be sent."""
    items_invalid: int = 0
    """Values in answers that were not used: bad signature, wrong key or hash, too large."""
    lookups: int = 0
    """Look-ups started (not a number of datagrams)."""
    lookups_refused: int = 0
    """Look-ups and puts refused because too many were running."""
    puts: int = 0
    """Puts started (not a number of datagrams)."""
