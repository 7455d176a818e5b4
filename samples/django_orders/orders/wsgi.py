"""The application and its runner, as a web server loads them.

The runner is not started in `AppConfig.ready`, which also runs for `manage.py migrate` and other commands.
A server that forks after it has loaded this module (gunicorn with --preload) has to call
`runner.start(wait=0)` in each worker.
"""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orders.settings")
application = get_wsgi_application()

from orders.functions import runner  # noqa: E402 - models can be imported only now

# Without a token there is no n8n, as on a developer's machine.
if os.environ.get("N8N_RUNNERS_AUTH_TOKEN"):
    runner.start(wait=0)
