"""Which directory a state URL names. Opens nothing."""

from __future__ import annotations

import os
from pathlib import Path


def state_path(url: str) -> Path | None:
    """`sqlite:PATH` → PATH, `sqlite:` → the default directory of this user, `memory:` → None. Raises ValueError for anything else."""
    if url == "memory:":
        return None
    scheme, colon, path = url.partition(":")
    if scheme != "sqlite" or not colon:
        raise ValueError(f"the state {scheme + ':' if colon else url!r} is not supported: use sqlite:PATH or memory:")
    return Path(path).expanduser() if path else default_state()


def default_state() -> Path:
    """Per user (XDG base directories): ~/.local/state/sluice."""
    home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "sluice"
