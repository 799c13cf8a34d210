"""The command `fedcl hospital`: what runs at a hospital."""

import logging
import os
from http import HTTPStatus
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fedcl.errors import ConfigError, FedclError, RunError
from fedcl.hospital.message_loop import MessageLoop
from fedcl.hospital.worker import Worker
from fedcl.interruption import exit_code, interruptible
from fedcl.wire.supernode import linked, node_config

LOG = "hospital.log"
SIZE, OLDER = 5 * 2**20, 5
"""Bytes of the log, and how many older ones are kept."""
UNKNOWN = (
    "the server does not know this hospital's key: it was rotated or revoked; ask the operator"
)

log = logging.getLogger("fedcl")


def attend(folder: Path, superlink: str, node: str) -> int:
    """Answer the server's calls until a signal ends it; return the exit status.

    Args:
        folder: of the hospital: its key, the authority's certificate, `allowed.yaml` and the log.
        superlink: address of the server, as host:port.
        node: the hospital's own configuration: site, state-path, data-path.

    Raises:
        ConfigError: something is missing in the folder or in the configuration.
        RunError: the link to the server has ended.
    """
    own = node_config(node)
    for name in ("site", "state-path"):
        if name not in own:
            raise ConfigError(f"hospital --node-config: {name} is missing")
    os.umask(0o077)  # what is written here is of patients
    _keep_log(folder / LOG)
    log.info("hospital %s: its server is %s", own["site"], superlink)
    with interruptible():
        try:
            with linked(superlink, folder / "ca.crt", folder / "key") as link:
                loop = MessageLoop(link, lambda: Worker(own, folder))
                try:
                    loop.run()
                finally:
                    loop.close()
        except KeyboardInterrupt:
            log.info("stopped")
            return exit_code()
        except FedclError as error:
            log.error("%s", error)
            raise
        except Exception as error:  # Flower's, or the network's
            answer = getattr(error, "response", None)
            if getattr(answer, "status_code", None) == HTTPStatus.PRECONDITION_FAILED:
                log.error(UNKNOWN)  # the gate's word, see nginx.conf
                raise RunError(UNKNOWN) from None
            log.exception("the link to the server has ended")
            raise RunError(f"the link to the server has ended ({error!r})") from None
    raise RunError("the link to the server has ended")  # attending does not end by itself


def _keep_log(file: Path) -> None:
    """Write what is logged into a file, and to standard error."""
    form = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    for handler in (
        RotatingFileHandler(file, maxBytes=SIZE, backupCount=OLDER), logging.StreamHandler(),
    ):  # fmt: skip
        handler.setFormatter(form)
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
