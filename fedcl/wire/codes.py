"""Codes of Flower's errors that a hospital or a grid answers with."""

RAISED, GONE, CRASHED = 2, 5, 8
"""Flower's, for an app that raised, a node that is not connected, a process that died."""
TOO_LATE = 408
"""Ours, for an answer that would come too late."""
