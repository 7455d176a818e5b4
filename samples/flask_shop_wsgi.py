"""The application as a web server loads it, with the runner beside it; it starts whether n8n is up or not."""

from __future__ import annotations

import os

from samples.flask_shop import app, runner

__all__ = ["app"]

# Without a token there is no n8n, as on a developer's machine.
if os.environ.get("N8N_RUNNERS_AUTH_TOKEN"):
    runner.start(wait=0)
