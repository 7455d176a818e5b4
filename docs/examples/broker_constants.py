# BrokerConstants, PROFILES
from n8nrunner.broker import PROFILES, Broker, BrokerConstants

assert PROFILES == ("1.123", "2.27", "2.40")
impatient = BrokerConstants(request_timeout=1, task_timeout=10)
with Broker(auth_token="secret", profile=PROFILES[0], constants=impatient) as broker:
    assert broker.is_running
