"""The command `n8nrunner check`: finds out why a runner and n8n do not come together, and what to change.

`walk.py` performs the steps of a connection and observes; `causes.py` names the causes of what was observed.
"""
