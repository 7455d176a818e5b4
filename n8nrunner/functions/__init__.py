"""Typed functions that become nodes: hints in, arguments and items across, a node package out."""
