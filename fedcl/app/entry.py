"""Hydra's command line to runs, or a stored run to its end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Hydra then hands its exceptions over instead of printing a page and exiting with 1.
os.environ["HYDRA_FULL_ERROR"] = "1"

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from fedcl.app.resuming import changes, resumed
from fedcl.app.run_folder import claimed_new, holds_run
from fedcl.config.checked import checked
from fedcl.config.hydra import CONF, check_sites, in_one_line, with_plugins
from fedcl.config.stored import stored
from fedcl.errors import ConfigError, FedclError
from fedcl.interruption import ToldError, came, reason

if TYPE_CHECKING:
    from fedcl.server.results import Results


def run(arguments: Sequence[str]) -> int:
    """Run what a command line asks for; return the exit status, of a sweep the worst one."""
    codes = [0]
    try:
        folder = resumed(arguments)
        if folder is not None:
            codes.append(_resume(folder, arguments))
        else:
            arguments = with_plugins(arguments)
            _compose_and_run(arguments, codes)
    except ConfigError as error:
        print(f"fedcl: {error}", file=sys.stderr)
        return 2
    except Exception as error:  # `told` raises none: this is Hydra, refusing the command line
        if came():
            raise
        print(f"fedcl: {in_one_line(error, arguments)}", file=sys.stderr)
        return 2
    return max(codes)


def _resume(folder: Path, arguments: Sequence[str]) -> int:
    """Go on with a run; return the exit status."""
    change = changes(arguments)

    def act() -> Results:
        from fedcl.app import simulation

        return simulation.resume(folder, change)

    return told(folder, act)


def _compose_and_run(arguments: Sequence[str], codes: list[int]) -> None:
    """Let Hydra compose one configuration, or one per run of a sweep, and run it.

    Args:
        arguments: the command line.
        codes: gets the exit status of every run; Hydra hands no value through.
    """

    @hydra.main(version_base=None, config_path=str(CONF), config_name="config")
    def begin(composed: DictConfig) -> None:
        codes.append(_begin(composed, arguments))

    before, sys.argv = sys.argv, [sys.argv[0], *arguments]  # where Hydra reads it
    try:
        begin()
    finally:
        sys.argv = before


def _begin(composed: DictConfig, arguments: Sequence[str]) -> int:
    """Run one configuration in a new folder; return the exit status."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        check_sites(HydraConfig.get().overrides.task)
        values: Any = OmegaConf.to_container(composed, resolve=True)
        asked = any(one.startswith(("run.dir=", "hydra.run.dir=")) for one in arguments)
        with claimed_new(folder, exact=asked) as mine:

            def act() -> Results:
                config = checked(values)
                from fedcl.app import simulation  # a bad configuration need not wait for it

                return simulation.begin(values, mine, config)

            return told(mine, act)
    except ConfigError as error:
        print(f"fedcl: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        if folder.is_dir() and not any(folder.iterdir()):  # Hydra has made it
            folder.rmdir()


def told(folder: Path, act: Callable[[], Results]) -> int:
    """Run, tell what came of it, and return the exit status."""
    try:
        outcome = act()
    except FedclError as error:
        print(_exit_line(error, folder), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        raise _interrupted(folder) from None
    except Exception:
        if came():  # in the middle of an import a library may make another error of it
            raise _interrupted(folder) from None
        Console(stderr=True).print_exception()
        return 1
    try:
        _tell(folder, outcome)
    except (OSError, UnicodeError, SystemExit) as error:  # rich ends by the last where a pipe does
        reason = getattr(error, "strerror", None) or type(error).__name__
        said = f"fedcl: the run is complete; its figures could not be printed ({reason}), they are"
        print(f"{said} in {folder / 'results.json'}", file=sys.stderr)
        # What is still to be written cannot be either, and Python would fail over it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def _interrupted(folder: Path) -> ToldError:
    """Say that the user has interrupted a run, and how to go on; return what ends the command."""
    hint = "; nothing was begun"
    if holds_run(folder):
        hint = f"; go on with run.resume={folder}" if (folder / "checkpoint").exists() else ""
    print(f"fedcl: {reason()}{hint}", file=sys.stderr)
    return ToldError()


def _tell(folder: Path, outcome: Results) -> None:
    """Print what a run has led to, and where it lies."""
    from fedcl.reporting.terminal import report

    out = Console()
    out.print(report(outcome))
    lines = [f"run folder: {folder.resolve()}"]
    tracking = stored(folder)["tracking"]
    if tracking["enabled"]:
        known = outcome.tracking.get("experiment")
        lines += _how_to_open_mlflow(tracking["uri"], known)
    for line in lines:
        out.print(line, soft_wrap=True, markup=False, highlight=False)


def _how_to_open_mlflow(uri: str, experiment: str | None) -> list[str]:
    """Return the command that opens MLflow on `uri`, and the page of an experiment's runs.

    Without that parameter the page opens on views for language models (MLflow 3.17).
    """
    page = f"#/experiments/{experiment}?workflowType=machine_learning" if experiment else ""
    if uri.startswith(("http://", "https://")):
        return [f"MLflow:     {uri.rstrip('/')}/{page}"]
    program = Path(sys.executable).with_name("mlflow")
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    command = f"{program} ui --backend-store-uri {uri}"
    return [f"MLflow:     {command}", f"            http://127.0.0.1:5000/{page}"]


def _exit_line(error: FedclError, folder: Path) -> str:
    """Return the one line that tells a user what went wrong and, if it helps, how to go on."""
    can_resume = error.exit_code == 1 and (folder / "checkpoint").exists()
    hint = f"; go on with run.resume={folder}" if can_resume else ""
    return f"fedcl: {error}{hint}"
