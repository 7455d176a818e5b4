"""How long hypothesis looks for counterexamples in this folder.

``PROTOCOL_EFFORT=thorough pytest tests/protocol`` looks much longer; ``mutation`` is for the mutation
tool, which needs the same examples every time (docs/mutation.md).
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

#: Examples of a plain property, runs of a state machine, and steps of one run.
_EFFORTS = {"default": (100, 150, 50), "thorough": (5000, 5000, 100), "mutation": (50, 60, 50)}

EFFORT = os.environ.get("PROTOCOL_EFFORT", "default")
if EFFORT not in _EFFORTS:
    raise ValueError(f"PROTOCOL_EFFORT is {EFFORT!r}, expected one of {', '.join(_EFFORTS)}")

_examples, _runs, _steps = _EFFORTS[EFFORT]

#: For properties.
examples = settings(
    max_examples=_examples,
    deadline=None,
    derandomize=EFFORT == "mutation",
    # The mutation tool runs the tests several times in one process, which hypothesis finds unhealthy.
    suppress_health_check=list(HealthCheck) if EFFORT == "mutation" else [HealthCheck.too_slow],
)
#: For state machines.
runs = settings(examples, max_examples=_runs, stateful_step_count=_steps)
