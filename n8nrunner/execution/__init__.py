"""Runs handlers, on the runner's threads or on an executor of `concurrent.futures`."""
