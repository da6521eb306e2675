"""Providers and targets of a policy: do they exist, and do they speak the caller's wire family? Translates nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from proxy.policy.builtin import BUILT_IN, FAMILIES, known
from proxy.policy.model import PolicyModel, ProviderEntry
from proxy.policy.origin import origin_of
from proxy.policy.problems import Path
from proxy.policy.providers import url_of
from proxy.policy.wording import did_you_mean

Homes = Mapping[str, str]  # usable provider → its dialect
VENDORS = (
    (re.compile(r"claude"), "anthropic"),
    (re.compile(r"gemini|gemma"), "gemini"),
    (re.compile(r"gpt-|o\d(-|$)|chatgpt|text-embedding-3|dall-e|whisper"), "openai"),
    (re.compile(r"command|c4ai|rerank-"), "cohere"),
)


def families_of(model: PolicyModel) -> Homes:
    """Every provider that a call may name: built in with a url, or an entry whose dialect is known."""
    found = {name: one.dialect for name, one in BUILT_IN.items() if one.url is not None}
    for name, entry in model.providers.items():
        if (start := known(name, entry.dialect)) is not None:
            found[name] = start.dialect
    return found


def check_provider(name: str, entry: ProviderEntry) -> Iterator[tuple[Path, str]]:
    """A name that is not built in needs a dialect and a url; a url must be an origin."""
    at: Path = ("providers", name)
    if name == "bedrock" or entry.dialect == "bedrock":
        return  # unsupported.py refuses it
    near = did_you_mean(name, BUILT_IN)
    if name not in BUILT_IN and entry.dialect is None:
        yield at, f"is not built in: needs `dialect` (openai, anthropic, gemini, cohere, azure-openai, vertex) and `url`{near}"
    elif name in BUILT_IN and entry.dialect not in (None, BUILT_IN[name].dialect):
        yield (*at, "dialect"), f"{name} is built in and speaks {BUILT_IN[name].dialect}; give an own provider another name"
    elif url_of(name, entry) is None:
        yield at, "needs `url`, the provider's origin, like https://example.openai.azure.com"
    if entry.region is not None and name == "vertex" and not re.fullmatch(r"[a-z0-9-]+", entry.region):
        yield (*at, "region"), "needs a Google region, like europe-west4"
    elif (url := url_of(name, entry)) is not None:
        try:
            origin_of(url, allow_private=entry.allow_private)
        except ValueError as error:
            yield (*at, "url"), str(error)


def check_target(path: Path, target: str, homes: Homes, asked: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """`provider/model` or a bare model; `asked`: the models (or provider/) whose calls go there."""
    provider, slash, model = target.partition("/")
    if not slash:
        provider = ""
    elif not model or "*" in target:
        yield path, "needs provider/model, one of each"
        return
    elif provider not in homes:
        fix = "; it needs a `url` under `providers:`" if provider in BUILT_IN else did_you_mean(provider, homes)
        yield path, f"no provider of this name{fix} (a model that has a slash itself is written provider/vendor/model)"
        return
    there = FAMILIES[homes[provider]] if provider else _vendor(target)
    here = {family for one in asked if (family := _family(one, homes)) is not None}
    if provider and homes[provider] == "vertex":
        yield path, "vertex takes the caller's own token, so that no other provider's call can go there"
    elif there is not None and here and there not in here:
        yield path, f"speaks {there}'s wire format, these calls {' or '.join(sorted(here))}'s; Sluice translates no messages"


def _family(asked: str, homes: Homes) -> str | None:
    provider, slash, model = asked.partition("/")
    if slash and provider in homes:
        return FAMILIES[homes[provider]]
    return _vendor(model if slash else asked)


def _vendor(model: str) -> str | None:
    return next((family for pattern, family in VENDORS if pattern.match(model)), None)
