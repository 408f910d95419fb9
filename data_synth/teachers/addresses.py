"""Which server addresses are allowed: http and https, except link-local and cloud metadata addresses."""

import ipaddress
import socket
from urllib.parse import urlsplit

# Cloud metadata services serve credentials at link-local addresses and at these two (AWS over IPv6, Alibaba).
_METADATA = {ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")}


def check_base_url(url: str) -> str:
    """Returns the URL without a trailing slash.

    The host is resolved first, so other forms of a forbidden address (decimal, IPv6-mapped, a name) are found, too. A
    host that cannot be resolved yet is allowed: the server may start later.

    Raises:
        ValueError: another scheme, no host, credentials within, or a link-local or metadata address.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_urls: {url!r} is no http or https address. Write it like http://localhost:8000/v1.")
    if parts.username or parts.password:
        # Not repeated in the message: it would put the secret into the log.
        raise ValueError(f"base_urls: the address of {parts.hostname} holds a user name or password. Use api_key_env.")
    for address in _addresses(parts.hostname):
        if address.is_link_local or address in _METADATA:
            raise ValueError(
                f"base_urls: {url!r} leads to {address}, a link-local or metadata address. Give the server's own."
            )
    return url.rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine."""
    return any(address.is_loopback for address in _addresses(urlsplit(url).hostname or ""))


def _addresses(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    return [getattr(address, "ipv4_mapped", None) or address for address in addresses]
