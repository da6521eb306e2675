"""What aiohttp's parser complains of, in fixed words of ours. Its own are never shown: they quote the input, secrets too (faults.md D2)."""

from __future__ import annotations

from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from proxy.refusal import Refusal

MAX_LINE = 8190  # bytes of a request target
MAX_FIELD = 8256  # bytes of a header's name and value: an 8 KB token fits; differs from MAX_LINE, which tells 414 from 431


def refusal_of(error: BaseException) -> Refusal:
    """What the parser's complaint means to a client."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, LineTooLong):
        if error.args[1] == MAX_LINE:
            return Refusal(
                414, "target_too_long", f"the request target is longer than {MAX_LINE} bytes; send the data in the body", close=True
            )
        return Refusal(431, "headers_too_large", f"a header line is longer than {MAX_FIELD} bytes", close=True)
    complaint = error.message if isinstance(error, HttpProcessingError) else ""
    if complaint.startswith("Too many headers"):
        return Refusal(431, "headers_too_large", "the request has more than 128 header lines", close=True)
    if complaint.startswith("Bad status line:\n  Invalid HTTP version"):
        return wrong_version()
    what = _COMPLAINTS.get(complaint.partition(":\n")[0], "")
    return Refusal(400, "invalid_request", f"the request is not valid HTTP/1.1{what}", should_retry=False, close=True)


def wrong_version() -> Refusal:
    return Refusal(505, "version_not_supported", "Sluice speaks HTTP/1.1 and HTTP/1.0", should_retry=False, close=True)


_COMPLAINTS = {  # of llhttp and aiohttp → the same in fixed words of ours
    "Missing 'Host' header in request.": ": it has no Host",
    "Duplicate 'Host' header found.": ": Host stands more than once",
    "Received HTTPS traffic on an HTTP port": ": this is TLS, and here is plain HTTP; write http://",
    "Invalid character in Content-Length": ": Content-Length is no number",
    "Duplicate Content-Length": ": Content-Length stands more than once",
    "Transfer-Encoding can't be present with Content-Length": ": Content-Length and Transfer-Encoding exclude each other",
    "Content-Length can't be present with Transfer-Encoding": ": Content-Length and Transfer-Encoding exclude each other",
    "Request has invalid `Transfer-Encoding`": ": Transfer-Encoding must be chunked",
    "Invalid method encountered": ": the method is unknown",
    "Invalid header token": ": a header name holds what no name may hold",
    "Invalid header value char": ": a header value holds a control character",
}
