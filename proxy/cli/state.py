"""Which state a URL names. Opens nothing."""

from __future__ import annotations

import os
from pathlib import Path

from proxy.admit.fleet.address import SCHEMES, read_address
from proxy.states import Fleet, StatePlace


def state_place(url: str) -> StatePlace:
    """Also of a shared state. Raises ValueError, which never repeats a URL that may hold a password."""
    if url.partition("://")[0] in SCHEMES:
        return Fleet(read_address(url), _home())
    return state_path(url)


def state_path(url: str) -> Path | None:
    """`sqlite:PATH` → PATH, `sqlite:` → the default directory of this user, `memory:` → None. Raises ValueError for anything else."""
    if url == "memory:":
        return None
    if url.partition("://")[0] in SCHEMES:
        raise ValueError("a shared state is asked through a running process: name its admin listener with --admin")
    scheme, colon, path = url.partition(":")
    if scheme != "sqlite" or not colon:
        raise ValueError(f"the state {scheme + ':' if colon else url!r} is not supported: use sqlite:PATH, redis://… or memory:")
    try:
        return Path(path).expanduser() if path else default_state()
    except RuntimeError:  # ~ of a user who has none, or of nobody
        raise ValueError(f"the state {url!r} has no home directory to stand in: give its whole path") from None


def _home() -> Path:
    try:
        return default_state()
    except RuntimeError:
        raise ValueError("the journal of the shared state has no home directory to stand in: name it with ?journal=PATH") from None


def default_state() -> Path:
    """Per user (XDG base directories): ~/.local/state/sluice. Raises RuntimeError where the user has no home."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "sluice"
