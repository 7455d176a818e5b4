"""A name server for one zone, over UDP: it answers with addresses, fails, is slow, or is silent."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

_TYPES = {1: 4, 28: 6}  # A and AAAA, with the version of their addresses
_NO_ERROR, _SERVER_FAILURE, _NAME_ERROR = 0, 2, 3


class NameServer:
    """Every name has the same addresses. The order of an answer rotates.

    Attributes:
        addresses: those of every name; without any, no name exists.
        mode: "answer", "fail" or "silent".
        is_open: answers wait while it is cleared.
        queries: how many queries of each type have come.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 53) -> None:
        self.addresses: Sequence[str] = ()
        self.mode = "answer"
        self.is_open = threading.Event()
        self.is_open.set()
        self.queries: Counter[int] = Counter()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, port))
        self.port: int = self._socket.getsockname()[1]
        self._has_ended = False
        self._thread = threading.Thread(target=self._serve, name="test-name-server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._has_ended = True
        self.is_open.set()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())  # ends the wait for another query
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._has_ended:
            query, client = self._socket.recvfrom(512)
            self.is_open.wait()
            if query and self.mode != "silent":
                with suppress(OSError):
                    self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        end = query.index(b"\0", 12) + 5  # behind the question: name, type and class
        kind = struct.unpack("!H", query[end - 4 : end - 2])[0]
        self.queries[kind] += 1
        records: list[bytes] = []
        code = _SERVER_FAILURE if self.mode == "fail" else _NO_ERROR if self.addresses else _NAME_ERROR
        if code == _NO_ERROR:
            first = self.queries[kind] % len(self.addresses)
            for text in [*self.addresses[first:], *self.addresses[:first]]:
                address = ipaddress.ip_address(text)
                if address.version == _TYPES.get(kind):
                    data = address.packed
                    # The name of the question, type, class, a TTL of 5 s, and the address.
                    records.append(struct.pack("!HHHIH", 0xC00C, kind, 1, 5, len(data)) + data)
        head = query[:2] + struct.pack("!HHHHH", 0x8580 | code, 1, len(records), 0, 0)
        return head + query[12:end] + b"".join(records)
