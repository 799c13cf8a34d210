"""What models are called in MLflow's registry."""

SCHEME = "models:/"
"""How a reference to a model in it begins."""
NAME = r"[A-Za-z0-9][\w. -]{0,99}"
"""What a model in it may be called."""
RELEASED = "released"
"""The alias of the version in use."""
