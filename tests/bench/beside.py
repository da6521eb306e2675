"""What others take of the machine while something is measured: a process forgotten on the target's core spoils every latency. Ends none."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

QUIET = 1.0  # per cent of a core, of all others together


class Beside:
    """From here to `taken`: processes that are none of `own`, asked at either end. The kernel's threads are left out: they work for all."""

    def __init__(self, own: Callable[[], Collection[int]], cpu_of: Callable[[int], float]) -> None:
        self._own, self._cpu_of, self._began = own, cpu_of, time.monotonic()
        self._before = self._others()

    def taken(self) -> dict[str, float]:
        """Per cent of a core since then, by name and number; what is below 0.1 is left out."""
        took_s = time.monotonic() - self._began
        shares = {who: round(100 * (cpu_s - self._before.get(who, 0.0)) / took_s, 1) for who, cpu_s in self._others().items()}
        return {who: share for who, share in shares.items() if share >= 0.1}

    def _others(self) -> dict[str, float]:
        """Who, and the seconds of CPU so far."""
        own, found = set(self._own()), {}
        for path in Path("/proc").iterdir():
            if path.name.isdigit() and (pid := int(path.name)) not in own:
                with suppress(OSError):  # it has gone
                    if (path / "cmdline").read_bytes():
                        found[f"{(path / 'comm').read_text(errors='replace').strip()} ({pid})"] = self._cpu_of(pid)
        return found


def worded(taken: Mapping[str, float]) -> str:
    """What is wrong, and what to do about it; empty where it is quiet."""
    if sum(taken.values()) < QUIET:
        return ""
    each = ", ".join(f"{who} {share:.1f} %" for who, share in sorted(taken.items(), key=lambda one: -one[1]))
    return f"others took {sum(taken.values()):.1f} % of a core ({each}); end them, and measure again"
