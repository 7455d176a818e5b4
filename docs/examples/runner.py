# Runner, Runner.start, Runner.stop, Runner.state, Runner.error, Runner.is_registered
from n8nrunner import Runner
from n8nrunner.broker import Broker

with Broker(auth_token="secret") as broker:  # stands in for n8n
    runner = Runner(broker.url, auth_token="secret", name="leads")

    @runner.function
    def score_lead(email: str, budget: float = 0.0) -> dict:
        """Score one lead."""
        return {"score": len(email) + budget}

    runner.start()
    assert runner.is_registered
    assert runner.state == "running"
    runner.stop()
    assert runner.state == "stopped"
    assert runner.error is None
