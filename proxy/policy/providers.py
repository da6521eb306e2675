"""Provider entries of the policy and the built-in names → `plan.Provider`. Opens no connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from proxy.policy.builtin import BUILT_IN, FAMILIES, known
from proxy.policy.origin import origin_of
from proxy.policy.plan import Credential, Provider, Timeouts
from proxy.policy.problems import Path
from proxy.policy.secrets import Secrets
from proxy.policy.values import Ref

if TYPE_CHECKING:
    from proxy.policy.model import PolicyModel, ProviderEntry
    from proxy.policy.model_rules import TimeoutsPart


def compile_providers(model: PolicyModel, secrets: Secrets) -> Mapping[str, Provider]:
    """Every entry of the policy, and every built-in name that needs no url. The document's names are checked already."""
    found = {name: _provider(name, None, model, secrets) for name, one in BUILT_IN.items() if one.url and name not in model.providers}
    found |= {name: _provider(name, entry, model, secrets) for name, entry in model.providers.items()}
    return MappingProxyType(found)


def url_of(name: str, entry: ProviderEntry | None) -> str | None:
    """The entry's own, else the built-in one (Vertex by region)."""
    if entry is not None and entry.url is not None:
        return entry.url
    if name == "vertex" and entry is not None and entry.region:
        return f"https://{entry.region}-aiplatform.googleapis.com"
    return BUILT_IN[name].url if name in BUILT_IN else None


def timeouts_of(given: TimeoutsPart | None, rest: Timeouts) -> Timeouts:
    """What is named, over the rest; seconds."""
    return rest if given is None else replace(rest, **{name: getattr(given, name) for name in given.model_fields_set})


def _provider(name: str, entry: ProviderEntry | None, model: PolicyModel, secrets: Secrets) -> Provider:
    """Without an entry: the built-in one."""
    start, url = known(name, None if entry is None else entry.dialect), url_of(name, entry)
    if start is None or url is None:  # names.py has refused it; this keeps the types honest
        raise LookupError(f"provider {name} has no dialect or no url")
    origin = origin_of(url, allow_private=entry is not None and entry.allow_private)
    found = Provider(
        name=name,
        dialect=start.dialect,
        family=FAMILIES[start.dialect],
        origin=origin,
        root=start.root,
        price_id=start.price_id,
        timeouts=timeouts_of(model.timeouts, Timeouts()),
        asks_stream_usage=start.asks_stream_usage,
    )
    if entry is None:
        return found
    at: Path = ("providers", name)
    return replace(
        found,
        region=entry.region,
        api_version=entry.api_version,
        models=MappingProxyType(dict(entry.models)),
        credentials=_credentials(entry, secrets, at),
        set_headers=_set_headers(entry, secrets, at),
        remove_headers=frozenset(header.lower() for header in entry.headers.remove),
        timeouts=timeouts_of(entry.timeouts, found.timeouts),
        max_connections=entry.max_connections,
    )


def _credentials(entry: ProviderEntry, secrets: Secrets, at: Path) -> tuple[Credential, ...]:
    refs: list[tuple[Path, Ref]] = (
        [((*at, "key"), entry.key)] if entry.key else [((*at, "keys", index), ref) for index, ref in enumerate(entry.keys)]
    )
    return tuple(Credential(_credential_name(ref), secrets.line(ref, path)) for path, ref in refs)


def _credential_name(ref: Ref) -> str:
    return ref.name if ref.kind == "env" else ref.name.rstrip("/").rpartition("/")[2]


def _set_headers(entry: ProviderEntry, secrets: Secrets, at: Path) -> tuple[tuple[bytes, bytes], ...]:
    found = []
    for name, value in entry.headers.set.items():
        text = secrets.line(value, (*at, "headers", "set", name)) if isinstance(value, Ref) else value
        found.append((name.encode("ascii"), text.encode("utf-8")))
    return tuple(found)
