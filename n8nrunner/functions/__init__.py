"""Functions as nodes: type hints become fields, arguments and results are converted, a package is written.

Threads: the caller that registers a function reads its hints, and the caller that writes a node describes it.
Arguments and results are converted on the handler's thread, or in a process of an executor.
"""
