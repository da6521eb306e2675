"""Coded bodies are read within bounds, at any split, or refused."""

import gzip
import itertools
import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.refusal import Refusal, UpstreamCut
from proxy.stream.coding import FREE, Inflater, decode, without_body_fields

TEXT = b'{"messages": "' + bytes(range(32, 127)) * 50 + b'"}'


def bare(data):
    engine = zlib.compressobj(wbits=-15)
    return engine.compress(data) + engine.flush()


CODED = {
    "gzip": gzip.compress(TEXT),
    "GZIP ": gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:]),
    "x-gzip": gzip.compress(TEXT),
    "deflate": zlib.compress(TEXT),
    " Deflate": bare(TEXT),
    "identity": TEXT,
    "": TEXT,
}


@pytest.mark.parametrize("encoding", CODED)
def test_known_codings_are_undone(encoding):
    assert decode(encoding, CODED[encoding], 1 << 20) == TEXT


def refused(encoding, data, limit=1 << 20):
    with pytest.raises(Refusal) as no:
        decode(encoding, data, limit)
    return no.value.status, no.value.code


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "gzip,deflate", "identity, gzip", "x"])
def test_what_cannot_be_read_is_415(encoding):
    assert refused(encoding, b"") == (415, "unsupported_encoding")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_garbage_is_400(encoding):
    assert refused(encoding, b"this is not compressed") == (400, "invalid_request")
    assert refused("gzip", gzip.compress(TEXT) + b"more") == (400, "invalid_request")
    assert refused("deflate", zlib.compress(TEXT) + b"more") == (400, "invalid_request")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_every_truncation_is_400(encoding):
    data = CODED[encoding]
    assert {refused(encoding, data[:size]) for size in range(1, len(data), 7)} == {(400, "invalid_request")}


def test_a_bomb_is_413_by_size_and_by_ratio():
    assert refused("gzip", gzip.compress(os.urandom(200_000)), limit=100_000) == (413, "too_large")
    bomb = gzip.compress(bytes(20 * FREE))
    assert len(bomb) * 100 < 20 * FREE
    assert refused("gzip", bomb, limit=1 << 30) == (413, "too_large")


def test_blanks_that_compress_well_are_no_bomb():
    assert decode("gzip", gzip.compress(b" " * FREE), 1 << 30) == b" " * FREE


def test_a_large_body_comes_out_whole():
    data = os.urandom(300_000) * 3
    assert decode("deflate", zlib.compress(data), 1 << 20) == data


@given(st.sampled_from(list(CODED)[:5]), st.lists(st.integers(0, 400), max_size=5))
def test_an_answer_comes_out_the_same_at_any_split(encoding, places):
    data = CODED[encoding]
    inflater = Inflater(encoding.strip().lower(), 1 << 20)
    edges = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    assert b"".join(inflater.feed(data[a:b]) for a, b in itertools.pairwise(edges)) == TEXT
    assert inflater.is_whole


def test_a_broken_or_exploding_answer_is_an_upstream_cut():
    with pytest.raises(UpstreamCut, match="broken content coding"):
        Inflater("gzip", 100).feed(b"garbage")
    with pytest.raises(UpstreamCut, match="too large"):
        Inflater("gzip", 100).feed(gzip.compress(bytes(1000)))


def test_what_describes_the_old_bytes_does_not_go_with_new_ones():
    kept = ((b"Content-Type", b"application/json"), (b"x-digest", b"1"))
    assert without_body_fields((*kept, (b"Content-MD5", b"1"), (b"Digest", b"1"), (b"CONTENT-ENCODING", b"gzip"))) == kept
