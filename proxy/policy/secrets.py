"""Adapter: env: and file: references → secrets. The only file of this room that reads a secret; it never shows one."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path as FilePath

from proxy.policy.document import Document
from proxy.policy.problems import Path, Problem
from proxy.policy.values import Ref

MAX_SECRET = 64 * 1024  # bytes; a certificate chain is smaller


class Secrets:
    """Resolves references and collects what is wrong; `problems` is looked at once, at the end."""

    def __init__(self, document: Document, environ: Mapping[str, str], base: FilePath, *, resolve: bool = True) -> None:
        self._document, self._environ, self._base, self._resolve = document, environ, base, resolve
        self.problems: list[Problem] = []
        self.warnings: list[str] = []

    def text(self, ref: Ref, path: Path) -> str:
        """The secret, one trailing newline stripped; "" where it is missing (a problem is noted) or not to be resolved."""
        if not self._resolve:
            return ""
        try:
            found = self._env(ref) if ref.kind == "env" else self._file(ref)
        except (LookupError, OSError, ValueError) as error:
            self.problems.append(self._document.problem(path, _fix(ref, error)))
            return ""
        return found

    def line(self, ref: Ref, path: Path) -> str:
        """A secret that goes into a header: one line of printable ASCII."""
        if not ((found := self.text(ref, path)).isascii() and (not found or found.isprintable())):
            self.problems.append(self._document.problem(path, f"{ref} is not one line of ASCII, which a header needs"))
            return ""
        return found

    def optional(self, ref: Ref | None, path: Path) -> str | None:
        """None stays None."""
        return None if ref is None else self.text(ref, path)

    def _env(self, ref: Ref) -> str:
        return _clean(self._environ[ref.name])

    def _file(self, ref: Ref) -> str:
        file = secret_file(ref, self._base)
        with file.open("rb") as stream:
            if stat.S_IMODE(mode := file.stat().st_mode) & stat.S_IROTH and stat.S_ISREG(mode):
                self.warnings.append(f"{ref} can be read by every user of this machine: chmod o-r it")
            raw = stream.read(MAX_SECRET + 1)
        if len(raw) > MAX_SECRET:
            raise ValueError("is larger than 64 KiB")
        return _clean(raw.decode("utf-8"))


def secret_file(ref: Ref, base: FilePath) -> FilePath:
    """`file:path`, relative to the policy's folder."""
    return base / FilePath(ref.name).expanduser()


def secret_files(document: Document, base: FilePath) -> tuple[FilePath, ...]:
    """Every secret file that the policy names."""
    return tuple(dict.fromkeys(secret_file(ref, base) for _, ref in document.references if ref.kind == "file"))


def _clean(raw: str) -> str:
    text = raw[:-2] if raw.endswith("\r\n") else raw.removesuffix("\n")
    if not text.strip():
        raise ValueError("is empty")
    if any(ord(char) < 32 and char not in "\t\r\n" for char in text):
        raise ValueError("holds a control character")
    return text


def _fix(ref: Ref, error: Exception) -> str:
    if ref.kind == "env":
        return f"{ref} is not set; set the environment variable {ref.name}" if isinstance(error, KeyError) else f"{ref} {error}"
    if isinstance(error, UnicodeDecodeError):
        return f"{ref} is not UTF-8 text"
    if isinstance(error, OSError):
        return f"{ref} cannot be read ({error.strerror}); the path is relative to the policy's folder"
    return f"{ref} {error}"
