"""The real SDK clients, made as their documentation says, one per base URL, key and flavour for the whole session. Changes no default."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import anthropic
import cohere
import openai
from google import genai
from mistralai.client import Mistral
from support.sdk.house import House

FLAVOURS = ("sync", "async")
TAILS = {"openai": "/v1"}  # of the base URL that an SDK wants; the others take the bare origin


class Clients:
    """`clients.of("openai", "sync", origin, key)`; an async client's methods give awaitables of the same names as the sync client's."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._made: dict[tuple[str, str, str, str], Any] = {}

    def of(self, sdk: str, flavour: str, origin: str, key: str = "sk-the-callers-own") -> Any:
        known = (sdk, flavour, origin, key)
        if known not in self._made:
            self._made[known] = self._house.run(_made(*known, self._house.closers))
        return self._made[known]


async def _made(sdk: str, flavour: str, origin: str, key: str, closers: list[Callable[[], Any]]) -> Any:
    is_async, base = flavour == "async", origin + TAILS.get(sdk, "")
    client: Any
    match sdk:
        case "openai":
            client = (openai.AsyncOpenAI if is_async else openai.OpenAI)(base_url=base, api_key=key)
            closers.append(client.close)
        case "azure":
            made = openai.AsyncAzureOpenAI if is_async else openai.AzureOpenAI
            client = made(azure_endpoint=base, api_key=key, api_version="2025-04-01-preview")
            closers.append(client.close)
        case "anthropic":
            client = (anthropic.AsyncAnthropic if is_async else anthropic.Anthropic)(base_url=base, api_key=key)
            closers.append(client.close)
        case "gemini":
            whole = genai.Client(api_key=key, http_options={"base_url": base})
            client = whole.aio if is_async else whole
            closers.append(client.aclose if is_async else whole.close)
        case "cohere":
            client = (cohere.AsyncClientV2 if is_async else cohere.ClientV2)(api_key=key, base_url=base)
            closers.append(lambda: _left(client))
        case "mistral":
            both = Mistral(api_key=key, server_url=base)
            closers.append(lambda: _left(both))
            client = _Awaited(both) if is_async else both
        case _:
            raise ValueError(sdk)
    return client


async def _left(client: Any) -> None:
    """Closes what can be closed only by leaving its `with`."""
    for leave in ("__aexit__", "__exit__"):
        if hasattr(client, leave):
            closing = getattr(client, leave)(None, None, None)
            if inspect.isawaitable(closing):
                await closing


class _Awaited:
    """The mistral client has one class with `complete` and `complete_async`: here the second goes by the name of the first."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        awaited = getattr(self._inner, name + "_async", None)
        return awaited if awaited is not None else _Awaited(getattr(self._inner, name))
