"""Simulate federated continual learning: `python simulate.py strategy=ted seed=1`.

Any configuration value can be given as group.key=value; `-m` runs a sweep. Exit status: 0
when every run completed, 2 for bad configuration or data, 130 on Ctrl-C, else 1.
"""

import os
import sys
from pathlib import Path
from typing import Any

# Hydra then hands its exceptions over instead of printing a page and exiting with 1.
os.environ["HYDRA_FULL_ERROR"] = "1"

import fedcl  # noqa: F401  isort: skip  (sets the environment before the libraries load)

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from fedcl import simulation
from fedcl.composition import CONF, check_sites, in_one_line
from fedcl.conduct import stored
from fedcl.errors import ConfigError, FedclError
from fedcl.progress import console, report

OmegaConf.register_new_resolver("run_folder", lambda resume, new: "." if resume else new)

exit_status = 0  # the worst of the runs of a sweep


@hydra.main(version_base=None, config_path=str(CONF), config_name="config")
def run(config: DictConfig) -> None:
    """Run one configuration; Hydra calls this once, or once per run of a sweep."""
    global exit_status
    folder = Path(config.run.resume or HydraConfig.get().runtime.output_dir)
    try:
        check_sites(HydraConfig.get().overrides.task)
        if config.run.resume:
            outcome = simulation.resume(folder, lambda stored: _change(stored, config))
        else:
            values: Any = OmegaConf.to_container(config, resolve=True)
            outcome = simulation.simulate(values, folder)
    except FedclError as error:
        if folder.is_dir() and not any(folder.iterdir()):  # Hydra has made it
            folder.rmdir()
        print(simulation.exit_line(error, folder), file=sys.stderr)
        exit_status = max(exit_status, error.exit_code)
        return
    except KeyboardInterrupt:
        hint = f"; go on with run.resume={folder}" if (folder / "checkpoint").exists() else ""
        print(f"fedcl: interrupted{hint}", file=sys.stderr)
        raise
    except Exception:
        console.print_exception()
        exit_status = max(exit_status, 1)
        return
    out = Console()
    out.print(report(outcome))
    out.print(f"run folder: {folder.resolve()}", soft_wrap=True)
    tracking = stored(folder)["tracking"]
    if tracking["enabled"]:
        command = simulation.how_to_open_mlflow(tracking["uri"])
        out.print(f"MLflow:     {command}", soft_wrap=True)


def main() -> int:
    """Run Hydra; return the exit status."""
    try:
        run()
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # `run` raises none: this is Hydra, refusing the command line
        print(f"fedcl: {in_one_line(error, sys.argv[1:])}", file=sys.stderr)
        return 2
    return exit_status


def _change(stored: dict[str, Any], config: DictConfig) -> None:
    """Carry the engine settings of the command line over into a stored configuration.

    Raises:
        ConfigError: the command line sets something that would change the results.
    """
    for override in HydraConfig.get().overrides.task:
        key = override.partition("=")[0].lstrip("+~")
        if key == "engine":
            stored["engine"] = OmegaConf.to_container(config.engine, resolve=True)
        elif key.startswith("engine."):
            stored["engine"][key.removeprefix("engine.")] = OmegaConf.select(config, key)
        elif key != "run.resume":
            raise ConfigError(
                f"{key}: a resumed run keeps its configuration; only engine.* may be given"
            )


if __name__ == "__main__":
    sys.exit(main())
