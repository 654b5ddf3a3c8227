"""Which URLs are fetched: https, and http only where nobody else is on the way or the user says so."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def require_safe(url: str, allow_http: bool = False) -> None:
    """Raise ValueError unless `url` is https, http of this machine, or http that is allowed."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname and (allow_http or is_loopback(parts.hostname)):
        return
    raise ValueError(f"URLs should begin with https://, found {url!r}")


def is_loopback(host: str) -> bool:
    """Tell whether `host` is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_of(url: str) -> str:
    """Return host and port of `url`."""
    return urlsplit(url).netloc.rpartition("@")[2]
