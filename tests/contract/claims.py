"""What Sluice may change on the way, each claim a rule with its reason. All else must be identical, byte for byte."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from contract.recordings import Exchange, usage_chunk
from contract.wire import Message, name_of

HOP_BY_HOP = (b"connection", b"transfer-encoding", b"keep-alive")
READABLE = (b"gzip", b"deflate", b"identity")
PLACEHOLDER = re.compile(rb"\[(?:EMAIL|PHONE|CREDIT_CARD|IBAN|US_SSN|IP_ADDRESS)_[1-9][0-9]*\]")
ASKING = b'"stream_options":{"include_usage":true},'
STREAMS = (b"text/event-stream", b"application/stream+json")
TOLD_AS_CUT = re.compile(rb'data: \{"error":\{[^{}]*"code":"upstream_cut"\}\}\n\n')


@dataclass(frozen=True)
class Claim:
    """`apply` gives the message as it must be on the other side; the same one where the claim says nothing."""

    name: str
    reason: str
    apply: Callable[[Exchange, Message], Message]


# --- the request, from the client to the provider ---


def _prefix(exchange: Exchange, message: Message) -> Message:
    return replace(message, start=message.start.replace(f" /{exchange.entry.name}/".encode(), b" /", 1))


def _host(exchange: Exchange, message: Message) -> Message:
    arrived = exchange.arrived.get(b"host") if exchange.arrived else None
    assert arrived is not None and re.fullmatch(rb"127\.0\.0\.1:[0-9]+", arrived)
    return replace(message, lines=(b"Host: " + arrived, *message.without(b"host").lines))


def _request_hop_by_hop(_: Exchange, message: Message) -> Message:
    return message.without(*HOP_BY_HOP)


def _request_cookies(_: Exchange, message: Message) -> Message:
    return message.without(b"cookie")


def _codings(_: Exchange, message: Message) -> Message:
    said = message.get(b"accept-encoding")
    if said is None:
        return message
    kept = [coding for coding in said.split(b", ") if coding.partition(b";")[0] in READABLE]
    return _with_line(message, b"accept-encoding", b", ".join(kept) or b"identity")


def _asked(exchange: Exchange, message: Message) -> Message:
    if not exchange.asks_in_vain:
        return message
    message = _with_line(message, b"accept-encoding", b"identity")
    return replace(message, body=b"{" + ASKING + message.body.removeprefix(b"{"))


def _masked(exchange: Exchange, message: Message) -> Message:
    """What stands for a placeholder is not looked at; every byte around it is."""
    return replace(message, body=exchange.arrived.body) if exchange.arrived and stood_for(exchange) else message


def stood_for(exchange: Exchange) -> dict[bytes, bytes]:
    """Placeholder → the text in whose place it arrived at the provider; empty where nothing was masked, or more than that was changed."""
    arrived = exchange.arrived.body if exchange.arrived else b""
    names = PLACEHOLDER.findall(arrived)
    if not names or not _says_masked(exchange):
        return {}
    around = b'([^"]+?)'.join(re.escape(part) for part in PLACEHOLDER.split(arrived))
    found = re.fullmatch(around, _asked(exchange, exchange.sent).body, re.DOTALL)
    return dict(zip(names, found.groups(), strict=True)) if found else {}


def _says_masked(exchange: Exchange) -> bool:
    return exchange.received is not None and b"masked" in (exchange.received.get(b"x-sluice-guard") or b"")


def _request_framing(_: Exchange, message: Message) -> Message:
    if message.get(b"content-length") is None:
        return message
    lines = message.without(b"content-length").lines
    return replace(message, lines=(*lines, b"Content-Length: %d" % len(message.body)))


REQUEST = (
    Claim("prefix", "the first segment of the path names the provider entry and is not the provider's", _prefix),
    Claim("host", "Host names the provider, not Sluice", _host),
    Claim("hop-by-hop", "Connection speaks of one connection only (RFC 9110, 7.6.1)", _request_hop_by_hop),
    Claim("cookies", "cookies are stripped both ways", _request_cookies),
    Claim("codings", "Accept-Encoding is narrowed to what the meter reads: br and zstd go", _codings),
    Claim("stream usage", "an OpenAI stream that would not state its usage is asked to, uncompressed", _asked),
    Claim("masked", "personal data leaves as placeholders, where the policy says mask", _masked),
    Claim("framing", "Content-Length is written anew, behind all other lines", _request_framing),
)


# --- the answer, from the provider to the client ---


def _answer_hop_by_hop(_: Exchange, message: Message) -> Message:
    return message.without(b"connection", b"keep-alive")


def _answer_cookies(_: Exchange, message: Message) -> Message:
    return message.without(b"set-cookie")


def _usage_chunk(exchange: Exchange, message: Message) -> Message:
    """The one chunk that our provider adds because it is asked; every recorded one stays."""
    return replace(message, body=message.body.replace(usage_chunk(), b"", 1)) if exchange.gains_usage else message


def _cut(exchange: Exchange, message: Message) -> Message:
    """The streams of the OpenAI paths whose provider, not being OpenAI, ends without [DONE]."""
    if not (exchange.has_no_end and exchange.received):
        return message
    told = TOLD_AS_CUT.search(exchange.received.body)
    return replace(message, body=message.body + (told[0] if told else b"<told as cut>"), is_whole=False)


def _restored(exchange: Exchange, message: Message) -> Message:
    if not _says_masked(exchange):
        return message
    if message.get(b"content-encoding") == b"gzip":
        message = replace(message.without(b"content-encoding"), body=gzip.decompress(message.body))
    values = stood_for(exchange)
    return replace(message, body=PLACEHOLDER.sub(lambda found: values.get(found[0], found[0]), message.body))


def _answer_framing(exchange: Exchange, message: Message) -> Message:
    bare = message.without(b"content-length", b"transfer-encoding")
    if message.status == 204:
        return bare
    keeps = message.get(b"content-length") is not None and not (message.get(b"content-type") or b"").startswith(STREAMS)
    keeps = keeps and not _says_masked(exchange)
    framing = b"Content-Length: %d" % len(message.body) if keeps else b"Transfer-Encoding: chunked"
    return replace(bare, lines=(*bare.lines, framing))


def _ours(exchange: Exchange, message: Message) -> Message:
    """Between the provider's lines and the framing, and only names and values that are documented."""
    assert exchange.received is not None
    id_ = re.escape(exchange.id.encode())
    known = {
        b"x-sluice-request-id": id_,
        b"x-request-id": id_ if message.get(b"x-request-id") is None else b"(?!)",
        b"server-timing": rb"sluice;dur=[0-9]+\.[0-9]",
        b"x-sluice-provider": re.escape(exchange.entry.name.encode()),
        b"x-sluice-attempts": b"1",
        b"x-sluice-reserved-usd": rb"[0-9]+\.[0-9]{9}",
        b"x-sluice-guard": rb"(?:(?:flagged|masked)(?: [a-z_]+=[1-9][0-9]*)+(?:; |$))+",
    }
    framing = tuple(line for line in message.lines if name_of(line) in (b"content-length", b"transfer-encoding"))
    theirs = tuple(line for line in message.lines if line not in framing)
    added = [line for line in exchange.received.lines if name_of(line) in known and line not in theirs]
    right = tuple(line for line in added if re.fullmatch(known[name_of(line)], line.partition(b":")[2].strip()))
    missing = tuple(b"<no %b>" % name for name in (b"x-sluice-request-id", b"server-timing") if name not in map(name_of, right))
    return replace(message, lines=(*theirs, *right, *missing, *framing))


ANSWER = (
    Claim("hop-by-hop", "Connection speaks of one connection only (RFC 9110, 7.6.1)", _answer_hop_by_hop),
    Claim("cookies", "cookies are stripped both ways", _answer_cookies),
    Claim("stream usage", "the usage chunk that Sluice itself asked for is taken out again", _usage_chunk),
    Claim("cut", "a stream without its dialect's last event is told as cut, and not ended cleanly (faults.md U21)", _cut),
    Claim("restored", "masked values come back, and to that end a compressed answer travels on decoded", _restored),
    Claim("framing", "Content-Length stays, event streams are chunked by us, and so is what ended with the connection", _answer_framing),
    Claim("ours", "x-sluice-*, a server-timing of our own, and x-request-id where the provider sent none", _ours),
)


def expected(exchange: Exchange, claims: tuple[Claim, ...], message: Message, used: Counter[str]) -> Message:
    for claim in claims:
        changed = claim.apply(exchange, message)
        used[claim.name] += changed != message
        message = changed
    return message


def differences(exchange: Exchange, used: dict[str, Counter[str]]) -> Iterator[str]:
    """Empty where everything on both sides is as it was sent, but for the claims."""
    if exchange.problem or exchange.arrived is None or exchange.answered is None or exchange.received is None:
        received = exchange.received
        yield exchange.problem or f"never arrived: {received.start.decode()} {received.body[:200]!r}" if received else "no answer"
        return
    pairs = (
        ("at the provider", exchange.arrived, expected(exchange, REQUEST, exchange.sent, used["request"])),
        ("at the client", exchange.received, expected(exchange, ANSWER, exchange.answered, used["answer"])),
    )
    for where, seen, wanted in pairs:
        for part in ("start", "lines", "is_whole"):
            if getattr(seen, part) != getattr(wanted, part):
                yield f"{part} {where}: {getattr(seen, part)} and not {getattr(wanted, part)}"
        if seen.body != wanted.body:
            yield f"body {where}: {_first_difference(seen.body, wanted.body)}"


def _first_difference(seen: bytes, wanted: bytes) -> str:
    at = next((at for at, (a, b) in enumerate(zip(seen, wanted, strict=False)) if a != b), min(len(seen), len(wanted)))
    return f"{len(seen)} bytes and not {len(wanted)}; from byte {at}: {seen[at : at + 80]!r} and not {wanted[at : at + 80]!r}"


def _with_line(message: Message, name: bytes, value: bytes) -> Message:
    """The line's value replaced, its name as spelt; nothing where it does not stand."""
    lines = tuple(line.partition(b":")[0] + b": " + value if name_of(line) == name else line for line in message.lines)
    return replace(message, lines=lines)
