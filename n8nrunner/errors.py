"""The errors that n8nrunner raises."""

from __future__ import annotations

from collections.abc import Sequence


class N8nRunnerError(Exception):
    """The base class of all errors that n8nrunner raises."""


class ConfigurationError(N8nRunnerError):
    """One or more settings are wrong.

    Attributes:
        problems: one sentence for each wrong setting.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(self.problems))

    def __reduce__(self) -> tuple[type, tuple[list[str]]]:
        return type(self), (self.problems,)


class AuthenticationError(N8nRunnerError):
    """The broker refused the shared secret or the grant token (docs/protocol.md, "Authentication")."""


class GrantTokenSpent(AuthenticationError):
    """The one-shot grant token is used up, so the runner cannot connect again."""


class BrokerConnectionError(N8nRunnerError):
    """No broker could be reached, or none registered the runner in time."""


class ProtocolError(N8nRunnerError):
    """The peer sent something that does not follow the protocol. The peer is at fault, not the caller."""


class TaskError(N8nRunnerError):
    """An error for the workflow's author, raised by a handler. n8n shows exactly its message and description.

    Args:
        message: the headline in n8n, also an attribute.
        description: the longer text below the headline, also an attribute; None for none.
    """

    def __init__(self, message: str, description: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.description = description


class TaskTimeout(TaskError):
    """The task has reached its time limit. n8n already has this error and ignores a later result."""


class TaskCancelled(TaskError):
    """The task was cancelled, its connection was lost, or the runner stops. A result is not wanted."""


class ExecutorBroken(N8nRunnerError):
    """The executor runs no tasks: its processes died, its owner shut it down, or it cannot start any.

    The runner's own threads are an executor too, which is broken if the system has no thread left for them.
    """


class RunnerFailed(N8nRunnerError):
    """A thread of the runner ended or could not start. `__cause__` is the unexpected error, if any."""


class RunnerStopped(N8nRunnerError):
    """The runner cannot start: `stop` was called, it is still stopping, or the program is ending."""


class RunnerForked(N8nRunnerError):
    """The runner was started before the process forked, and runs only in the parent process.

    Call ``start()`` to start it in this process as well.
    """
