"""The embedded development broker: n8n's task broker without n8n.

```python
from n8nrunner.broker import Broker

with Broker(auth_token="secret") as broker:
    print(broker.url)                                   # for Runner(broker.url, auth_token="secret")
    print(broker.run_task("enrich", {"any": "settings"}, items=[{"json": {}}]))
```
"""

from __future__ import annotations

try:
    import aiohttp as _  # noqa: F401
except ImportError as error:
    raise ImportError(
        'the embedded broker needs aiohttp, which is not installed: pip install "n8nrunner[broker]"'
    ) from error

from n8nrunner.broker.behaviour import PROFILES
from n8nrunner.broker.constants import BrokerConstants
from n8nrunner.broker.counts import BrokerCounts, BrokerEvent
from n8nrunner.broker.errors import (
    BrokerNotRunning,
    BrokerTaskCancelled,
    BrokerTaskError,
    BrokerTaskExpired,
    BrokerTaskLost,
    BrokerTaskTimeout,
)
from n8nrunner.broker.server import Broker
from n8nrunner.broker.task import BrokerTask, SavedFile

__all__ = [
    "PROFILES", "Broker", "BrokerConstants", "BrokerCounts", "BrokerEvent", "BrokerNotRunning", "BrokerTask",
    "BrokerTaskCancelled", "BrokerTaskError", "BrokerTaskExpired", "BrokerTaskLost", "BrokerTaskTimeout",
    "SavedFile",
]  # fmt: skip
