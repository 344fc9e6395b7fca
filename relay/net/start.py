"""Puts a DHT node of ours together: socket, node, driver, with real randomness and time."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal

import trio

from relay.dht.node import DhtNode
from relay.dht.node_id import NodeInfo
from relay.net.bootstrap import PUBLIC_ROUTERS
from relay.net.udp import DhtDriver, SavedNode
from relay.net.udp_socket import bind_udp, datagrams_held

if TYPE_CHECKING:
    from ipaddress import IPv4Address

REQUEST_TIMEOUT_S: Final = 2.0


def open_driver(
    *,
    port: int | None = None,
    bind_address: str | None = None,
    bootstrap: Sequence[tuple[str, int]] | None = None,
    server_mode: bool | Literal["auto"] = "auto",
    public_ip: IPv4Address | None = None,
    request_timeout_s: float = REQUEST_TIMEOUT_S,
    nodes: Sequence[SavedNode] = (),
    save_nodes: Callable[[list[SavedNode]], None] | None = None,
    query_filter: Callable[[str, float], bool] | None = None,
) -> DhtDriver:
    """Bind a socket and return a driver that is ready to run. Call it inside ``trio.run``.

    Args:
        port: UDP; None tries 6881, then any free one; 0 is any free one.
        bind_address: an IPv4 address of this host; None is all.
        bootstrap: (host, port) pairs; None is the public routers, empty is none.
        server_mode: answer the queries of others: always, never, or when reachable.
        public_ip: our address on the Internet, where it is known beforehand.
        request_timeout_s: how long one query may stay unanswered.
        nodes: a routing table saved earlier, asked before the bootstrap nodes.
        save_nodes: given the routing table now and then, for the next start.
        query_filter: tells whether to answer a query from an IP address at a monotonic time.

    Raises:
        StartupError: the port or address cannot be had.
    """
    sock = bind_udp(port, bind_address)
    node = DhtNode(
        rng=random.SystemRandom(),
        secret=secrets.token_bytes(32),
        now=trio.current_time(),
        local_address=sock.getsockname(),
        server_mode=server_mode,
        public_ip=None if public_ip is None else str(public_ip),
        nodes=[NodeInfo(node_id, (ip, node_port)) for node_id, ip, node_port in nodes],
        request_timeout_s=request_timeout_s,
        query_filter=query_filter,
    )
    # As many answers as fit the buffer may come at once; the node's own bound suits small ones.
    node.window = max(node.window, datagrams_held(sock))
    names = PUBLIC_ROUTERS if bootstrap is None else bootstrap
    return DhtDriver(node, sock, bootstrap=names, save_nodes=save_nodes)
