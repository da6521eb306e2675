"""Which directory a state URL names. Opens nothing."""

from __future__ import annotations

import os
from pathlib import Path

from proxy.policy.unsupported import state_problem


def state_path(url: str) -> Path | None:
    """`sqlite:PATH` → PATH, `sqlite:` → the default directory of this user, `memory:` → None. Raises ValueError for anything else."""
    if url == "memory:":
        return None
    if (message := state_problem(url)) is not None:
        raise ValueError(f"the state is {message}")
    scheme, colon, path = url.partition(":")
    if scheme != "sqlite" or not colon:
        raise ValueError(f"the state {scheme + ':' if colon else url!r} is not supported: use sqlite:PATH or memory:")
    try:
        return Path(path).expanduser() if path else default_state()
    except RuntimeError:  # ~ of a user who has none, or of nobody
        raise ValueError(f"the state {url!r} has no home directory to stand in: give its whole path") from None


def default_state() -> Path:
    """Per user (XDG base directories): ~/.local/state/sluice. Raises RuntimeError where the user has no home."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "sluice"
