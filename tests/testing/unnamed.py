"""A program whose runner has no name of its own."""

from n8nrunner import Runner

runner = Runner()
runner.start()  # does nothing while a test imports it for its runner


@runner.function
def text(value: str) -> str:
    return value
