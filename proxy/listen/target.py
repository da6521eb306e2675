"""Reads a raw request-target into a Route. Never decodes or normalises: what two readers could read in two ways is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

from proxy.exchange import Route
from proxy.policy.plan import Provider
from proxy.refusal import Refusal

MAX_TARGET = 8190  # bytes; faults.md H43

_NOT_PRINTABLE = re.compile(r"[^!-~]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HIDDEN_IN_PATH = re.compile(r"%(?:[01][0-9a-f]|7f|2e|5c)", re.IGNORECASE)  # controls, "." and "\": H36 to H40
_SLASH = re.compile("%2f", re.IGNORECASE)
_NAMED = frozenset({"model", "models", "deployments"})  # what follows is one name and may hold an encoded slash (ARNs, org/model)
_DOTS = frozenset({"", ".", ".."})

_OPENAI_OPERATION = re.compile(
    r"/(?:chat/completions|completions|responses|embeddings|images/(?:generations|edits|variations)|moderations|realtime"
    r"|audio/(?:speech|transcriptions|translations)|models|files|batches|uploads|fine_tuning|vector_stores|rerank)(?:/|$)"
)
_CHAT = re.compile(r"/chat/completions$")
_ANTHROPIC_OPERATION = re.compile(r"/(?:messages|models)(?:/|$)")
_GEMINI_OPERATION = re.compile(r"/models(?:/|$)")
_AZURE_ROOT, _ANTHROPIC_ROOT = "/openai/v1", "/v1"

# Without a prefix, the first shape that fits names the dialect (ecosystem.md section 14, d).
_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"/v1/(?:messages|complete)(?:/|$)|/messages(?:/|$)"), "anthropic"),
    (re.compile(r"/v1(?:beta1)?/projects/|/ws/google\.cloud\.aiplatform\."), "vertex"),
    (
        re.compile(
            r"/(?:upload/)?v1(?:beta|alpha)/|/ws/google\.ai\.|(?:/v1)?/models/[^/]+:(?:generate|streamGenerate|embed|batch|asyncBatch|count)\w*$"
        ),
        "gemini",
    ),
    (re.compile(r"/openai/deployments/"), "azure-openai"),
    (re.compile(r"/model/[^/]+/(?:converse|invoke)"), "bedrock"),
    (re.compile(r"/v2/(?:chat|embed|rerank)(?:/|$)|/v1/(?:chat|generate|embed|rerank|tokenize|detokenize|classify)$"), "cohere"),
)
_DIALECT_HOME = {"azure-openai": "azure"}  # built-in provider names that differ from their dialect's
_SHARED_BY_DIALECTS = re.compile(r"(?:/v1)?/(?:models|files|batches)(?:/|$)")  # decided by the caller's headers


def route(raw_target: str, fields: Mapping[str, str], providers: Mapping[str, Provider], default_provider: str) -> Route:
    """Where a request-target of origin form goes. `fields` only settles `/v1/models` and its like.

    Raises Refusal 414 `target_too_long`, 400 `invalid_request` (faults.md H30 to H44), 404 `unknown_provider`.
    """
    path, mark, query = raw_target.partition("?")
    _check(raw_target, path)
    name, rest = _prefixed(path, providers) or _recognised(path, fields, providers, default_provider)
    rest = _with_root(rest, providers[name])
    return Route(name, rest, query, rest + mark + query)


def _check(target: str, path: str) -> None:
    if len(target) > MAX_TARGET:
        raise Refusal(
            414, "target_too_long", f"the request target is longer than {MAX_TARGET} bytes; send the data in the body", close=True
        )
    if not path.startswith("/"):
        raise _bad("the request target must begin with a slash: Sluice is a reverse proxy, it does not fetch URLs")
    if _NOT_PRINTABLE.search(target) or "#" in target or _BAD_ESCAPE.search(target):
        raise _bad("the request target holds a character or an escape that no URL may hold")
    if "//" in path or "\\" in path or _HIDDEN_IN_PATH.search(path):
        raise _bad("the path holds an empty segment, a backslash, or an encoded dot, backslash or control character")
    segments = path.split("/")
    if any(segment.partition(";")[0] in (".", "..") for segment in segments):
        raise _bad("the path holds a dot segment")
    if "%2" in path and any(_hides_a_slash(before, segment) for before, segment in pairwise(segments)):
        raise _bad("the path holds an encoded slash outside a model name")


def _hides_a_slash(before: str, segment: str) -> bool:
    parts = _SLASH.split(segment)
    return len(parts) > 1 and (before not in _NAMED or not _DOTS.isdisjoint(parts))


def _prefixed(path: str, providers: Mapping[str, Provider]) -> tuple[str, str] | None:
    first, _, rest = path[1:].partition("/")
    if first == "azure" and first not in providers:
        first = _home_of("azure-openai", providers, "") or first
    if first not in providers or path.startswith("/openai/deployments/"):  # AzureOpenAI without a prefix, not the provider openai
        return None
    return first, "/" + rest


def _recognised(path: str, fields: Mapping[str, str], providers: Mapping[str, Provider], default: str) -> tuple[str, str]:
    dialect = next((dialect for shape, dialect in _SHAPES if shape.match(path)), None)
    if dialect is None and _SHARED_BY_DIALECTS.match(path):
        dialect = "anthropic" if "anthropic-version" in fields else "gemini" if "x-goog-api-key" in fields else None
    if dialect is not None:
        name = _home_of(dialect, providers, default)
    else:
        name = default if path.startswith("/v1/") or _OPENAI_OPERATION.match(path) else None
    if name is None or name not in providers:
        raise _unknown(path, providers)
    return name, path


def _home_of(dialect: str, providers: Mapping[str, Provider], default: str) -> str | None:
    """The provider that a shape of this dialect means: the default one, the built-in one, else the only one that speaks it."""
    for name in (default, _DIALECT_HOME.get(dialect, dialect)):
        if name in providers and providers[name].dialect == dialect:
            return name
    speaking = [name for name, provider in providers.items() if provider.dialect == dialect]
    return speaking[0] if len(speaking) == 1 else None


def _with_root(path: str, provider: Provider) -> str:
    """The tolerances of ecosystem.md section 14 (a): a missing, doubled or foreign root of a known operation; else unchanged."""
    while path.startswith("/v1/v1/"):
        path = path[3:]
    if provider.dialect == "openai":
        # a provider without a root (Perplexity) serves only its chat there, and newer operations under /v1
        return _with_openai_root(path, provider.root, _OPENAI_OPERATION if provider.root else _CHAT)
    if provider.dialect == "azure-openai" and not path.startswith("/openai/"):
        return "/openai" + path if path.startswith("/deployments/") else _with_openai_root(path, _AZURE_ROOT, _OPENAI_OPERATION)
    if provider.dialect == "anthropic" and _ANTHROPIC_OPERATION.match(path):
        return _ANTHROPIC_ROOT + path
    if provider.dialect == "gemini" and _GEMINI_OPERATION.match(path):
        return (provider.root or "/v1beta") + path
    return path


def _with_openai_root(path: str, root: str, operation: re.Pattern[str]) -> str:
    bare = path
    for known in (root, "/v1"):
        if known and bare.startswith(known + "/"):
            bare = bare[len(known) :]
    return root + bare if operation.match(bare) else path


def _bad(why: str) -> Refusal:
    return Refusal(400, "invalid_request", why, should_retry=False, close=True)


def _unknown(path: str, providers: Mapping[str, Provider]) -> Refusal:
    served = ", ".join(f"/{name}" for name in sorted(providers))
    fix = (
        "; azure needs its endpoint: set providers.azure.url in the policy" if path.startswith(("/azure/", "/openai/deployments/")) else ""
    )
    return Refusal(404, "unknown_provider", f"no provider is served under this path; served are {served}{fix}", should_retry=False)
