"""Ports are never given out twice, even by two programs at the same time."""

import socket
import subprocess
import sys

from enginehouse.local.ports import HIGHEST, LOWEST, PortPool, is_free

_TAKE_FIFTY = """
from enginehouse.local.ports import PortPool
pool = PortPool()
print(*[pool.take() for _ in range(50)], flush=True)
input()
"""


def test_pools_of_two_processes_share_no_port() -> None:
    others = [
        subprocess.Popen([sys.executable, "-c", _TAKE_FIFTY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    taken = []
    try:
        for other in others:
            assert other.stdout
            taken += [int(port) for port in other.stdout.readline().split()]
    finally:
        for other in others:
            other.communicate("\n", timeout=10)
    assert len(taken) == 100
    assert len(set(taken)) == 100


def test_ports_lie_below_those_of_outgoing_connections() -> None:
    pool = PortPool()
    assert all(LOWEST <= pool.take() <= HIGHEST < 32_768 for _ in range(20))
    pool.close()


def test_a_port_somebody_listens_on_is_not_handed_out() -> None:
    pool = PortPool()
    port = pool.take()
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)
        other = PortPool()
        assert not other._lock(port)
        pool.release(port)
        assert not other._lock(port)
    assert other._lock(port)
    pool.close()
    other.close()
