"""Whom Sluice trusts as a TLS client: this machine's authorities, loaded once. Knows no provider."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

FILE = "SSL_CERT_FILE"  # where OpenSSL takes the authorities from, if it is set


@cache
def authorities() -> ssl.SSLContext:
    """TLS 1.2 or later, HTTP/1.1 only. Loading them takes some 20 ms, which `sluice serve` spends on a thread as soon as it listens."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


@contextmanager
def left_to_us() -> Iterator[None]:
    """While aiohttp is imported: it loads the authorities for sessions that name none, and every session of ours names them.
    One that forgot would trust nobody that `SSL_CERT_FILE` alone vouches for."""
    named = os.environ.get(FILE)
    os.environ[FILE] = os.devnull
    try:
        yield
    finally:
        if named is None:
            del os.environ[FILE]
        else:
            os.environ[FILE] = named
