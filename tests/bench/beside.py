"""What others take of the machine while something is measured: a process forgotten on the target's core spoils every latency. Ends none."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

QUIET = 1.0  # per cent of a core, of all others together
TICK = os.sysconf("SC_CLK_TCK")


class Beside:
    """From here to `taken`: processes that are not of the tree of `own`. Threads of the kernel are left out: they work for all."""

    def __init__(self, own: int | None = None) -> None:
        self._own, self._began = own or os.getpid(), time.monotonic()
        self._before = dict(_others(self._own))

    def taken(self) -> dict[str, float]:
        """Per cent of a core since then, by name and number; what is below 0.1 is left out."""
        took_s = time.monotonic() - self._began
        shares = {who: round(100 * (cpu_s - self._before.get(who, 0.0)) / took_s, 1) for who, cpu_s in _others(self._own)}
        return {who: share for who, share in shares.items() if share >= 0.1}


def worded(taken: Mapping[str, float]) -> str:
    """What is wrong, and what to do about it; empty where it is quiet."""
    if sum(taken.values()) < QUIET:
        return ""
    each = ", ".join(f"{who} {share:.1f} %" for who, share in sorted(taken.items(), key=lambda one: -one[1]))
    return f"others took {sum(taken.values()):.1f} % of a core ({each}); end them, and measure again"


def _others(own: int) -> Iterator[tuple[str, float]]:
    """Who, and the seconds of CPU so far."""
    found = {int(path.name): stat for path in Path("/proc").iterdir() if path.name.isdigit() and (stat := _stat(path)) is not None}
    for pid, (name, _, cpu_s) in found.items():
        above = pid
        while above in found and above != own:
            above = found[above][1]
        if above != own:
            yield f"{name} ({pid})", cpu_s


def _stat(path: Path) -> tuple[str, int, float] | None:
    """Name, parent, seconds of CPU; nothing of a process that has gone, or of a thread of the kernel."""
    try:
        text, is_program = (path / "stat").read_text(errors="replace"), (path / "cmdline").read_bytes()
    except OSError:
        return None
    before, _, after = text.rpartition(")")
    stat = after.split()
    return (before.partition("(")[2], int(stat[1]), (int(stat[11]) + int(stat[12])) / TICK) if is_program else None
