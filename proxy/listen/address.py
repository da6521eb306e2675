"""Where the edge listens, and for how many. Opens no listener."""

from __future__ import annotations

import errno
import os
import resource
import socket
import stat


def read_listen(listen: str) -> tuple[str, int] | str:
    """("host", port), or the path of a unix socket. Raises ValueError that says what is wanted."""
    if listen.startswith("unix:") and len(listen) > len("unix:"):
        return listen[len("unix:") :]
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{listen!r} is no address to listen on: write HOST:PORT or unix:/path")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)  # ":8080" means every interface


def remove_stale(path: str) -> None:
    """The socket file of a process that is gone. Raises OSError (EADDRINUSE) where one still answers, or the path is no socket."""
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        if not is_socket or probe.connect_ex(path) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, "already in use", path)
    os.unlink(path)


def most_connections() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 100_000 if soft == resource.RLIM_INFINITY else int(0.8 * soft / 2)  # two sockets a stream
