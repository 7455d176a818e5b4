"""`manage.py runner`: the runner in a process of its own, not in the web server's."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from orders.functions import runner


class Command(BaseCommand):
    help = "Serve the functions of this application to n8n until SIGINT or SIGTERM."

    def handle(self, *args: Any, **options: Any) -> None:
        runner.run()
