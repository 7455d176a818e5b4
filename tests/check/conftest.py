"""The fixtures of the tests of connections, for the set-ups."""

from tests.connection.conftest import authority, clean_certificates, names

__all__ = ["authority", "clean_certificates", "names"]
