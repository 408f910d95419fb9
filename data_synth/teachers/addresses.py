"""Which server addresses are allowed: http and https, without secrets, except link-local and metadata addresses."""

import ipaddress
import socket
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Cloud metadata services serve credentials at link-local addresses and at these two (AWS over IPv6, Alibaba).
_METADATA = {ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200")}


def check_base_url(url: str) -> str:
    """Returns the URL without a trailing slash.

    The host is resolved first, so other forms of a forbidden address (decimal, within IPv6, a name) are found, too. A
    host that cannot be resolved yet is allowed: the server may start later.

    Raises:
        ValueError: another scheme, no host, credentials or a query within, or a link-local or metadata address.
    """
    refuse_secrets(url)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_urls: {url!r} is no http or https address. Write it like http://localhost:8000/v1.")
    for address in _addresses(parts.hostname):
        if any(form.is_link_local or form in _METADATA for form in _forms(address)):
            raise ValueError(
                f"base_urls: {url!r} leads to {address}, a link-local or metadata address. Give the server's own."
            )
    return url.rstrip("/")


def refuse_secrets(url: str) -> None:
    """Refuses an address with a user name, a password or a query.

    Raises:
        ValueError: does not repeat them, as that would put them into the log.
    """
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ValueError(f"base_urls: the address of {parts.hostname} holds a user name or password. Use api_key_env.")
    if parts.query or parts.fragment:
        raise ValueError(
            f"base_urls: the address of {parts.hostname} goes on behind its path with ? or #, where keys stand, and "
            "the files of a run would hold it. End it with the path, and give a key by api_key_env."
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
