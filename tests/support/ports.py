"""A port for a server that is about to start. Holds none open until then, and gives none twice in a process."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

# Below the range from which the kernel takes the ports of outgoing connections (net.ipv4.ip_local_port_range, 32768 upwards): there a
# connection of anybody may take the port between the look at it and the server's bind. A node of a Cluster also listens 10000 above.
FIRST, LAST, BUS = 10_000, 32_767, 10_000

_given: set[int] = set()
_dice = random.SystemRandom()  # not seeded: the workers of one test run would all draw the same ports


def free_port(is_cluster: bool = False) -> int:
    """On 127.0.0.1, with the port BUS above it free too for a node of a Cluster."""
    last = LAST - BUS if is_cluster else LAST
    while True:
        port = _dice.randint(FIRST, last)
        wanted = {port, port + BUS} if is_cluster else {port}
        if not wanted & _given and all(_is_free(one) for one in wanted):
            _given.update(wanted)
            return port


def _is_free(port: int) -> bool:
    """Nobody has it on any address: some tests listen on all of them."""
    with socket.socket() as one, suppress(OSError):
        one.bind(("0.0.0.0", port))
        return True
    return False
