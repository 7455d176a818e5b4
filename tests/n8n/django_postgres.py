"""The settings of samples/django_orders, with a PostgreSQL for its database."""

import os

from orders.settings import *  # noqa: F403 - as settings modules build on each other

DATABASES = {
    "default": {
        **DATABASES["default"],  # noqa: F405
        "ENGINE": "django.db.backends.postgresql",
        "HOST": "127.0.0.1",
        "PORT": os.environ["POSTGRES_PORT"],
        "NAME": "orders",
        "USER": "n8n",
    }
}
