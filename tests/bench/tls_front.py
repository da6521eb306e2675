"""TLS in front of the mock provider, under an authority made for the run. Knows nothing of HTTP.

Usage: tls_front.py PORT UPSTREAM_PORT FOLDER. Writes FOLDER/ca.pem, which clients are to trust (SSL_CERT_FILE).
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import pathlib
import ssl
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def certificates(folder: pathlib.Path) -> None:
    """ca.pem, and server.pem with its key, for 127.0.0.1 and for a day."""
    now = datetime.datetime.now(datetime.UTC)
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench authority")])
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mock provider")])

    def signed(who: x509.Name, public: ec.EllipticCurvePublicKey, *extensions: tuple[x509.ExtensionType, bool]) -> bytes:
        made = x509.CertificateBuilder().subject_name(who).issuer_name(issuer).public_key(public).serial_number(x509.random_serial_number())
        made = made.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
        for extension, is_critical in extensions:
            made = made.add_extension(extension, is_critical)
        return made.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(signed(subject, key.public_key(), (names, False)) + secret)
    (folder / "ca.pem").write_bytes(signed(issuer, authority.public_key(), (x509.BasicConstraints(ca=True, path_length=0), True)))


class Side(asyncio.Protocol):
    """One side of a connection; what it reads goes to the other."""

    def __init__(self, upstream: int | None = None, other: Side | None = None) -> None:
        self._upstream, self.other = upstream, other
        self.transport: asyncio.Transport | None = None
        self._early = b""
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self._upstream is not None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(self._upstream))

    async def _connect(self, upstream: int) -> None:
        _, self.other = await asyncio.get_running_loop().create_connection(lambda: Side(other=self), "127.0.0.1", upstream)
        self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        self._early += data
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(self._early)
            self._early = b""

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


async def main(port: int, upstream: int, folder: pathlib.Path) -> None:
    certificates(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    server = await asyncio.get_running_loop().create_server(lambda: Side(upstream), "127.0.0.1", port, ssl=context)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3])))
