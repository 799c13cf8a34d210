"""What `simulate.py` does: Hydra's command line to runs, or a stored run to its end."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Hydra then hands its exceptions over instead of printing a page and exiting with 1.
os.environ["HYDRA_FULL_ERROR"] = "1"

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from fedcl.app import simulation
from fedcl.app.resuming import changes, resumed
from fedcl.app.run_folder import claimed_new, stored
from fedcl.config.hydra import CONF, check_sites, in_one_line
from fedcl.errors import ConfigError, FedclError
from fedcl.interruption import Told, reason
from fedcl.reporting.console import console
from fedcl.reporting.terminal import report

_status = [0]  # the worst of the runs of a sweep; Hydra hands no value through


def main() -> int:
    """Run the command line; return the exit status."""
    _status[0] = 0
    arguments = sys.argv[1:]
    try:
        folder = resumed(arguments)
        if folder is not None:
            change = changes(arguments)
            _one(folder, lambda: simulation.resume(folder, change))
        else:
            _run()
    except ConfigError as error:
        print(f"fedcl: {error}", file=sys.stderr)
        return 2
    except Exception as error:  # `_one` raises none: this is Hydra, refusing the command line
        print(f"fedcl: {in_one_line(error, arguments)}", file=sys.stderr)
        return 2
    return _status[0]


@hydra.main(version_base=None, config_path=str(CONF), config_name="config")
def _run(config: DictConfig) -> None:
    """Run one configuration; Hydra calls this once, or once per run of a sweep."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    overrides = HydraConfig.get().overrides.task
    try:
        check_sites(overrides)
        values: Any = OmegaConf.to_container(config, resolve=True)
        asked = any(one.startswith(("run.dir=", "hydra.run.dir=")) for one in sys.argv)
        with claimed_new(folder, exact=asked) as mine:
            _one(mine, lambda: simulation.begin(values, mine))
    except ConfigError as error:
        print(f"fedcl: {error}", file=sys.stderr)
        _status[0] = max(_status[0], error.exit_code)
    finally:
        if folder.is_dir() and not any(folder.iterdir()):  # Hydra has made it
            folder.rmdir()


def _one(folder: Path, act: Callable[[], dict[str, Any]]) -> None:
    """Run, tell what came of it, and note the exit status."""
    try:
        outcome = act()
    except FedclError as error:
        print(simulation.exit_line(error, folder), file=sys.stderr)
        _status[0] = max(_status[0], error.exit_code)
    except KeyboardInterrupt:
        hint = f"; go on with run.resume={folder}" if (folder / "checkpoint").exists() else ""
        print(f"fedcl: {reason()}{hint}", file=sys.stderr)
        raise Told from None
    except Exception:
        console.print_exception()
        _status[0] = max(_status[0], 1)
    else:
        _tell(folder, outcome)


def _tell(folder: Path, outcome: dict[str, Any]) -> None:
    """Print what a run has led to, and where it lies."""
    out = Console()
    out.print(report(outcome))
    out.print(f"run folder: {folder.resolve()}", soft_wrap=True, markup=False, highlight=False)
    tracking = stored(folder)["tracking"]
    if tracking["enabled"]:
        command = simulation.how_to_open_mlflow(tracking["uri"])
        out.print(f"MLflow:     {command}", soft_wrap=True, markup=False, highlight=False)
