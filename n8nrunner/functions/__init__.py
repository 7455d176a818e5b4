"""Functions as nodes: type hints become fields, arguments and results are converted, a package is written."""
