"""Keys that a test lets go and looks for everywhere afterwards; the same in every run. None of them is worth anything."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import string

WINDOW = 12  # characters in a row that would be a leak
DICE = random.Random(11)
LETTERS = string.ascii_letters + string.digits


def canary(prefix, length=43):
    return prefix + "".join(DICE.choices(LETTERS, k=length))


SECRETS = {
    "a provider key of ours": canary("sk-"),
    "a second provider key of ours": canary("sk-"),
    "a provider key in a file": canary("sk-ant-"),
    "a set header": canary("proj_"),
    "the admin token": canary("adm-"),
    "the HS256 secret": canary(""),
    "a shared token": canary("tok-"),
    "a named own key": canary("sk-"),
    "a Sluice key": canary("slk-"),
    "an expired Sluice key": canary("slk-"),
    "an unknown Sluice key": canary("slk-"),
    "a pass-through key": canary("sk-"),
    "a malformed key": canary("sk-"),
    "a query key": canary("AIza"),
    "a wrong admin token": canary("adm-"),
    "a WebSocket key": canary("sk-"),
    "a cookie": canary(""),
    "a key in a body": canary("sk-"),
    "a key in a target": canary("sk-"),
}


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def part(doc):
    return base64.urlsafe_b64encode(doc if isinstance(doc, bytes) else json.dumps(doc).encode()).rstrip(b"=").decode()


def jwt(secret, **claims):
    signed = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part({'iss': 'https://issuer.test/', 'aud': 'sluice', 'sub': 'ann', **claims})}"
    return f"{signed}.{part(hmac.new(secret.encode(), signed.encode(), hashlib.sha256).digest())}"


JWTS = {
    "a good token": jwt(SECRETS["the HS256 secret"], exp=4_000_000_000, jti=canary("")),
    "an expired token": jwt(SECRETS["the HS256 secret"], exp=1_000_000_000, jti=canary("")),
    "a forged token": jwt("x" * 40, exp=4_000_000_000, jti=canary("")),
}


def forms(secret):
    """The secret and what it looks like encoded; every window of each would be a leak."""
    core = secret.partition("-")[2] or secret
    texts = {core, core.encode().hex()}
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + secret.encode()).decode()
        texts |= {coded[4:-4], coded[4:-4].replace("+", "-").replace("/", "_")}
    return texts


def windows_of(secret):
    return {text[at : at + WINDOW].encode() for text in forms(secret) for at in range(len(text) - WINDOW + 1)}
