"""fedcl: federated continual learning between hospitals."""

import os
import sys
from pkgutil import extend_path

# A folder `fedcl` elsewhere on the Python path, without a file __init__.py, adds its models,
# aggregations and privacy rules to these.
__path__ = extend_path(__path__, __name__)

# Where this lies, `sites` and `strategies` lie. An editable installation finds packages one by
# one, and a folder of plug-ins of the same name on the Python path would hide these two from it.
_place = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if _place not in sys.path:
    sys.path.append(_place)

__version__ = "0.1.0"

# These must be set before the libraries load; a user's own setting wins.
for _name, _value in {
    # Hospitals and researchers did not ask for telemetry.
    "FLWR_TELEMETRY_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # MLflow otherwise reports every step of making a database,
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # and goes on for minutes when a server does not answer.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    # Workers that reserve no share of a GPU may still use one.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}.items():
    os.environ.setdefault(_name, _value)
