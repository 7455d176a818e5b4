"""The wire protocol between a runner and n8n's task broker, without any I/O.

Nothing in this package opens a socket, starts a thread, reads a clock or draws a random number:
time, ids and jitter are passed in. Described in docs/protocol.md.
"""
