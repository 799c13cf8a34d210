"""Where a model lies that a user names: in a file or folder, or in MLflow's registry."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedcl.tracking.names import SCHEME


@contextmanager
def at_hand(source: str, uri: str, key: str) -> Iterator[tuple[str, str]]:
    """Yield where a model lies on this machine; from the registry it is fetched.

    Args:
        source: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or a path, which stays as it is.
        uri: MLflow's address.
        key: what named it, for messages.

    Yields:
        A path, of what is there as long as it is used, and of a model in the registry its name
        with the number of the version, since an alias moves; empty for others.

    Raises:
        ConfigError: there is no such model, or MLflow does not answer.
    """
    if not source.startswith(SCHEME):
        yield source, ""
        return
    from fedcl.tracking.models import fetch  # takes seconds

    with tempfile.TemporaryDirectory(prefix="fedcl-model-") as folder:
        yield fetch(source, uri, key, Path(folder))
