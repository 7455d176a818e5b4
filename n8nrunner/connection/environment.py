"""The environment's settings for a connection: a proxy and certificates, as users of `requests` set them.

n8nrunner takes nothing else from there: no netrc file, no cookies, no hooks. The HTTP requests (`auth.py`)
and the WebSocket use the same proxy and the same TLS settings. Thread: `n8nrunner-connect-N`.
"""

from __future__ import annotations

import base64
import os
import socket
import ssl
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import requests.utils

from n8nrunner.config import BrokerUrl, address_of, is_loopback
from n8nrunner.protocol.failures import Problem, Unreachable

#: OpenSSL's codes for certificates that only strict verification refuses.
_STRICT_CODES = range(80, 94)
#: OpenSSL's reasons for an answer of a peer that does not speak TLS; each version has another one.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")

#: The observation that a class of errors stands for; the first that fits.
_PROBLEMS: tuple[tuple[type[BaseException], Problem], ...] = (
    (ssl.SSLCertVerificationError, Problem.CERTIFICATE),
    (ssl.SSLError, Problem.TLS),
    (ConnectionRefusedError, Problem.REFUSED),
    (socket.timeout, Problem.TIMED_OUT),
    (TimeoutError, Problem.TIMED_OUT),
    (ConnectionError, Problem.CLOSED),
    (OSError, Problem.NETWORK),
)


class Proxy(NamedTuple):
    """An HTTP proxy."""

    #: Its URL without the credentials, for logs and errors.
    shown: str
    host: str
    port: int
    #: The value of `Proxy-Authorization`; None without credentials.
    authorization: str | None


def public_address(url: BrokerUrl) -> str | None:
    """Return the first address of a broker that belongs to the public internet; None if there is none.

    Behind a proxy, a name is not looked up: often only the proxy can do it.

    Raises:
        OSError, UnicodeError, Unreachable: the address is unknown, or the proxy cannot be used.
    """
    flags = 0 if proxy_for(url.auth, url.address) is None else socket.AI_NUMERICHOST
    for *_, address in socket.getaddrinfo(
        url.address or url.host, url.port, type=socket.SOCK_STREAM, flags=flags
    ):
        found = address_of(str(address[0]).split("%")[0])
        if found is not None and found.is_global:
            return str(found)
    return None


def proxy_for(url: str, address: str | None = None) -> Proxy | None:
    """Return the proxy that the environment sets for a URL; None for a direct connection.

    A proxy is never used for this machine itself. With `address`, one of the addresses of the URL's host, the
    variable `NO_PROXY` may have the host or the address.

    Raises:
        Unreachable: the proxy cannot be used; the text says why and does not show its credentials.
    """
    if is_loopback(urlsplit(url).hostname or ""):
        return None
    if address is not None and proxy_for(f"{urlsplit(url).scheme}://{in_url(address)}") is None:
        return None
    chosen = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
    if not chosen:
        return None
    try:
        parts = urlsplit(chosen if "://" in chosen else f"http://{chosen}")
        port = parts.port or 80
    except ValueError:
        # Neither the URL nor the error's text is shown: a password may be in them.
        raise Unreachable(
            "the proxy of the environment cannot be used: its URL has no valid port", Problem.UNUSABLE_PROXY
        ) from None
    shown = f"{parts.scheme}://{in_url(parts.hostname or '')}:{port}"
    if parts.scheme != "http" or not parts.hostname:
        raise Unreachable(
            f"the proxy {shown} cannot be used: only http:// proxies can", Problem.UNUSABLE_PROXY
        )
    authorization = None
    if parts.username:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(user.encode()).decode()}"
    return Proxy(shown, parts.hostname, port, authorization)


def certificates(directory: str | None = None) -> str:
    """Return the path of the certificates to trust. A relative one starts from `directory`, if given."""
    chosen = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if not chosen:
        return requests.utils.DEFAULT_CA_BUNDLE_PATH
    return os.path.join(directory or "", chosen)


def tls_context(bundle: str) -> ssl.SSLContext:
    """Return Python's default context with these certificates.

    Raises:
        OSError: the certificates cannot be read. The text names the file.
    """
    try:
        if os.path.isdir(bundle):
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise OSError(f"the certificates in {bundle!r} cannot be read: {reason_of(error)}") from None


def in_url(host: str) -> str:
    """Return a host as URLs have it: an IPv6 address has brackets."""
    return f"[{host}]" if ":" in host else host


def no_proxy_advice(host: str) -> str:
    """Return what to do if the proxy of the environment is in the way to a host."""
    return f"if n8n needs no proxy, add {host!r} to the variable NO_PROXY"


def problem_of(error: BaseException | None) -> Problem:
    """Return the observation that an error of the system or of OpenSSL stands for."""
    for kind, problem in _PROBLEMS:
        if isinstance(error, kind):
            is_not_tls = isinstance(error, ssl.SSLError) and error.reason in _NOT_TLS
            return Problem.NOT_TLS if is_not_tls else problem
    return Problem.UNEXPECTED


def reason_of(error: BaseException | None) -> str:
    """Return the reason that the system gave, and for TLS what to do about it."""
    if error is None:
        return "it has no address"
    text = f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}"
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in _STRICT_CODES:
        text += (
            "; Python 3.13 and newer verify certificates strictly (ssl.VERIFY_X509_STRICT): issue the "
            "certificate again with the missing extension, such as authorityKeyIdentifier"
        )
    elif isinstance(error, ssl.SSLError) and error.reason in _NOT_TLS:
        text += "; this port does not speak TLS: use http:// in the broker's URL if it is n8n's own port"
    return text
