"""The connection to one broker: its thread, its socket, and when it tries again."""
