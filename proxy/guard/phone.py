"""Telephone numbers by the shapes in which people write them. Knows no country's number plan; a date, a price or an id is no phone."""

from __future__ import annotations

import re
from collections.abc import Iterable

from proxy.guard.recognise import NONE, Bounds, Recogniser, follows, is_word

_S = r"[ \x{a0}\x{202f}\-\x{2010}-\x{2013}]"  # between groups; a dot where a shape says so
_EXTENSION = r"(?:,? ?(?:x|(?i:ext)\.?) ?\d{1,5})?"
_NOT_DIGIT = re.compile(rb"\D+")
_DATE = re.compile(rb"(?:19|20)\d\d[-./ ](?:0[1-9]|1[0-2])[-./ ]|(?:0[1-9]|[12]\d|3[01])[-./](?:0[1-9]|1[0-2])[-./](?:19|20)\d\d")
_EXTENDED = re.compile(rb"[xXeE]")

_NANP = rf"(?:(?:\+?1|001)(?:{_S}|\.)?)?(?:\(\d{{3}}\)(?:{_S}|\.)?|\d{{3}}[.\-])\d{{3}}(?:{_S}|\.)\d{{4}}{_EXTENSION}"
_NANP_SPACED = rf"(?:(?:\+1|001){_S})?[2-9]\d{{2}} [2-9]\d{{2}}[ \-]\d{{4}}{_EXTENSION}"
_ABROAD = rf"\+[1-9](?:\)?(?:{_S}|[./])?\(?\d){{6,14}}{_EXTENSION}"
_ABROAD_00 = rf"00[1-9]\d{{0,2}}{_S}(?:\)?(?:{_S}|[./])?\(?\d){{6,12}}"
_TRUNK = rf"\(0\d{{1,4}}\){_S}?\d{{2,8}}(?:{_S}\d{{2,5}}){{0,3}}|0(?:\d{{1,4}}(?:{_S}|/)| \(\d{{2,4}}\) )\d{{2,8}}(?:{_S}\d{{2,5}}){{0,3}}"
_TRUNK_DOTTED = r"0\d(?:\.\d\d){4}"
_TRUNK_BARE = r"0[1-9]\d{9}"
_BRACKETED = rf"\(\d{{2,3}}\){_S}?\d{{3,5}}-\d{{3,4}}"

_BEHIND = r"(?:^|[^0-9A-Za-z_.\-/+$#]|\\[bfnrt])"  # what `strong` lets stand before a number, in JSON source too
_FULL = f"{_NANP}|{_NANP_SPACED}|{_ABROAD}|{_ABROAD_00}"
_NATIONAL = f"{_TRUNK}|{_TRUNK_DOTTED}|{_TRUNK_BARE}"

_NAMES = (
    r"(?:phone|tel|telephone|mobile|cell|cellphone|fax|whatsapp|handy|telefon|telefono|teléfono|téléphone|tél|portable|móvil)"
    r"(?: (?:number|no|nr))?|(?:call|reach|ring|text|dial)(?: (?:me|us|him|her|them))?(?: back)? (?:at|on)"
)
_VERBS = r"(?:call|dial|text|sms)(?: (?:me|us|him|her|them))?:? "


def strong(text: bytes, start: int, end: int) -> Iterable[Bounds]:
    """A shape that few other numbers have: 8 to 15 digits, no date, nothing that goes on before or behind it."""
    if (
        is_word(text, start - 1)
        or is_word(text, end)
        or follows(text, start, b".-/+$#")
        or _in_thousands(text, start)
        or _is_later_group(text, start)
        or _goes_on(text, end)
    ):
        return NONE
    value = text[start:end]
    number = _EXTENDED.split(value, maxsplit=1)[0]
    digits = _NOT_DIGIT.sub(b"", number)
    if not 8 <= len(digits) <= 15 or _DATE.search(number) or len(set(digits)) < 3:
        return NONE
    return ((start, end),)


def trunk(text: bytes, start: int, end: int) -> Iterable[Bounds]:
    """A national number with its leading 0: 9 to 11 digits."""
    digits = _NOT_DIGIT.sub(b"", text[start:end])
    return strong(text, start, end) if 9 <= len(digits) <= 11 else NONE


def said(text: bytes, start: int, end: int) -> Iterable[Bounds]:
    """Any 6 to 15 digits that the words before them call a telephone number."""
    digits = _NOT_DIGIT.sub(b"", text[start:end])
    return NONE if is_word(text, end) or not 6 <= len(digits) <= 15 or _DATE.search(text, start, end) else ((start, end),)


def _is_later_group(text: bytes, start: int) -> bool:
    """A 0 in the middle of something grouped by blanks (an IBAN, an account number)."""
    return text[start] == 0x30 and follows(text, start, b" ") and text[start - 2 : start - 1].isdigit()


def _in_thousands(text: bytes, start: int) -> bool:
    return follows(text, start, b",") and text[start - 2 : start - 1].isdigit()


def _goes_on(text: bytes, end: int) -> bool:
    return text[end : end + 1] in (b".", b"-", b"/", b",") and text[end + 1 : end + 2].isdigit()


_ANY = rf"\+?\(?\d(?:(?:{_S}|[.()/]){{0,2}}\d){{5,14}}"
PHONES = (
    Recogniser("phone", _FULL, strong, hint=f"{_BEHIND}(?:{_FULL})"),
    Recogniser("phone", _NATIONAL, trunk, hint=f"{_BEHIND}(?:{_NATIONAL})"),
    Recogniser("phone", _BRACKETED, strong, hint=_BEHIND + _BRACKETED),
    Recogniser(
        "phone",
        rf"(?:(?i:\b(?:{_NAMES}))\b|电话|手机|電話)[^\d\n]{{0,16}}?({_ANY})",
        said,
        1,
        hint=rf"(?i:{_NAMES}|电话|手机|電話)[^\d]{{0,40}}{_ANY}",
    ),
    Recogniser("phone", rf"(?i:\b{_VERBS})({_ANY})", said, 1, hint=rf"(?i:{_VERBS}){_ANY}"),
)
