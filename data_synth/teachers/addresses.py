"""Which server addresses are allowed: http and https, without secrets, except link-local and metadata addresses."""

import ipaddress
import socket
from urllib.parse import parse_qsl, urlsplit, urlunsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Cloud metadata services serve credentials at link-local addresses and at these two (AWS over IPv6, Alibaba).
_METADATA = {ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")}

# What people copy behind the base URL, from a vendor's example.
_ENDPOINTS = ("/chat/completions", "/completions", "/responses", "/embeddings", "/models")
_VENDORS = ("/v1", "/openai/v1", "/api/v1", "/v1beta/openai", "/inference/v1")
_SECRETS = frozenset(
    {"key", "api_key", "api-key", "apikey", "token", "access_token", "code", "sig", "subscription-key"}
)


def check_base_url(url: str) -> str:
    """Returns the URL without a trailing slash and without the path of an endpoint; a query is kept.

    The host is resolved first, so other forms of a forbidden address (decimal, within IPv6, a name) are found, too. A
    host that cannot be resolved yet is allowed: the server may start later.

    Raises:
        ValueError: another scheme, no host, a secret within, or a link-local or metadata address.
    """
    url = url.strip()
    refuse_secrets(url)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_urls: {url!r} is no http or https address. Write it like http://localhost:8000/v1.")
    for address in _addresses(parts.hostname):
        if any(form.is_link_local or form in _METADATA for form in _forms(address)):
            raise ValueError(
                f"base_urls: {url!r} leads to {address}, a link-local or metadata address. Give the server's own."
            )
    path = parts.path.rstrip("/")
    for endpoint in _ENDPOINTS:
        path = path.removesuffix(endpoint).rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def address_of(base_url: str, endpoint: str) -> str:
    """The address of an endpoint: its path goes before the query of the base URL (Azure's ``?api-version=``).

    Args:
        base_url: as ``check_base_url`` returns it.
        endpoint: "/chat/completions", "/models".
    """
    parts = urlsplit(base_url)
    return urlunsplit((parts.scheme, parts.netloc, parts.path + endpoint, parts.query, ""))


def other_base_urls(base_url: str) -> list[str]:
    """Where the same server may have its API if not at ``base_url``: without ``/v1``, with it, or as vendors do."""
    parts = urlsplit(base_url)
    if parts.path.endswith("/v1"):
        paths = [parts.path.removesuffix("/v1")]
    else:
        paths = [f"{parts.path}/v1"] if parts.path else list(_VENDORS)
    return [urlunsplit((parts.scheme, parts.netloc, path, parts.query, "")) for path in paths]


def refuse_secrets(url: str) -> None:
    """Refuses an address with a user name, a password, a key in its query, or a fragment.

    Raises:
        ValueError: does not repeat them, as that would put them into the log.
    """
    parts = urlsplit(url)
    where = f"base_urls: the address of {parts.hostname}"
    if parts.username or parts.password:
        raise ValueError(f"{where} holds a user name or password. Use api_key_env.")
    if secret := next((name for name, _ in parse_qsl(parts.query) if name.lower() in _SECRETS), None):
        raise ValueError(f"{where} holds a secret, {secret!r}, and the files of a run would hold it. Use api_key_env.")
    if parts.fragment:
        raise ValueError(
            f"{where} goes on behind a #, which no server is sent. End it before; a key belongs in api_key_env."
        )


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine."""
    return any(address.is_loopback for address in _addresses(urlsplit(url).hostname or ""))


def _forms(address: Address) -> list[Address]:
    """The address, and the IPv4 addresses that an IPv6 one may lead to.

    Mapped, compatible, translated (NAT64), ISATAP: all end with the IPv4 address; 6to4 and Teredo have it elsewhere.
    """
    forms: list[Address] = [address]
    if isinstance(address, ipaddress.IPv6Address):
        forms += [ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF), *filter(None, (address.sixtofour,))]
        forms += address.teredo or ()
    return forms


def _addresses(host: str) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    return [getattr(address, "ipv4_mapped", None) or address for address in addresses]
