"""The errors fedcl raises on purpose: one line each, with the exit status they lead to."""


class FedclError(Exception):
    """Base of all errors a user can act on; `exit_code` is what the command ends with."""

    exit_code = 1


class ConfigError(FedclError):
    """A bad configuration; the message names the key."""

    exit_code = 2


class DataError(FedclError):
    """Bad data; the message names the site and, where there is one, the file."""

    exit_code = 2


class RunError(FedclError):
    """A run that cannot go on; what was done so far is kept and can be resumed."""
