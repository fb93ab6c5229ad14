"""Requests to places that a caller named: the one way by which the service reaches out to them.

Somebody else chose the address, so it could be one that only this machine can reach. A name is
resolved once, every address that it has is checked, and the connection goes to one of those very
addresses: a name that changes its mind between the check and the connection gains nothing. The
certificate is still the name's.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from services.core.errors import AtelierError, InvalidParameter, TooLarge, Unavailable

MOST_URL_CHARS = 2048
MOST_REDIRECTS = 3
MOST_ANSWER_BYTES = 64 << 10
"""Read of the answer to a `Outgoing.post`, which nobody looks at, before it is hung up on."""

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host and port."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


async def resolve(host: str, port: int) -> Sequence[str]:
    """What the system's resolver says, in its order.

    Raises:
        OSError: the name is not known.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_global(text: str) -> bool:
    """Whether an address is one of the public internet, also where it wraps an IPv4 address."""
    try:
        address: IpAddress = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    inner = _wrapped(address)
    if inner is not None:
        address = inner
    return address.is_global and not address.is_multicast and not address.is_reserved


def _wrapped(address: IpAddress) -> IpAddress | None:
    """The IPv4 address that an IPv6 address leads to, where it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]


def check_target(url: str, *, allow_private: bool = False, param: str | None = None) -> httpx.URL:
    """Read a URL and refuse what can be refused without asking a name server.

    Args:
        url: as a caller gave it.
        allow_private: also take plain http and addresses that are not global.
        param: the field that it was given in.

    Raises:
        InvalidParameter: it is no URL, not https, carries a password, or names an address that is
            not global.
    """
    if len(url) > MOST_URL_CHARS:
        raise InvalidParameter(
            f"the URL has {len(url)} characters; the limit is {MOST_URL_CHARS}", param=param
        )
    shown = ascii(url[:120])
    try:
        parsed = httpx.URL(url)
        port = parsed.port
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidParameter(f"{shown} is no URL: {error}", param=param) from error
    schemes = ("https", "http") if allow_private else ("https",)
    if parsed.scheme not in schemes or not parsed.host or port == 0 or (port or 0) > 65535:
        wanted = "an http or https URL" if allow_private else "an https URL"
        raise InvalidParameter(f"{shown} is not {wanted}", param=param)
    if parsed.userinfo:
        raise InvalidParameter("a URL may not carry a name or a password", param=param)
    if not allow_private and _is_private_literal(parsed.host):
        raise InvalidParameter(f"{shown}: {_NOT_GLOBAL}", param=param)
    return parsed


_NOT_GLOBAL = "only addresses of the public internet are reached"


def _is_private_literal(host: str) -> bool:
    """Whether a host is an address, however written, that is not global; or this machine's name."""
    if f".{host.rstrip('.').lower()}".endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # Forms that the system's resolver takes for IPv4: 127.1, 0x7f000001, 2130706433.
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))
        except (OSError, ValueError):
            return False
    return not is_global(str(address))


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered.

    Attributes:
        status: HTTP status.
        headers: with lower-case names.
        content: the body, no longer than was allowed.
    """

    status: int
    headers: Mapping[str, str]
    content: bytes


class Outgoing:
    """Sends requests to addresses of the public internet, within bounds; for one event loop.

    Args:
        allow_private: for development: also plain http, and addresses that are not global.
        seconds: for one request, resolving and redirects included.
        resolver: in place of the system's.
        context: whose certificates are believed; the usual authorities when absent.
    """

    def __init__(
        self,
        *,
        allow_private: bool = False,
        seconds: float = 10.0,
        resolver: Resolve = resolve,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.allow_private = allow_private
        self._seconds = seconds
        self._resolve = resolver
        self._context = context
        self._client: httpx.AsyncClient | None = None

    async def aclose(self) -> None:
        """Close every connection."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def get(self, url: str, *, max_bytes: int, param: str | None = None) -> bytes:
        """Fetch a file; each redirect is checked as the first address was.

        Args:
            url: where it is.
            max_bytes: the most that is read.
            param: the field that the URL was given in.

        Raises:
            InvalidParameter: see `check_target`; or the name leads to an address that is not
                global, nobody answers in time, or the answer is no file.
            TooLarge: it is larger.
        """
        where = check_target(url, allow_private=self.allow_private, param=param)
        with _explained(where, InvalidParameter, param):
            async with asyncio.timeout(self._seconds):
                for _ in range(MOST_REDIRECTS + 1):
                    reply = await self._send("GET", where, {}, b"", max_bytes, param)
                    if reply.status not in _REDIRECTS:
                        break
                    target = where.join(reply.headers.get("location", ""))
                    where = check_target(str(target), allow_private=self.allow_private, param=param)
        if reply.status != httpx.codes.OK:
            raise InvalidParameter(f"{where.host} answered {reply.status}, no file", param=param)
        if len(reply.content) > max_bytes:
            raise TooLarge(f"the file is larger than {max_bytes} bytes, the limit", param=param)
        return reply.content

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Send a body; a redirect is an answer like any other, and is not followed.

        Raises:
            InvalidParameter: see `check_target`; or the name leads to an address that is not
                global.
            Unavailable: nobody answers, or not in time.
        """
        where = check_target(url, allow_private=self.allow_private)
        with _explained(where, Unavailable, None):
            async with asyncio.timeout(self._seconds):
                return await self._send("POST", where, headers, body, MOST_ANSWER_BYTES, None)

    async def _send(
        self,
        method: str,
        where: httpx.URL,
        headers: Mapping[str, str],
        body: bytes,
        max_bytes: int,
        param: str | None,
    ) -> Reply:
        failure: httpx.TransportError | None = None
        for address in await self._addresses(where, param):
            http = await self._http()
            request = http.build_request(
                method,
                where.copy_with(host=address),
                content=body or None,
                headers={
                    **headers,
                    "host": where.netloc.decode("ascii"),
                    # What is not compressed cannot be a bomb.
                    "accept-encoding": "identity",
                },
                extensions={"sni_hostname": where.raw_host.decode("ascii")},
            )
            try:
                return await self._exchange(http, request, max_bytes)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure or httpx.ConnectError("the name has no address")

    @staticmethod
    async def _exchange(http: httpx.AsyncClient, request: httpx.Request, max_bytes: int) -> Reply:
        response = await http.send(request, stream=True)
        try:
            content = b""
            if response.headers.get("content-encoding", "identity") == "identity":
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > max_bytes:
                        break
            return Reply(response.status_code, dict(response.headers), content)
        finally:
            await response.aclose()

    async def _addresses(self, where: httpx.URL, param: str | None) -> Sequence[str]:
        """Where a URL's host is, every address of it checked."""
        port = where.port or (443 if where.scheme == "https" else 80)
        found = await self._resolve(where.raw_host.decode("ascii").strip("[]"), port)
        if not self.allow_private and not all(is_global(address) for address in found):
            raise InvalidParameter(
                f"{where.host} leads to an address that is not global; {_NOT_GLOBAL}", param=param
            )
        return found

    async def _http(self) -> httpx.AsyncClient:
        if self._context is None:  # reading the authorities takes a while
            self._context = await asyncio.to_thread(ssl.create_default_context)
        if self._client is None:
            self._client = httpx.AsyncClient(
                verify=self._context,
                follow_redirects=False,
                trust_env=False,  # a proxy would resolve names by itself
                timeout=self._seconds,
                # A connection is to an address; kept, it would serve another name of the same
                # address, whose certificate nobody has looked at.
                limits=httpx.Limits(max_keepalive_connections=0),
            )
        return self._client


@contextmanager
def _explained(where: httpx.URL, kind: type[AtelierError], param: str | None) -> Iterator[None]:
    """Says what went wrong on the way in the service's own words."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:  # a TimeoutError is an OSError
        why = str(error) or type(error).__name__
        raise kind(f"{where.host} cannot be reached: {why}", param=param) from error
