"""Names that only the tests know, certificates for them, and an environment without proxies."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme


@pytest.fixture(autouse=True)
def clean_certificates(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the certificates of the user who runs the tests."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name that ends in ".test" is this machine; other names are unknown. Nothing asks the network."""
    look_up = socket.getaddrinfo

    def fake(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name.endswith(".test"):
            return look_up("127.0.0.1", port, *args, **options)
        if name.replace(".", "").isdigit() or ":" in name:
            return look_up(host, port, *args, **options)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fake)


class Authority:
    """A certificate authority, which only who is told to trusts."""

    def __init__(self, directory: Path) -> None:
        self._authority = trustme.CA()
        self.bundle = directory / "authority.pem"
        self._authority.cert_pem.write_to_path(str(self.bundle))

    def server(self, *names: str) -> ssl.SSLContext:
        """A context with a certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*names).configure_cert(context)
        return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))
