"""Every error that n8nrunner raises on purpose.

The tree::

    N8nRunnerError
    +-- ConfigurationError       a setting is wrong; nothing was started
    +-- AuthenticationError      the broker refused the token
    |   +-- GrantTokenSpent      a one-shot grant token has been used up
    +-- BrokerConnectionError    no broker could be reached, or none registered the runner in time
    +-- ProtocolError            the broker sent something that is not the protocol
    +-- TaskError                shown to the workflow's author as it is
    |   +-- TaskTimeout          the task ran into its time limit
    |   +-- TaskCancelled        the task was cancelled, or its connection was lost
    +-- ExecutorBroken           the executor cannot run tasks any more
    +-- RunnerFailed             a thread of the runner ended because of an unexpected error
    +-- RunnerStopped            stop() was called while start() was under way
    +-- RunnerForked             the runner belongs to the parent process
"""

from __future__ import annotations

from collections.abc import Sequence


class N8nRunnerError(Exception):
    """Base of all errors of this package."""


class ConfigurationError(N8nRunnerError):
    """One or more settings cannot work.

    Args:
        problems: one sentence for each wrong setting; all of them are reported together.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(self.problems))

    def __reduce__(self) -> tuple[type, tuple[list[str]]]:
        return type(self), (self.problems,)


class AuthenticationError(N8nRunnerError):
    """The broker refused the shared secret or the grant token (docs/protocol.md, "Authentication")."""


class GrantTokenSpent(AuthenticationError):
    """The one-shot grant token has been used, so there is no way to connect again."""


class BrokerConnectionError(N8nRunnerError):
    """The broker could not be reached, or did not register the runner in the time given."""


class ProtocolError(N8nRunnerError):
    """The peer sent something that the protocol does not know. The peer is at fault, not the caller."""


class TaskError(N8nRunnerError):
    """Raise it in a handler to show exactly this to the workflow's author.

    Args:
        message: the headline of the error in n8n.
        description: a longer text below the headline.
    """

    def __init__(self, message: str, description: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.description = description

    def __reduce__(self) -> tuple[type, tuple[str, str | None]]:
        return type(self), (self.message, self.description)


class TaskTimeout(TaskError):
    """The task has run into its time limit; n8n has been told, and no result is wanted any more."""


class TaskCancelled(TaskError):
    """The task was cancelled, its connection was lost, or the runner stops; no result is wanted any more."""


class ExecutorBroken(N8nRunnerError):
    """The executor takes no more work: its processes died, or it was shut down by its owner."""


class RunnerFailed(N8nRunnerError):
    """A thread of the runner ended because of an unexpected error, which is the cause of this one."""


class RunnerStopped(N8nRunnerError):
    """The runner was stopped while it was starting, so `start` cannot do what it was called for."""


class RunnerForked(N8nRunnerError):
    """This runner was started before the process forked, and goes on in the parent process only.

    Call ``start()`` to begin afresh in this process.
    """
