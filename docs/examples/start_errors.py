# N8nRunnerError, AuthenticationError, GrantTokenSpent, BrokerConnectionError, ProtocolError
from n8nrunner import (
    AuthenticationError,
    BrokerConnectionError,
    GrantTokenSpent,
    N8nRunnerError,
    ProtocolError,
    Runner,
)
from n8nrunner.broker import Broker


def start(runner: Runner) -> str:
    """Start a runner, and say what a user should do."""
    try:
        runner.start(wait=5)
    except GrantTokenSpent:
        return "start it by its launcher again"
    except AuthenticationError:
        return "compare the tokens"
    except BrokerConnectionError:
        return "start n8n"
    except ProtocolError:
        return "look for a proxy between n8n and the runner"
    except N8nRunnerError as error:  # the base class of all of them
        return str(error)
    return "nothing"


with Broker(auth_token="secret") as broker:
    wrong = Runner(broker.url, auth_token="another one")
    wrong.task("nothing")(lambda task: None)
    assert start(wrong) == "compare the tokens"
