"""Which names a service without keys answers to.

A page of any site can have a browser send requests to an address of this machine, by a name of its
own that it lets lead there (DNS rebinding). Where no key is asked for, the name in ``Host`` is all
that tells such a request from one that was meant for us.
"""

from __future__ import annotations

import ipaddress

from services.core.errors import Forbidden
from services.gateway.settings import GatewaySettings


def host_in(header: str) -> str:
    """The name or address of a ``Host`` header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].rstrip(".").lower()


def check_host(header: str, settings: GatewaySettings) -> None:
    """Refuse a request that came by a name which somebody else could have made lead here.

    Addresses, names of one part and those below ``.localhost`` are nobody's to give out.

    Raises:
        Forbidden: names the setting that allows the name.
    """
    host = host_in(header)
    if settings.allow_public_bind or host in settings.allowed_hosts or not _is_public_name(host):
        return
    raise Forbidden(
        f"this service asks for no key and does not answer to the name '{host[:80]}'; name it in "
        "ATELIER_ALLOWED_HOSTS, or make a key with `atelier keys create NAME`"
    )


def _is_public_name(host: str) -> bool:
    if "." not in host or host.endswith(".localhost"):
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return True
    return False
