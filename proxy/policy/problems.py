"""What is wrong with a policy, where it stands and what to write instead. Never repeats a value that could be a secret."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]

SECRET = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:sk|slk)[-_][A-Za-z0-9_-]{8,}|(?:gsk_|xai-|pplx-|fw_|tgp_)[A-Za-z0-9_-]{20,}"
    r"|AIza[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{12,}|gh[pousr]_[A-Za-z0-9]{20,}|eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,})"
)
URL_PASSWORD = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:[^/\s@]*:[^/\s@]+@|\S*[?&]sentinel_password=[^&\s])")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to fix. `line` and `col` count from 1; 0: the file as a whole."""

    file: str
    line: int
    col: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.col}" if self.line else self.file
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class PolicyErrors(Exception):
    """All that is wrong with a policy, at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = sorted(set(problems), key=lambda one: (one.file, one.line, one.col, one.path, one.message))
        super().__init__("\n".join(map(str, self.problems)))


class SecretError(PolicyErrors):
    """References that lead to no secret: each problem names the reference and the fix, never a value."""


def looks_secret(value: str) -> bool:
    """A key, or a URL with a password in it."""
    return SECRET.search(value) is not None or URL_PASSWORD.search(value) is not None


def shown(name: object) -> str:
    """A name as it may be shown: short, one line, no secret."""
    text = str(name)
    if looks_secret(text):
        return "(secret)"
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= 60 else text[:57] + "..."


def path_text(path: Path) -> str:
    """("limits", 0, "per") → "limits[0].per"."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else ("." if out else "") + shown(part)
    return out
