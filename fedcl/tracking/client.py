"""A client of MLflow that has answered, and errors in one line."""

import logging
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from mlflow.tracking import MlflowClient

from fedcl.errors import ConfigError

SQLITE = "sqlite:///"


PATIENCE = 5.0  # seconds to wait for a server to say that it is there


def connect(uri: str, key: str, hint: str = "") -> MlflowClient:
    """Return a client of the MLflow at `uri`, once it has answered.

    Args:
        uri: MLflow's tracking address.
        key: the setting that gave it, for messages.
        hint: what to do without it.

    Raises:
        ConfigError: it does not answer.
    """
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if not uri:
        raise ConfigError(
            f"{key}: MLflow's address is empty; give tracking.uri, --uri or, to a server, "
            f"FEDCL_TRACKING in its start.sh{hint}"
        )
    with asking(uri, key, hint):
        if uri.startswith(("http://", "https://")):  # the client itself would try for minutes
            requests.get(f"{uri.rstrip('/')}/health", timeout=PATIENCE).raise_for_status()
        if uri.startswith(SQLITE):
            _make_database(Path(uri.removeprefix(SQLITE)))
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


@contextmanager
def asking(uri: str, key: str, hint: str = "") -> Iterator[None]:
    """Turn whatever MLflow at `uri` fails with into one line; arguments as for `connect`."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # who knows what answers there, and in what way it fails
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, requests.ConnectionError):  # of which it says a paragraph
            reason = "no connection"
        raise ConfigError(f"{key}: MLflow does not answer at {uri} ({reason}){hint}") from error


def _make_database(file: Path) -> None:
    """Make MLflow's tables, unless the file is there: aside, then put in place as a whole.

    Two runs that begin at once would otherwise make the tables at the same time and leave a
    database that no later run can open.
    """
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as aside:
        new = Path(aside) / file.name
        MlflowClient(tracking_uri=f"{SQLITE}{new}").search_experiments(max_results=1)
        try:
            os.link(new, file)
        except FileExistsError:  # another run was quicker
            return
        except OSError:  # a file system without links
            if not file.exists():
                new.rename(file)


def spelt(key: str) -> str:
    """Return `key` in the letters MLflow takes, for sites of any name.

    Others become their number, so that A+B and A&B stay two.
    """
    return re.sub(r"[^\w\-. :/]", lambda odd: f"_{ord(odd[0]):02X}", key)


COMPARISON = "fedcl.comparison"
"""The tag of runs that compare others."""
