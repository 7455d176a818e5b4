"""Runs handlers: on a pool of threads, or on whatever `concurrent.futures.Executor` the caller passes."""
