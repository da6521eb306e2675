"""What an application is told by its SDK, and what the provider saw of it, straight or through Sluice. Repairs nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any

from pydantic import BaseModel
from support.provider import Script, Seen
from support.sdk.clients import Clients
from support.sdk.house import House

Call = Callable[[Any], Any]
FINALS = ("get_final_message", "get_final_completion", "get_final_response")  # of the stream helpers
TOLD = ("status_code", "status", "code", "type", "param", "message", "api_message", "error_code", "body", "details", "request_id")
OF_THE_PROVIDER = ("content-type", "x-request-id", "request-id", "retry-after", "retry-after-ms", "x-ratelimit-remaining-requests")
NOT_COMPARED = ("connection",)  # hop by hop (RFC 9110, 7.6.1): Sluice's own connection to the provider
BOUNDARY = re.compile(rb"boundary=([0-9A-Za-z'()+_,./:=?-]+)")


@dataclass
class Told:
    """`seen` is the provider's side: one entry per attempt."""

    value: Any = None
    events: list[Any] = field(default_factory=list)
    error: dict[str, Any] | None = None
    raised: Exception | None = field(default=None, compare=False)
    seen: list[dict[str, Any]] = field(default_factory=list)

    @property
    def attempts(self) -> int:
        return len(self.seen)


class Ways:
    """Drives one call either way."""

    def __init__(self, house: House, clients: Clients) -> None:
        self._house, self._clients = house, clients

    def straight(self, sdk: str, flavour: str, call: Call, script: Script) -> Told:
        return self.at(self._house.provider.url, sdk, flavour, call, script)

    def through(self, policy: str, sdk: str, flavour: str, call: Call, script: Script, key: str | None = None) -> Told:
        """The sidecar of `policy`, by the SDK's provider prefix."""
        return self.at(f"{self._house.sluice(policy).url}/{sdk}", sdk, flavour, call, script, key)

    def client(self, origin: str, sdk: str, flavour: str, key: str | None = None) -> Any:
        return self._clients.of(sdk, flavour, origin, *([key] if key else []))

    def at(self, origin: str, sdk: str, flavour: str, call: Call, script: Script, key: str | None = None) -> Told:
        client, told = self.client(origin, sdk, flavour, key), Told()
        with self._house.answering(script) as seen:
            if flavour == "async":
                self._house.run(_awaited(lambda: call(client), told))
            else:
                _called(lambda: call(client), told)
            told.seen = [_request(one) for one in seen]
        return told


def _called(call: Callable[[], Any], told: Told) -> None:
    try:
        got = call()
        if not _is_stream(got):
            told.value = plain(got)
            return
        manager: AbstractContextManager[Any] = got if hasattr(got, "__enter__") else nullcontext(got)
        with manager as stream:
            for event in stream:
                told.events.append(plain(event))
            told.value = [plain(getattr(stream, name)()) for name in FINALS if hasattr(stream, name)]
    except Exception as error:
        told.error, told.raised = _error(error), error


async def _awaited(call: Callable[[], Any], told: Told) -> None:
    try:
        got = call()
        if isawaitable(got):
            got = await got
        if not _is_stream(got):
            told.value = plain(got)
            return
        async with got if hasattr(got, "__aenter__") else nullcontext(got) as stream:
            async for event in stream:
                told.events.append(plain(event))
            told.value = [plain(await getattr(stream, name)()) for name in FINALS if hasattr(stream, name)]
    except Exception as error:
        told.error, told.raised = _error(error), error


def _is_stream(got: Any) -> bool:
    return not isinstance(got, BaseModel) and any(hasattr(got, way) for way in ("__next__", "__anext__", "__enter__", "__aenter__"))


def plain(value: Any) -> Any:
    """Of any SDK's object: its type's name and all its fields, the HTTP response of google-genai and httpx excepted."""
    match value:
        case BaseModel():
            fields = value.model_dump(mode="json", warnings=False, exclude={"sdk_http_response"})
            return {"(type)": type(value).__qualname__, "(request_id)": getattr(value, "_request_id", None), **fields}
        case dict():
            return {name: plain(one) for name, one in value.items()}
        case list() | tuple():
            return [plain(one) for one in value]
        case _ if hasattr(value, "response") and hasattr(value, "content"):
            return value.content
    return value


def _error(error: Exception) -> dict[str, Any]:
    response = getattr(error, "response", None) or getattr(error, "raw_response", None)
    headers = getattr(error, "headers", None) or getattr(response, "headers", None) or {}
    return {
        "(type)": type(error).__qualname__,
        **{name: plain(getattr(error, name)) for name in TOLD if hasattr(error, name)},
        "headers": {name: headers[name] for name in OF_THE_PROVIDER if name in headers},
    }


def _request(seen: Seen) -> dict[str, Any]:
    """As the provider got it; a multipart boundary, which is drawn anew for each request, by a fixed name."""
    body, headers = seen.body, sorted((n.lower(), v) for n, v in seen.headers if n.lower() not in NOT_COMPARED)
    if drawn := BOUNDARY.search((seen.header("content-type") or "").encode()):
        body = body.replace(drawn[1], b"BOUNDARY")
        headers = [(n, v.replace(drawn[1].decode(), "BOUNDARY")) for n, v in headers]
    return {"method": seen.method, "target": seen.target, "headers": headers, "body": body}
