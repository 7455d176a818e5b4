"""Tests of functions over the real wire, without n8n (docs/testing.md).

```python
from n8nrunner import testing
from leads import runner

with testing.serve(runner) as n8n:
    assert n8n.call("score_lead", email="ada@example.com")[0].json["score"] == 15
```

With pytest, the fixtures `n8n_runner` and `n8n_broker` do the same.
"""

from __future__ import annotations

from n8nrunner.testing.errors import CallFailed
from n8nrunner.testing.items import Item
from n8nrunner.testing.node import Node
from n8nrunner.testing.serving import ServedRunner, serve

__all__ = ["CallFailed", "Item", "Node", "ServedRunner", "serve"]
