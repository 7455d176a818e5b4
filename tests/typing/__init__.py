"""The types of n8nrunner, as type checkers and editors see them.

These modules are only type-checked, and never run. Each `type: ignore` is a mistake that mypy and pyright
have to find; both report an ignore that hides nothing.
"""
