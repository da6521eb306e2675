"""The ports of the servers that tests and benchmarks start: nobody else takes one before the server has it."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path

import pytest
from support.ports import BUS, LAST, free_port

OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")


@pytest.mark.skipif(not OUTGOING.exists(), reason="only Linux says from where outgoing connections take their ports")
@pytest.mark.parametrize("is_cluster", [False, True])
def test_no_outgoing_connection_takes_the_port_of_a_server_that_is_about_to_start(is_cluster: bool) -> None:
    first, _ = map(int, OUTGOING.read_text().split())
    if first <= LAST:
        pytest.skip(f"outgoing connections take theirs from {first} upwards here: servers start in that range too")
    ports = {free_port(is_cluster) for _ in range(200)}
    assert len(ports) == 200
    assert max(ports) + (BUS if is_cluster else 0) < first


def test_a_port_that_somebody_listens_on_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        port = free_port()
        taken.bind(("127.0.0.1", port))
        drawn = itertools.count(port)
        monkeypatch.setattr("support.ports._given", set())
        monkeypatch.setattr("support.ports._dice.randint", lambda *_: next(drawn))
        assert free_port() > port
