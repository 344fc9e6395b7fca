# What the parity tests ask of the front lane's parts; a piece of front.pyx.

def read_request(bytes data not None):
    """Return what the parser makes of the bytes of a client: None for more, False for not ours.

    Otherwise method, key (None for /health), policy, whether all fields are plain, forwarded,
    close, origin, if-none-match, if-modified-since, bytes of the head and of the body.
    """
    cdef fr_request request
    cdef fr_verdict verdict
    if not data:
        return None
    verdict = fr_parse(<const uint8_t *> PyBytes_AS_STRING(data), len(data), &request)
    if verdict == FR_MORE:
        return None
    if verdict == FR_HAND_OVER:
        return False
    return (
        _KINDS[request.method].upper(),
        (<char *> request.key)[:32] if request.has_key else None,
        ("CacheFirst", "CacheOnly", "NetworkOnly")[request.policy],
        request.plain,
        request.forwarded > 0,
        request.close,
        _text(request.origin),
        _text(request.none_match),
        _text(request.since),
        request.head_bytes,
        request.body_bytes,
    )


cdef object _text(fr_slice value):
    return None if value.at is NULL else (<char *> value.at)[:value.size]


def read_client(
    bytes head not None, bytes address not None, *, trusted, exempt, bint behind_proxy,
    unsigned ipv6_prefix,
):
    """Return whose budget a request draws on, as the lane finds it.

    Args:
        head: of the request.
        address: the peer's, 4 or 16 bytes.
        trusted: as for `Lane`, like those that follow.

    Returns:
        What the client is counted by, whether it is exempt, whether the peer's connections are
        counted by its address; or None: the lane leaves it to others.
    """
    cdef fr_request request
    cdef fw_rules rules
    cdef fc_key known
    cdef fw_peer peer
    cdef fw_client client
    cdef bint found = True
    if len(address) not in (4, 16):
        raise ValueError("no address")
    if fr_parse(<const uint8_t *> PyBytes_AS_STRING(head), len(head), &request) != FR_REQUEST:
        return None
    memset(&rules, 0, sizeof(fw_rules))
    try:
        _read_rules(&rules, trusted, exempt, behind_proxy, ipv6_prefix)
        known = fp_address(<const uint8_t *> PyBytes_AS_STRING(address), len(address))
        peer = fw_judge(&rules, known)
        client = peer.itself
        if request.forwarded and peer.forwards:
            found = fw_find(&rules, &request, known, &client)
    finally:
        free(rules.trusted)
        free(rules.exempt)
    if not found:
        return None
    return (<char *> client.client.octets)[:client.client.size], client.exempt, peer.capped


def span_of(uint64_t ns):
    """Return the step that counts an answer of so many nanoseconds."""
    return fl_span(ns)


def format_http_date(uint64_t timestamp_us):
    """Return an IMF-fixdate, as `relay.http.httpdate` does."""
    cdef uint8_t text[FD_BYTES]
    fd_write(text, timestamp_us)
    return (<char *> text)[:FD_BYTES].decode()


def parse_http_date(bytes text not None):
    """Return microseconds since 1970, or None for anything but a right IMF-fixdate."""
    cdef uint64_t timestamp_us
    if not fd_read(<const uint8_t *> PyBytes_AS_STRING(text), len(text), &timestamp_us):
        return None
    return timestamp_us
