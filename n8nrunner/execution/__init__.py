"""Runs handlers, on a pool of threads or on the caller's `concurrent.futures.Executor`."""
