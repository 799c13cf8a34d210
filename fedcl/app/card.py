"""The command `fedcl card`: what a run's model is, for whoever is to use it."""

from pathlib import Path

from fedcl import arrays
from fedcl.config.stored import stored
from fedcl.errors import ConfigError, RunError
from fedcl.files import write_atomically
from fedcl.release.card import card
from fedcl.release.known import stage_of
from fedcl.release.overrides import overrides
from fedcl.server.begin import load
from fedcl.server.results import Results


def tell(
    run: Path, out: Path | None, hidden: bool, stage: int | None = None, model: str | None = None
) -> str | None:
    """Return the model card of a run, or write it into a file.

    Args:
        run: its folder.
        out: the file; None, and the card is returned.
        hidden: whether hospitals are numbered instead of named.
        stage: after which, from 1; None for the last one finished.
        model: which of several architectures; None for all.

    Raises:
        ConfigError: there is no such run, stage or architecture.
        RunError: the file cannot be written.
    """
    values, results = stored(run, "RUN"), Results.read(run)
    if results is None:
        raise ConfigError(f"RUN: {run} has no results.json: the run has not ended")
    file = run / "checkpoint" / f"stage-{stage_of(results, stage)}.safetensors"
    digest = arrays.digest(load(file, "RUN")) if file.is_file() else None
    told = card(
        results, values, hidden=hidden, stage=stage, model=model,
        command=overrides(values), sha256=digest,
    )  # fmt: skip
    if out is None:
        return told
    try:
        write_atomically(out, told.encode())
    except OSError as error:
        raise RunError(f"--out: {out}: {error.strerror}") from None
    return None
