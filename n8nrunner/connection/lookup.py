"""The look-up of a name, for all its addresses. It blocks, so each one has a thread `n8nrunner-lookup-N`."""

from __future__ import annotations

import socket

from n8nrunner.connection.environment import reason_of
from n8nrunner.protocol.events import NameLookedUp

#: The resolver's codes for a name that has no address, or none of the family that was asked for. Every other
#: code is a failure. Not every system has all of them.
_WITHOUT_ADDRESS = {
    getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY") if hasattr(socket, name)
}


def look_up(host: str) -> NameLookedUp:
    """Look up all IPv4 addresses of a host, or all IPv6 ones if it has no IPv4 address.

    A broker with an address of each family gets one link, not two. The families are looked up one after the
    other, because a look-up of both leaves out a family that fails.
    """
    try:
        addresses = _addresses(host, socket.AF_INET) or _addresses(host, socket.AF_INET6)
    except (OSError, UnicodeError) as error:
        return NameLookedUp(None, f"the look-up of {host!r} failed: {reason_of(error)}")
    return NameLookedUp(addresses, None if addresses else f"the host {host!r} has no known address")


def _addresses(host: str, family: int) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in _WITHOUT_ADDRESS:
            return ()
        raise
    # A name on two lines of the hosts file may have one address twice.
    return tuple(dict.fromkeys(str(address[0]) for *_, address in found))
