"""Requests to places that a caller named."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.core.errors import AtelierError, InvalidParameter, TooLarge, Unavailable
from services.jobs.outgoing import Outgoing, Resolve, check_target, is_global

HERE = "127.0.0.1"


class Site:
    """A server of raw answers, which remembers every request's head."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.heads: list[str] = []
        self.bodies: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            lengths = [x for x in head.lower().split("\r\n") if x.startswith("content-length")]
            size = int(lengths[0].split(":")[1]) if lengths else 0
            self.bodies.append(await reader.readexactly(size))
            writer.write(self.answers.get(head.split(" ")[1], ok(b"hello")))
            await writer.drain()
        finally:
            writer.close()


def ok(body: bytes, *more: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"content-length: {len(body)}", "connection: close", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def moved(to: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n".encode()


@asynccontextmanager
async def serving(site: Site, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    server = await asyncio.start_server(site.serve, HERE, 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


def to(*addresses: str, asked: list[str] | None = None) -> Resolve:
    """A resolver that gives one address after another, each time it is asked."""
    left = list(addresses)

    async def resolver(host: str, port: int) -> Sequence[str]:
        if asked is not None:
            asked.append(host)
        return [left.pop(0) if len(left) > 1 else left[0]]

    return resolver


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0",
        "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
        "2002:7f00:1::", "2001:db8::1", "no address",
    ],
)  # fmt: skip
def test_addresses_that_are_not_of_the_internet(address: str) -> None:
    assert not is_global(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:4700::1111", "::ffff:93.184.215.14"])
def test_addresses_of_the_internet(address: str) -> None:
    assert is_global(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "ftp://example.com/", "file:///etc/passwd", "https://", "x", "",
        "https://user:secret@example.com/", "https://127.0.0.1/", "https://127.1/",
        "https://2130706433/", "https://0x7f000001/", "https://[::1]/", "https://localhost/",
        "https://a.localhost./", "https://169.254.169.254/latest/meta-data", "https://[::]/",
        "https://example.com:0/", "https://example.com:99999/", "https://a\nb/", "gopher://x",
        "https://example.com/" + "a" * 2048,
    ],
)  # fmt: skip
def test_a_target_that_is_refused_before_anybody_is_asked(url: str) -> None:
    with pytest.raises(InvalidParameter):
        check_target(url)


async def test_a_name_that_leads_inside_is_refused_and_nobody_is_called() -> None:
    site = Site()
    async with serving(site) as port:
        for address in (HERE, "::ffff:127.0.0.1", "10.0.0.7"):
            out = Outgoing(resolver=to(address))
            for act in (
                out.get(f"https://inside.example:{port}/", max_bytes=10),
                out.post(f"https://inside.example:{port}/", b"{}", {}),
            ):
                with pytest.raises(InvalidParameter, match="not global"):
                    await act
    assert site.heads == []


async def test_one_inner_address_among_outer_ones_is_enough_to_refuse() -> None:
    async def resolver(host: str, port: int) -> Sequence[str]:
        return ["93.184.215.14", HERE]

    with pytest.raises(InvalidParameter, match="not global"):
        await Outgoing(resolver=resolver).post("https://both.example/", b"{}", {})


async def test_a_name_is_resolved_once_for_check_and_connection() -> None:
    """A name that changes its mind after the check is not asked again."""
    site, asked = Site(), list[str]()
    async with serving(site) as port:
        out = Outgoing(allow_private=True, resolver=to(HERE, "192.0.2.1", asked=asked))
        found = await out.get(f"http://rebinding.example:{port}/a?b=c", max_bytes=10)
        await out.aclose()
    assert found == b"hello"
    assert asked == ["rebinding.example"]
    assert site.heads[0].startswith("GET /a?b=c HTTP/1.1\r\n")
    assert f"host: rebinding.example:{port}\r\n" in site.heads[0].lower()


@pytest.mark.parametrize(
    "target", ["https://127.0.0.1/", "https://169.254.169.254/", "file:///etc/passwd", "//[::1]/"]
)
async def test_a_redirect_is_checked_as_the_first_address_was(target: str, tmp_path: Path) -> None:
    site, looked = Site(), list[str]()
    ours, theirs = tls(tmp_path)
    async with serving(site, ours) as port:

        class Outer(Outgoing):  # the first name counts as global, though it is this machine
            async def _addresses(self, where: object, param: str | None) -> Sequence[str]:
                looked.append(f"{where} {param}")
                return [HERE]

        site.answers["/"] = moved(target)
        out = Outer(context=theirs)
        with pytest.raises(InvalidParameter):
            await out.get(f"https://hooks.example:{port}/", max_bytes=10)
        await out.aclose()
    assert len(looked) == 1


async def test_redirects_are_followed_so_often_and_no_further() -> None:
    site = Site()
    async with serving(site) as port:
        base = f"http://a.example:{port}"
        out = Outgoing(allow_private=True, resolver=to(HERE))
        site.answers["/one"] = moved("/two")
        assert await out.get(f"{base}/one", max_bytes=10) == b"hello"
        site.answers["/round"] = moved("/round")
        with pytest.raises(InvalidParameter, match="302"):
            await out.get(f"{base}/round", max_bytes=10)
        site.heads.clear()
        assert (await out.post(f"{base}/one", b"{}", {})).status == 302
        assert len(site.heads) == 1
        await out.aclose()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (ok(b"a" * 101), TooLarge),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 300, TooLarge),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", InvalidParameter),
        (b"no HTTP at all\r\n\r\n", InvalidParameter),
        (b"", InvalidParameter),
    ],
)
async def test_an_answer_that_is_no_file_or_too_large(
    answer: bytes, error: type[AtelierError]
) -> None:
    site = Site()
    site.answers["/"] = answer
    async with serving(site) as port:
        out = Outgoing(allow_private=True)
        with pytest.raises(error) as caught:
            await out.get(f"http://{HERE}:{port}/", max_bytes=100, param="image")
        await out.aclose()
    assert caught.value.param == "image"


async def test_nobody_is_waited_for_longer_than_allowed() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, HERE, 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        out = Outgoing(allow_private=True, seconds=0.05)
        with pytest.raises(Unavailable):
            await out.post(f"http://{HERE}:{port}/", b"{}", {})
        await out.aclose()


async def test_the_certificate_is_the_names_though_the_connection_goes_to_an_address(
    tmp_path: Path,
) -> None:
    site = Site()
    ours, theirs = tls(tmp_path)
    async with serving(site, ours) as port:
        out = Outgoing(allow_private=True, resolver=to(HERE), context=theirs)
        reply = await out.post(f"https://hooks.example:{port}/", b"{}", {"webhook-id": "a"})
        assert (reply.status, site.bodies) == (200, [b"{}"])
        assert "webhook-id: a" in site.heads[0].lower()
        with pytest.raises(Unavailable, match=r"(?i)hostname mismatch|certificate"):
            await out.post(f"https://other.example:{port}/", b"{}", {})
        await out.aclose()


def tls(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's TLS for ``hooks.example``, and that of clients who believe it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hooks.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    path = folder / "server.pem"
    path.write_bytes(
        pem
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cadata=pem.decode())
