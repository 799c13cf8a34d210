"""The configuration of a run: its settings, every check of them, and what hospitals are told."""
