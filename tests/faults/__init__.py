"""Faults on purpose, and the accounts of both sides: nothing may be lost without account, nothing done twice.

`python -m tests.faults --seconds N`: a runner, in a process of its own, serves three embedded brokers under
load. A proxy stands before each broker and cuts, resets, half closes, delays, silences and slows down its
connections, or breaks them in the middle of a frame; brokers are killed, and stopped and started again.

`python -m tests.faults --kills N`: the runner's process is killed (SIGKILL) N times with tasks in flight.

`python -m tests.faults --fuzz frames|http|conversions --seconds N`: random input to what reads what others
send. An exception that escapes, or memory or time beyond its bounds, ends the run with the seed and the
input.

At the end of the first two the callers' book of what became of each task is compared with the runner's book
of what it did (`ledger.py`). A run is given by its seed, which is printed: the same seed makes the same
faults, at the same seconds, and the same tasks. They need Linux.

Exit code 0: nothing was lost, doubled, wrong, or left behind.
"""
