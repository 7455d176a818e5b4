"""The node package of a runner: its description, its runtime, and the folder it is written to."""
