"""A runner of `requests` and `websocket-client` only, which sends nothing that a test does not ask for."""

from __future__ import annotations

import itertools
import json
import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlsplit

import requests
import websocket

from n8nrunner.broker import Broker, BrokerConstants

TOKEN = "the shared secret"
#: How long a test waits for what must come, in seconds.
LIMIT = 10.0
#: n8n's limits on how many may come in a second would slow down every other test.
OPEN = {"auth_limit": 1000, "upgrade_limit": 1000}

_numbers = itertools.count(1)


def new_broker(profile: str = "2.40", path: str = "/runners", port: int = 0, **constants: Any) -> Broker:
    return Broker(
        TOKEN, port=port, path=path, profile=profile, constants=BrokerConstants(**{**OPEN, **constants})
    )


def base_of(broker: Broker) -> str:
    return broker.url if urlsplit(broker.url).path else f"{broker.url}/runners"


def grant(broker: Broker) -> str:
    response = requests.post(f"{base_of(broker)}/auth", json={"token": TOKEN}, timeout=LIMIT)
    assert response.status_code == 200, response.text
    token: str = response.json()["data"]["token"]
    return token


class RawRunner:
    """Connects and registers. The test sends all other messages."""

    def __init__(
        self,
        broker: Broker,
        types: Sequence[str] = ("t",),
        runner_id: str | None = None,
        register: bool = True,
        token: str | None = None,
    ) -> None:
        self.runner_id = runner_id or f"runner{next(_numbers)}"
        url = f"{base_of(broker).replace('http', 'ws', 1)}/_ws?id={quote(self.runner_id)}"
        self.socket = websocket.create_connection(
            url,
            timeout=LIMIT,
            header=[f"Authorization: Bearer {token or grant(broker)}"],
            skip_utf8_validation=True,
        )
        if register:
            self.expect("broker:inforequest")
            self.send("runner:info", name="raw", types=list(types))
            self.expect("broker:runnerregistered")

    def __enter__(self) -> RawRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.shutdown()

    def send(self, message_type: str, **members: Any) -> None:
        self.send_text(json.dumps({"type": message_type, **members}))

    def send_text(self, text: str) -> None:
        self.socket.send(text)

    def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.socket.recv())
        return message

    def expect(self, message_type: str) -> dict[str, Any]:
        message = self.receive()
        assert message["type"] == message_type, message
        return message

    def offer(self, task_type: str = "t", valid_for: int = -1, offer_id: str | None = None) -> str:
        offer_id = offer_id or f"offer{next(_numbers)}"
        self.send("runner:taskoffer", offerId=offer_id, taskType=task_type, validFor=valid_for)
        return offer_id

    def accept(self) -> dict[str, Any]:
        """Accept the next task and return its settings message."""
        task_id = self.expect("broker:taskofferaccept")["taskId"]
        self.send("runner:taskaccepted", taskId=task_id)
        return self.expect("broker:tasksettings")

    def take(self, task_type: str = "t") -> dict[str, Any]:
        """Offer, accept the next task, and return its settings message."""
        self.offer(task_type)
        return self.accept()

    def done(self, task_id: str, result: Any) -> None:
        self.send("runner:taskdone", taskId=task_id, data={"result": result})

    def close_code(self) -> int | None:
        """Wait for the broker to close; return the code of its close frame, or None without a frame."""
        try:
            while True:
                opcode, frame = self.socket.recv_data_frame(control_frame=True)
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    code: int = struct.unpack("!H", frame.data[:2])[0] if frame.data else 1005
                    return code
        except (websocket.WebSocketConnectionClosedException, ConnectionError):
            return None


def raw_http(broker: Broker, text: str) -> bytes:
    """Send lines unchanged, and return the bytes that come until the broker closes the connection."""
    with socket.create_connection(("127.0.0.1", broker.port), timeout=LIMIT) as connection:
        connection.sendall(text.replace("\n", "\r\n").encode("latin-1"))
        received = b""
        while True:
            data = connection.recv(65536)
            if not data:
                return received
            received += data
