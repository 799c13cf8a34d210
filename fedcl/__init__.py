"""fedcl: federated continual learning between hospitals."""

import os

__version__ = "0.1.0"

# Hospitals and researchers did not ask for telemetry; a user's own setting still wins.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
