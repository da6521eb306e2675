"""What the system says of this process, by the names that all of Prometheus' libraries use. Where there is no /proc it says nothing."""

from __future__ import annotations

import os
from pathlib import Path

from proxy.record.series import number_text

_PROC = Path("/proc")


def process_text() -> bytes:
    """In the format of `series.text_of`."""
    try:
        after_name = (_PROC / "self/stat").read_bytes().rpartition(b")")[2].split()
        booted = int((_PROC / "stat").read_text().partition("\nbtime ")[2].split()[0])
        most_fds = (_PROC / "self/limits").read_text().partition("\nMax open files ")[2].split()[0]
        fds = len(os.listdir(_PROC / "self/fd"))
    except (OSError, IndexError):
        return b""
    ticks = os.sysconf("SC_CLK_TCK")
    user, system, started, virtual, pages = (int(after_name[at]) for at in (11, 12, 19, 20, 21))
    figures = (
        ("virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", virtual),
        ("resident_memory_bytes", "gauge", "Resident memory size in bytes.", pages * os.sysconf("SC_PAGE_SIZE")),
        ("start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", booted + started / ticks),
        ("cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", user / ticks + system / ticks),
        ("open_fds", "gauge", "Number of open file descriptors.", fds),
        ("max_fds", "gauge", "Maximum number of open file descriptors.", float(most_fds.replace("unlimited", "inf"))),
    )
    lines = (
        f"# HELP process_{name} {text}\n# TYPE process_{name} {type_}\nprocess_{name} {number_text(it)}\n"
        for name, type_, text, it in figures
    )
    return "".join(lines).encode()
