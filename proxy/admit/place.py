"""The directory of a state: one process at a time, its own secret, private to its owner. Knows nothing of what is counted."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

SECRET_BYTES = 32
LEDGER = "ledger.sqlite"


class StateProblem(Exception):
    """The state cannot be used: one clear line for the operator (`serve` ends with exit code 78)."""


class Locked(StateProblem):
    """Another process has it."""


class Place:
    """An open, locked state directory."""

    def __init__(self, path: Path) -> None:
        """Creates the directory (mode 0700) where it is missing, and locks it. Raises StateProblem."""
        self.path = path
        try:
            if path.exists() and not path.is_dir():
                raise StateProblem(f"the state {path} is a file: give a directory")
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise unwritable(path, problem) from problem
        try:
            self._take_lock()
            self.secret = self._own_secret()
        except OSError as problem:
            os.close(self._lock)
            raise unwritable(path, problem) from problem
        except StateProblem:
            os.close(self._lock)
            raise

    def _take_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
            raise Locked(f"the state {self.path} is locked by process {holder}: stop it, or use another state") from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def _own_secret(self) -> bytes:
        """32 random bytes, made once: what keyed hashes of this state rest on."""
        path = self.path / "secret"
        if not path.exists():
            fresh = self.path / "secret.new"
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(os.urandom(SECRET_BYTES))
                file.flush()
                os.fsync(file.fileno())
            fresh.rename(path)
        secret = path.read_bytes()
        if len(secret) != SECRET_BYTES:
            raise StateProblem(f"{path} is damaged: restore it, or remove it and lose the names of pass-through callers")
        return secret

    def close(self) -> None:
        os.close(self._lock)  # which unlocks


def boot_id() -> str:
    """Of the machine, until it starts anew; "" where it does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def unwritable(path: Path, problem: OSError) -> StateProblem:
    return StateProblem(f"the state {path} cannot be written: {problem.strerror}")
