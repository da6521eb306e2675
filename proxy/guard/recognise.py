"""What each class of personal data looks like, and what proves it: checksums, number plans, neighbours. Phones: `guard/phone.py`.

Patterns are for google-re2 over UTF-8: linear time, no look-around, so what stands around a match is checked here.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

Bounds = tuple[int, int]
Check = Callable[[bytes, int, int], Iterable[Bounds]]  # text, start and end of a candidate → the values in it

GAP = r"[ \x{a0}\x{2009}\x{202f}\-\x{2010}-\x{2013}]"  # what people put between groups; longer in UTF-8, so groups are cut by _GAPS
_BEHIND = r"(?:^|[^0-9A-Za-z_]|\\[bfnrt])"  # where `is_word` is false, in JSON source too
_GAPS = re.compile(rb"[^0-9A-Za-z]+")
_ONE_GAP = re.compile(rb"[ -]|\xc2\xa0|\xe2\x80[\x89\x90-\x93\xaf]")  # GAP, in UTF-8
NONE: tuple[Bounds, ...] = ()
_WORD = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_DIGITS = frozenset(b"0123456789")
_LOCAL = _WORD | frozenset(b".%+'-") | frozenset(range(0x80, 0x100))  # bytes that the local part of an address may end with


@dataclass(frozen=True, slots=True)
class Recogniser:
    """`pattern` finds candidates, `group` of it is the value. `hint` finds no fewer of those that prove good, on JSON source too."""

    entity: str
    pattern: str
    check: Check
    group: int = 0
    hint: str = ""


def is_word(text: bytes, at: int) -> bool:
    """Is there a letter, digit or underscore of ASCII at `at`? (Other scripts write numbers without blanks around.)"""
    return 0 <= at < len(text) and text[at] in _WORD and not _is_escape(text, at)


def _is_escape(text: bytes, at: int) -> bool:
    r"""Source code and logs spell a line break `\n`: its letter belongs to no word."""
    return text[at] in b"nrt" and at > 0 and text[at - 1] == 0x5C


def follows(text: bytes, at: int, before: bytes) -> bool:
    return at > 0 and text[at - 1] in before


def email(text: bytes, start: int, end: int) -> Iterable[Bounds]:
    """RFC 5321 lengths; no file name of a picture (`logo@2x.png`)."""
    while text[start] in b".'-%+" or _is_escape(text, start):
        start += 1
    local, _, domain = text[start:end].rpartition(b"@")
    if not 0 < len(local) <= 64 or len(domain) > 253:
        return NONE
    return NONE if domain.rpartition(b".")[2].lower() in (b"png", b"jpg", b"jpeg", b"gif", b"svg", b"webp") else ((start, end),)


def may_be_email(source: bytes, at: int) -> bool:
    """Could the `@` at `at` have a local part, in JSON source too? Not behind a blank or a line break: a decorator, a handle."""
    return at > 0 and source[at - 1] in _LOCAL and not _is_escape(source, at - 1)


def is_luhn(digits: bytes) -> bool:
    """ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = digit - 48
        if place % 2:
            value = value * 2 - 9 if value > 4 else value * 2
        total += value
    return total % 10 == 0


_CARD = re.compile(  # issuer prefixes and the lengths in use
    rb"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3(?:0|6|8|9)\d{12,17}|35\d{14}|1\d{14}|6(?:011|4|5|2)\d{10,16}"
    rb"|(?:2131|1800)\d{11}|(?:50|5[6-9]|6[0-9])\d{14}|(?:50|5[6-9]|6[0-9])\d{17}|(?:5018|5020|5038|5893|6304|676[1-3])\d{8,15}"
)
_MAX_CARD = 19


def credit_card(text: bytes, start: int, end: int) -> Iterator[Bounds]:
    """Luhn and a known issuer: one run, or groups of 3 to 6 digits. Groups beside it (expiry, security code) are left out."""
    if is_word(text, start - 1) or is_word(text, end) or follows(text, start, b".$\xa3"):
        return
    groups = _groups(text, start, end)
    first = 0
    while first < len(groups):
        last = _card_from(text, groups, first)
        if last:
            yield groups[first][0], groups[last - 1][1]
        first = last or first + 1


def _card_from(text: bytes, groups: list[Bounds], first: int) -> int:
    """The longest card that begins with this group: the number of the group behind it, or 0."""
    digits = b""
    found = 0
    for place in range(first, len(groups)):
        begins, ends = groups[place]
        digits += text[begins:ends]
        if len(digits) > _MAX_CARD or (place > first and not (2 < ends - begins < 7 and groups[first][1] - groups[first][0] < 7)):
            break
        if _CARD.fullmatch(digits) and is_luhn(digits):
            found = place + 1
    return found


def _groups(text: bytes, start: int, end: int) -> list[Bounds]:
    bounds: list[Bounds] = []
    at = start
    for gap in _GAPS.finditer(text, start, end):
        bounds.append((at, gap.start()))
        at = gap.end()
    return [*bounds, (at, end)]


_IBAN_LENGTHS = {  # SWIFT IBAN registry, release 99, and the countries that use the format unregistered
    country: length
    for length, countries in (
        (15, "NO"),
        (16, "BE"),
        (18, "DK FI FK FO GL NL SD"),
        (19, "MK SI"),
        (20, "AT BA EE KZ LT LU MN XK"),
        (21, "CH HR LI LV"),
        (22, "BG BH CR DE GB GE IE ME RS VA"),
        (23, "AE GI IL IQ OM SO TL"),
        (24, "AD CZ ES MD PK RO SA SE SK TN VG"),
        (25, "AO CV GW LY MZ PT ST"),
        (26, "DZ IR IS TR"),
        (27, "BI CF CG CM DJ FR GA GQ GR IT KM MC MG MR SM TD"),
        (28, "AL AZ BF BJ BY CI CY DO GT HN HU LB MA ML NE NI PL SN SV TG"),
        (29, "BR EG PS QA UA"),
        (30, "JO KW MU YE"),
        (31, "MT SC"),
        (32, "LC"),
        (33, "RU"),
    )
    for country in countries.split()
}


def iban(text: bytes, start: int, end: int) -> Iterable[Bounds]:
    """ISO 13616: the country's length and the mod-97 check digits; single blanks (those of web pages too) or hyphens between the groups."""
    if is_word(text, start - 1):
        return NONE
    length = _IBAN_LENGTHS.get(text[start : start + 2].decode().upper(), 0)
    letters = bytearray()
    at = start
    while len(letters) < length and at < len(text):
        if is_word(text, at) and text[at] != 0x5F:
            letters.append(text[at])
            at += 1
        elif (gap := _ONE_GAP.match(text, at)) and is_word(text, at - 1):
            at = gap.end()
        else:
            return NONE
    if not length or len(letters) < length or is_word(text, at):
        return NONE
    rearranged = (letters[4:] + letters[:4]).upper().decode()
    return ((start, at),) if int("".join(str(int(letter, 36)) for letter in rearranged)) % 97 == 1 else NONE


def us_ssn(text: bytes, start: int, end: int) -> Iterable[Bounds]:
    """Area, group and serial as the Social Security Administration issues them; nine bare digits only behind the words."""
    if is_word(text, start - 1) or is_word(text, end) or follows(text, start, b"-") or text[end : end + 1] == b"-":
        return NONE
    digits = _GAPS.sub(b"", text[start:end])
    gaps = set(_GAPS.findall(text[start:end]))
    if len(gaps) > 1 or digits == b"078051120":  # the one printed on wallets
        return NONE
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return ((start, end),) if area not in (b"000", b"666") and area < b"900" and group != b"00" and serial != b"0000" else NONE


def ipv4(text: bytes, start: int, end: int) -> Iterable[Bounds]:
    """Four octets, with a prefix length. No longer dotted number, no version."""
    if is_word(text, start - 1) or is_word(text, end) or follows(text, start, b".-") or _goes_on(text, end):
        return NONE
    address, _, prefix = text[start:end].partition(b"/")
    if any(int(octet) > 255 for octet in address.split(b".")) or (prefix and int(prefix) > 32):
        return NONE
    ahead = text[max(0, start - 12) : start].rpartition(b"\n")[2].lower()
    is_version = b"version" in ahead or (ahead[-1:] == b"/" and ahead[-2:-1].isalpha())  # Chrome/126.0.0.0
    return NONE if is_version else ((start, end),)


def _goes_on(text: bytes, end: int) -> bool:
    return text[end : end + 1] in (b".", b"-") and end + 1 < len(text) and text[end + 1] in _DIGITS


def ipv6(text: bytes, start: int, end: int) -> Iterable[Bounds]:
    """RFC 4291 forms, with a zone or prefix length. `::` between words is a programming language; it must hold a digit."""
    if text[start] == 0x3A and (text[start + 1] != 0x3A or text[start + 2 : start + 3] == b":"):  # "addr:2001:…", "addr:::1"
        start += 1
    if end - start > 64 or is_word(text, start - 1) or is_word(text, end):
        return NONE
    if text[end - 1] == 0x3A and text[end - 2 : end - 1] != b":":
        end -= 1
    address, _, prefix = text[start:end].partition(b"/")
    try:
        socket.inet_pton(socket.AF_INET6, address.partition(b"%")[0].decode())
    except OSError:
        return NONE
    return ((start, end),) if any(digit in _DIGITS for digit in address) and int(prefix or b"0") <= 128 else NONE


_LETTERS = r"[\p{L}\p{N}_.%+'\-]"
_HEX = "[0-9A-Fa-f]"
_ABROAD = r"\x{80}-\x{10ffff}"
EMAIL = Recogniser(
    "email",
    rf"{_LETTERS}+@(?:[\p{{L}}\p{{N}}\-]+\.)+(?:(?i:xn--[a-z0-9\-]*[a-z0-9])|\p{{L}}[\p{{L}}\-]*\p{{L}})",
    email,
    hint=rf"@(?:[0-9A-Za-z\-{_ABROAD}]+\.)+[A-Za-z{_ABROAD}]",  # begins with a letter of its own: the search jumps from one to the next
)
CARD = Recogniser("credit_card", rf"\d+(?:(?:{GAP}|\.)?\d){{11,}}", credit_card, hint=rf"{_BEHIND}\d(?:(?:{GAP}|\.)?\d){{11}}")
_COUNTRIES = "|".join(_IBAN_LENGTHS)
IBAN = Recogniser(
    "iban", rf"[A-Za-z]{{2}}\d{{2}}{GAP}?[A-Za-z0-9]{{4}}", iban, hint=rf"{_BEHIND}(?i:{_COUNTRIES})\d{{2}}{GAP}?[A-Za-z0-9]{{4}}"
)
_SSN = rf"\d{{3}}{GAP}\d{{2}}{GAP}\d{{4}}"
SSN = Recogniser("us_ssn", _SSN, us_ssn, hint=_BEHIND + _SSN)
SSN_NAMED = Recogniser(
    "us_ssn", r"(?i:\bssn|social security)[^\d\n]{0,24}(\d{9})", us_ssn, 1, hint=r"(?i:ssn|social security)[^\d]{0,48}\d{9}"
)
IPV4 = Recogniser("ip_address", r"\d{1,3}(?:\.\d{1,3}){3}(?:/\d{1,2})?", ipv4, hint=rf"{_BEHIND}\d{{1,3}}(?:\.\d{{1,3}}){{3}}")
IPV6 = Recogniser(
    "ip_address",
    rf"{_HEX}*:{_HEX}*:[0-9A-Fa-f:]*(?:\.\d{{1,3}}){{0,3}}(?:%[0-9A-Za-z]{{1,16}})?(?:/\d{{1,3}})?",
    ipv6,
    hint=rf"::|{_HEX}{{1,4}}(?::{_HEX}{{1,4}}){{5}}:",  # a time of day has colons too
)
