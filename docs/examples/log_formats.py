# TextFormatter, TextFormatter.format, JsonFormatter, JsonFormatter.format
import json
import logging

from n8nrunner import JsonFormatter, TextFormatter

record = logging.makeLogRecord({"name": "n8nrunner", "levelname": "INFO", "msg": "Registered", "levelno": 20})
assert "Registered" in TextFormatter().format(record)
assert json.loads(JsonFormatter().format(record))["message"] == "Registered"

handler = logging.StreamHandler()
handler.setFormatter(JsonFormatter())  # then logging.getLogger().addHandler(handler)
