"""The application and its runner, as a web server loads them. Both start even if n8n is down.

`python -m samples.flask_shop_wsgi` serves it with Flask's debugger and reloader.
"""

from __future__ import annotations

import os

from samples.flask_shop import app, runner

__all__ = ["app"]

# Without a token there is no n8n, as on a developer's machine. The reloader runs this module in two
# processes; only the one that serves requests has current code.
is_serving = __name__ != "__main__" or os.environ.get("WERKZEUG_RUN_MAIN") == "true"
if is_serving and os.environ.get("N8N_RUNNERS_AUTH_TOKEN"):
    runner.start(wait=0)

if __name__ == "__main__":
    app.run(debug=True, port=int(os.environ.get("PORT", "5000")))
