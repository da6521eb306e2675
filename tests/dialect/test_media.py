"""Pictures, sound and files of a request: what kind, how many bytes of the body, and where it tells, how many pixels."""

import base64
import struct

import pytest

from proxy.dialect import dialect_of
from proxy.dialect.media import media
from proxy.dialect.wire import Media, Operation

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 640, 480) + b"\x08\x02"
GIF = b"GIF89a" + struct.pack("<HH", 32, 16)
JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF" + b"\0" * 9 + b"\xff\xc0\0\x11\x08" + struct.pack(">HH", 1080, 1920) + b"\x03"
PREVIEWED = b"\xff\xd8\xff\xe1\0\xff\xff\xc0\0\x11\x08" + struct.pack(">HH", 120, 160) + b"\x03" + b"\0" * 9000 + JPEG[19:]
VP8X = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + (799).to_bytes(3, "little") + (599).to_bytes(3, "little")
VP8L = b"RIFF\0\0\0\0WEBPVP8L\0\0\0\0\x2f" + ((99) | (49 << 14)).to_bytes(4, "little")
VP8 = b"RIFF\0\0\0\0WEBPVP8 \0\0\0\0\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 176, 144)


def b64(data):
    return base64.b64encode(data + b"\0" * 30).decode()


@pytest.mark.parametrize(
    ("data", "width", "height"),
    [(PNG, 640, 480), (GIF, 32, 16), (JPEG, 1920, 1080), (PREVIEWED, 1920, 1080), (VP8X, 800, 600), (VP8L, 100, 50), (VP8, 176, 144),
     (b"BM" + b"\0" * 40, 0, 0), (b"", 0, 0), (b"\x89PNG", 0, 0), (b"RIFF\0\0\0\0WEBPnone", 0, 0), (b"\xff\xd8", 0, 0)],
)  # fmt: skip
def test_a_picture_says_its_size_in_its_first_bytes(data, width, height):
    url = f"data:image/png;base64,{b64(data)}"
    assert media("image", url, "High") == Media("image", len(url), width, height, "high")


@pytest.mark.parametrize("data", [None, 7, "", "https://example.com/a.png", "data:image/png;base64,!!!!", "x" * 7, "é" * 40, "data:"])
def test_what_is_no_picture_has_no_size(data):
    found = media("image", data)
    assert (found.width, found.height) == (0, 0)
    assert found.size == (len(data) if isinstance(data, str) and data and "://" not in data and data != "data:" else 0)


@pytest.mark.parametrize(
    ("dialect", "name", "doc", "expected"),
    [
        ("openai", "chat", {"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{b64(PNG)}", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
            {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "wav"}},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,QUJD"}},
            {"type": "file", "file": {"file_id": "file-1"}}]}]},
         [("image", 640, "low"), ("image", 0, ""), ("audio", 0, ""), ("pdf", 0, ""), ("file", 0, "")]),
        ("openai", "responses", {"input": [{"role": "user", "content": [
            {"type": "input_image", "image_url": f"data:image/gif;base64,{b64(GIF)}", "detail": "high"},
            {"type": "input_file", "file_data": "data:application/pdf;base64,QUJD"}, {"type": "input_image", "file_id": "file-1"}]}]},
         [("image", 32, "high"), ("pdf", 0, ""), ("image", 0, "")]),
        ("anthropic", "messages", {"messages": [{"content": [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": b64(PNG)}},
            {"type": "image", "source": {"type": "url", "url": "https://x"}},
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "QUJD"}}]}]},
         [("image", 640, ""), ("image", 0, ""), ("pdf", 0, "")]),
        ("gemini", "generate", {"contents": {"parts": [{"inlineData": {"mimeType": "image/webp", "data": b64(VP8X)}},
                                                       {"file_data": {"mime_type": "video/mp4", "file_uri": "gs://b/c"}}]}},
         [("image", 800, ""), ("video", 0, "")]),
        ("cohere", "embeddings", {"images": [f"data:image/png;base64,{b64(PNG)}"]}, [("image", 640, "")]),
    ],
)  # fmt: skip
def test_each_dialect_names_its_parts(dialect, name, doc, expected):
    asked = dialect_of(dialect).read_asked(Operation(name), doc)
    assert [(one.kind, one.width, one.detail) for one in asked.media] == expected
    assert asked.images == sum(kind == "image" for kind, _, _ in expected)
    assert asked.files == len(expected) - asked.images
    for one in asked.media:
        assert bool(one.size) == (one.width > 0 or one.kind == "pdf" or (one.kind, dialect) == ("audio", "openai"))
