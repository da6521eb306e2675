"""Parts of a request that no text rule can read: what they are and how large. Decodes no picture, only its first bytes."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import replace

from proxy.dialect.fields import text
from proxy.dialect.wire import Asked, Media

HEAD = 4 * 16 * 1024  # characters of base64 in which a picture says its size: a JPEG's marks may stand behind a preview
_JPEG_SIZE = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]..\x08(..)(..)", re.DOTALL)


def kind_of_media(media_type: object) -> str:
    """image, audio, video, pdf or file, by a media type."""
    name = media_type.lower() if isinstance(media_type, str) else ""
    for kind in ("image", "audio", "video"):
        if name.startswith(f"{kind}/"):
            return kind
    return "pdf" if name == "application/pdf" else "file"


def media(kind: str, data: object = None, detail: object = None) -> Media:
    """`data`: what stands for the part in the body: base64, a data URL, or a reference that says nothing of its size."""
    given, wish = text(data) or "", (text(detail) or "").lower()
    start = 0
    if given.startswith("data:"):
        start = given.find(",", 0, 256) + 1 or len(given)
        kind = kind_of_media(given[5:start].partition(";")[0]) if kind == "file" else kind
    elif "://" in given[:32]:
        start = len(given)
    is_here = len(given) > start
    width, height = _pixels(given[start : start + HEAD]) if kind == "image" and is_here else (0, 0)
    return Media(kind, len(given) if is_here else 0, width, height, wish)


def with_media(asked: Asked, found: Sequence[Media]) -> Asked:
    if not found:
        return asked
    images = sum(one.kind == "image" for one in found)
    return replace(asked, images=asked.images + images, files=len(found) - images, media=tuple(found))


def distinct(found: Sequence[Media]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([one.kind for one in found])) if found else ()


def _pixels(encoded: str) -> tuple[int, int]:
    """Width and height of a PNG, JPEG, GIF or WebP; of what is none of these, (0, 0)."""
    try:
        head = base64.b64decode(encoded[: len(encoded) // 4 * 4])
    except (binascii.Error, ValueError):
        return 0, 0
    if head.startswith(b"\x89PNG"):
        return _big(head[16:20]), _big(head[20:24])
    if head.startswith(b"GIF8"):
        return _little(head[6:8]), _little(head[8:10])
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _webp(head)
    sizes = _JPEG_SIZE.findall(head) if head.startswith(b"\xff\xd8") else []  # a preview has a size of its own: the largest counts
    return max(((_big(width), _big(height)) for height, width in sizes), key=lambda size: size[0] * size[1], default=(0, 0))


def _webp(head: bytes) -> tuple[int, int]:
    match head[12:16]:
        case b"VP8X":
            return _little(head[24:27]) + 1, _little(head[27:30]) + 1
        case b"VP8L":
            bits = _little(head[21:25])
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            return _little(head[26:28]) & 0x3FFF, _little(head[28:30]) & 0x3FFF
    return 0, 0


def _big(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _little(data: bytes) -> int:
    return int.from_bytes(data, "little")
