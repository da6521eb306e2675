"""Takes whatever looks like a key out of text, and names out of sight. Decides by shape alone: the last line of defence, not the first."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable

import re2

GONE = "[redacted]"
_KEYS = re.compile(
    r"(?<![A-Za-z0-9])(?:slk|sk|pk|rk|gsk|xai|pplx|nvapi|hf|r8)[-_][A-Za-z0-9_-]{8,}"  # vendors' prefixes, and our own
    r"|(?<![A-Za-z0-9])(?:AIza|AKIA|ASIA)[A-Za-z0-9_-]{12,}"
    r"|(?i:(?<![a-z])(?:bearer|basic)[ =:]+)[A-Za-z0-9._~+/=-]{4,}"
    r"|(?<![A-Za-z0-9])e[yw][A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)*"  # a JWT
    r"|(?P<run>[A-Za-z0-9_-]{32,})"
)
_HINT = re2.compile(  # finds no fewer
    rb"(?:slk|sk|pk|rk|gsk|xai|pplx|nvapi|hf|r8)[-_][A-Za-z0-9_-]{8}|(?:AIza|AKIA|ASIA)[A-Za-z0-9_-]{12}"
    rb"|(?i:bearer|basic)[ =:]+[A-Za-z0-9._~+/=-]{4}|e[yw][A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4}|[A-Za-z0-9]{20}"
)
_DENSE = re.compile(r"[A-Za-z0-9]{20}")  # a UUID has 12 letters and digits in a row at most, model names fewer than 20
_TRACE_ID = re.compile(  # or an id of our own, or a UUID, which nothing is taken out of anyway
    r"(?:req[_-])?[0-9a-f]{32}|slu-[0-9a-f]{16}-[0-9a-f]{1,16}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)
_SHORTEST = 11  # of what `_KEYS` can match
_HIDDEN = re.compile(r"id:[0-9a-f]{12}")


def may_hold_key(line: bytes) -> bool:
    """False: nothing in this JSON would be scrubbed."""
    return _HINT.search(line) is not None


def scrubbed(text: str) -> str:
    """The text without what has the shape of a credential."""
    return _KEYS.sub(_gone, text) if len(text) >= _SHORTEST else text


def scrubbed_id(text: str) -> str:
    """A request id, likewise; the 32 hex digits of a trace id stay, as they are the habit of half the world, and ours do."""
    return text if _TRACE_ID.fullmatch(text) else scrubbed(text)


def _gone(found: re.Match[str]) -> str:
    run = found["run"]
    return GONE if run is None or _DENSE.search(run) else run


def plain(name: str) -> str:
    return name


def hidden_by(secret: bytes) -> Callable[[str], str]:
    """How names show where `observe.identities` is `hashed`: `id:` and 12 hex digits of a keyed hash; what shows so already stays."""

    def hidden(name: str) -> str:
        if _HIDDEN.fullmatch(name):
            return name
        return "id:" + hmac.new(secret, b"identity\0" + name.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:12]

    return hidden
