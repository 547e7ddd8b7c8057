"""Images behind https:// URLs, of hosts that the operator has named.

What makes it safe to follow a URL out of a table is that nothing is looked at twice.  The text is parsed once, and the host, port and path
that were checked are those that are asked for.  A name is resolved once, all of its addresses are checked, and the connection goes to one
of those very addresses, while certificate, SNI and Host are those of the name; so a name that has another address the next moment gains
nothing.  A redirect is a new URL and goes through all of it again.  `thanoproxy.images.hosts` has the rules.

aiohttp does the HTTP: its connector connects to what our resolver answers and to nothing else, and its parser bounds lines and headers.
Proxies, netrc and cookies are not used, and no encoding of the body is undone, since that could make gigabytes out of kilobytes.
"""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from typing import TYPE_CHECKING, Any, Self

from thanoproxy.errors import ConfigurationError, FeatureNotSupported, FileFailure, InsufficientPrivilege, InvalidImage
from thanoproxy.images.hosts import DEFAULT_PORT, Hosts, is_address, is_host
from thanoproxy.images.source import MAX_BYTES, Distant, Setup, not_arrived, shown, too_large, unavailable

if TYPE_CHECKING:
    import aiohttp
    import yarl

__all__ = ["HttpsUrl", "look_up"]

ATTEMPTS = 3
PAUSE = 0.2
"""Seconds before the second attempt, on average; twice as many before each further one."""
MAX_REDIRECTS = 5
DNS_SECONDS = 10
"""For so long an answer of the resolver is used again."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_AGAIN_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})


class HttpsUrl(Distant):
    """`https://host[:port]/path[?query]`."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        remote = setup.remote
        self._hosts = Hosts(remote.url_hosts, remote.private_url_hosts)
        self._ca = remote.ca
        self._session: aiohttp.ClientSession | None = None
        if self._hosts:
            _require_client()
            self._tls = _tls_context(self._ca)

    @classmethod
    def open(cls, setup: Setup) -> Self:
        return cls(setup)

    def claims(self, image: str | bytes) -> bool:
        return isinstance(image, str) and image[:8].lower().startswith(("https://", "http://"))

    def place(self, image: str) -> str:
        return image.partition("://")[2].partition("/")[0].lower()

    async def fetch(self, image: str) -> bytes:
        if not self._hosts:
            raise FeatureNotSupported(
                f"images cannot be read from {shown(image)}",
                hint="Reading images from https: URLs is off: no host is named in the setting images.url_hosts.",
            )
        url = self._checked(image, image)
        for _ in range(MAX_REDIRECTS + 1):
            found = await self._ask(url, image)
            if isinstance(found, bytes):
                return found
            url = self._checked(str(url.join(_parse(found, image))), image)
        raise not_arrived(image, f"it is redirected more than {MAX_REDIRECTS} times")

    def _checked(self, text: str, image: str) -> yarl.URL:
        """The URL `text`, which `image` is or led to."""
        url = _parse(text, image)
        if url.scheme != "https":
            raise FeatureNotSupported(f"image {shown(image)} cannot be read without encryption", hint="Only https: URLs are read.")
        if url.raw_user is not None or url.raw_password is not None:
            raise FeatureNotSupported(
                f"image {shown(image)} has a user name or password in its URL", hint="Whoever may read the row could use them."
            )
        host, port = url.raw_host or "", url.explicit_port or DEFAULT_PORT
        if not is_host(host):
            raise _no_url(image)
        if not self._hosts.admits(host, port):
            where = "it names" if text == image else "it is redirected to"
            raise InsufficientPrivilege(
                f"image {shown(image)} may not be read: the host that {where} is not allowed",
                hint="Hosts, and ports other than 443, have to be named in the setting images.url_hosts.",
            )
        if is_address(host) and not self._hosts.admits_address(host, port, host):
            raise _no_address(image)
        return url

    async def _ask(self, url: yarl.URL, image: str) -> bytes | str:
        """The body, or where it is said to be."""
        why = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))  # noqa: S311 - not secrets
            try:
                async with self._client().get(url, allow_redirects=False) as response:
                    if response.status not in _AGAIN_LATER:
                        return await _take(response, image)
                    why = f"its server answers with status {response.status}"
            except Exception as error:
                why = _translate(error, image)
        raise not_arrived(image, why)

    def _client(self) -> aiohttp.ClientSession:
        """Made on the reader's loop, with the first URL."""
        if self._session is None:
            import aiohttp

            # The reader bounds how many there are.
            connector = aiohttp.TCPConnector(resolver=_resolver(self._hosts), ssl=self._tls, limit=0, ttl_dns_cache=DNS_SECONDS)
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept": "image/*, */*;q=0.1", "Accept-Encoding": "identity", "User-Agent": "thanoproxy"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeout / 2),
                auto_decompress=False,
                trust_env=False,
            )
            self._reader.at_end(self._session.close)
        return self._session


async def _take(response: aiohttp.ClientResponse, image: str) -> bytes | str:
    if response.status in _REDIRECTS and (location := response.headers.get("Location")):
        return location
    if response.status >= 300:
        if 400 <= response.status < 500:
            raise unavailable(image)
        raise not_arrived(image, f"its server answers with status {response.status}")
    if (response.content_length or 0) > MAX_BYTES:
        raise too_large(image)
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > MAX_BYTES:
            raise too_large(image)
    return bytes(body)


def _translate(error: Exception, image: str) -> str:
    """Why it did not come this time; raised instead, what another attempt would not change."""
    import aiohttp

    match error:
        case aiohttp.ClientConnectorDNSError():
            raise _no_address(image) from None
        case aiohttp.ClientConnectorCertificateError():
            raise FileFailure(
                f"image {shown(image)} could not be read: the certificate of its server is not good",
                hint="Authorities besides those of the system are named in the setting images.ca.",
            ) from None
        case aiohttp.ClientConnectorError() | aiohttp.ServerTimeoutError():
            return "its server cannot be reached"
        case aiohttp.ClientPayloadError():
            return "its server stops in the middle"
        case aiohttp.ClientResponseError():
            return "its server does not answer as HTTP prescribes"
        case aiohttp.InvalidURL():
            raise _no_url(image) from None
        case aiohttp.ClientError() | ConnectionError():
            return "its server closes the connection"
    raise error


def _parse(text: str, image: str) -> yarl.URL:
    """`text` as it stands if it is well-formed, so that a signature over it holds; else with what is missing encoded."""
    import yarl

    try:
        url = yarl.URL(text)
        if text.isascii() and text.isprintable() and " " not in text:
            exact = yarl.URL(text, encoded=True)
            # Host and port as the strict parser has them.
            url = exact if url.host is None else exact.with_host(url.raw_host or "")
    except ValueError:
        raise _no_url(image) from None
    return url.with_fragment(None)


def _no_url(image: str) -> InvalidImage:
    return InvalidImage(f"image {shown(image)} has no good URL", hint="A URL is written https://host/path.")


def _no_address(image: str) -> InsufficientPrivilege:
    # One text for a name that nobody has and for one that leads into a private network.
    return InsufficientPrivilege(
        f"image {shown(image)} may not be read: its host has no address of the internet",
        hint="Hosts in a private network have to be named in the setting images.private_url_hosts.",
    )


def _resolver(hosts: Hosts) -> Any:
    from aiohttp.abc import AbstractResolver, ResolveResult

    class Resolver(AbstractResolver):
        """All addresses of a name, if every one of them may be used.  Raises OSError."""

        async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
            found = await look_up(host, port, family)
            if not all(hosts.admits_address(host, port, address) for _, address in found):
                raise OSError("not admitted")
            flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            return [ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=flags) for family, address in found]

        async def close(self) -> None:
            pass

    return Resolver()


async def look_up(host: str, port: int, family: int) -> list[tuple[socket.AddressFamily, str]]:
    """The addresses of a host, with their families.  Raises OSError."""
    loop = asyncio.get_running_loop()
    for attempt in range(ATTEMPTS):
        try:
            found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno != socket.EAI_AGAIN or attempt == ATTEMPTS - 1:
                raise
            await asyncio.sleep(PAUSE)
        else:
            return [(family, str(place[0])) for family, _, _, _, place in found]
    raise AssertionError("the last attempt returns or raises")


def _require_client() -> None:
    try:
        import aiohttp  # noqa: F401
    except ImportError:
        raise ConfigurationError("images.url_hosts needs aiohttp: pip install 'thanoproxy[remote]'") from None


def _tls_context(ca: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"images.ca: {ca} cannot be used: {error.strerror or error}") from None
    return context
