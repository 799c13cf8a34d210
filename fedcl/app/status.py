"""The command `fedcl status`: which hospitals are there, and how far runs have got."""

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.run_pb2 import Run
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedcl.app.provision.federation import expires
from fedcl.app.provision.hospitals import superlink
from fedcl.app.run_folder import holds_run
from fedcl.errors import ConfigError, FedclError, one_line
from fedcl.files import locked
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.results import Results
from fedcl.server.state import State
from fedcl.wire.control import heard

LATEST = 5
"""How many runs are told of, and of each how many failures."""
COUNTS = ("delivered", "lost", "refused", "again")


def tell(place: Path, as_json: bool, console: Console) -> int:
    """Print how a federation, or a run, is doing; return 1 where part of it cannot be told.

    Args:
        place: see `status`.
        as_json: whether for a program.
        console: where to.

    Raises:
        ConfigError: see `status`.
    """
    told = status(place)
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        for part in _in_words(told):
            console.print(part, soft_wrap=isinstance(part, str), highlight=False)
    return int(any(one["problem"] for one in (told, *told["runs"])))


def status(place: Path) -> dict[str, Any]:
    """Return how a federation, or a run, is doing.

    Args:
        place: the folder that `fedcl deploy` wrote, the server's part of it, or a run's folder.

    Returns:
        `hospitals`, those that the SuperLink knows; `refused`, runs that ended before they had a
        folder; `problem`, why it cannot be asked; `runs`, the latest first.
        docs/reference/commands.md says what is in them.

    Raises:
        ConfigError: it is no such folder.
    """
    told: dict[str, Any] = {"certificate": None, "hospitals": [], "refused": [], "problem": None}
    if holds_run(place):
        return told | {"runs": [_run(place)]}
    server = next((one for one in (place / "server", place) if (one / "flwr").is_dir()), None)
    if server is None:
        raise ConfigError(f"status: {place} is no run's folder, and none that fedcl deploy wrote")
    try:
        told["certificate"] = _moment(expires(server).timestamp())
        with superlink(server) as link:
            nodes = sorted(link.nodes(), key=lambda node: node.name)
            told["hospitals"] = [_hospital(node) for node in nodes]
            told["refused"] = [
                _refused(run)
                for run in link.failed(LATEST)
                if not holds_run(server / "runs" / f"run-{run.run_id}")
            ]
    except FedclError as error:
        told["problem"] = str(error)
    runs = [one for one in (server / "runs").glob("run-*") if holds_run(one)]
    runs.sort(key=lambda one: one.stat().st_mtime, reverse=True)
    return told | {"runs": [_run(one) for one in runs[:LATEST]]}


def _hospital(node: NodeInfo) -> dict[str, Any]:
    """Return what is known of a hospital that a server lets in."""
    times = {"online": node.last_activated_at, "offline": node.last_deactivated_at}
    since = times.get(node.status, node.registered_at)
    one = {"site": node.name, "state": node.status, "since": _moment(since)}
    return {**one, "heard": _moment(heard(node))}


def _refused(run: Run) -> dict[str, Any]:
    """Return what became of a run that has failed and left nothing."""
    reason = one_line(run.status.details) or "flwr log says why"
    return {"run": f"run-{run.run_id}", "ended": _moment(run.finished_at), "reason": reason}


def _moment(when: str | float | None) -> str | None:
    """Return a time as ISO 8601 in UTC, to the second."""
    if when is None:
        return None
    if isinstance(when, str):
        read = datetime.datetime.fromisoformat(when)
    else:
        read = datetime.datetime.fromtimestamp(when, datetime.UTC)
    return read.astimezone(datetime.UTC).isoformat(timespec="seconds")


def _run(folder: Path) -> dict[str, Any]:
    """Return how far a run has got, by its latest snapshot."""
    told: dict[str, Any] = {"run": folder.resolve().name, "problem": None}
    try:
        done = Results.read(folder)
        told["state"] = "running" if locked(folder) else "stopped"
        if done is not None and done.completed:
            told["state"] = "completed"
        state = Checkpoint(folder / "checkpoint").load()
        if state is None:
            raise ConfigError(f"{folder}: nothing is written down yet")
    except (FedclError, OSError) as error:
        return told | {"problem": str(error)}
    stages, rounds = (state.configuration[f"timeline.{key}"] for key in ("stages", "rounds"))
    stage = min(state.stage, len(stages) - 1)
    return told | {
        "updated": _moment((folder / "checkpoint").stat().st_mtime),
        "stage": stage + 1,
        "stages": len(stages),
        "round": state.round,
        "rounds": len(stages) * rounds,
        "bytes": state.ledger.bytes,
        "sites": _sites(state, [site for arriving in stages for site in arriving]),
        "failed": len(state.ledger.failures),
        "failures": state.ledger.failures[-LATEST:],
    }


def _sites(state: State, sites: list[str]) -> dict[str, dict[str, Any]]:
    """Return what each site has done so far; of one that is still to come, nothing."""
    trained = {site for stage in state.trained for site in stage}
    return {
        site: {
            "trained": site in trained,
            "left_out": site in state.shut_out,
            "share": state.ledger.shares.get(site, {}).get("last", 0.0),
            **{what: state.ledger.reputation.get(site, {}).get(what, 0) for what in COUNTS},
        }
        for site in sites
        if site in state.digests
    }


def _in_words(told: dict[str, Any]) -> Iterator[str | Table]:
    """Yield what a person reads."""
    if told["problem"]:
        yield escape(told["problem"])
    if told["hospitals"]:
        table = Table("hospital", "", "since", "last heard of")
        for node in told["hospitals"]:
            keys = ("site", "state", "since", "heard")
            table.add_row(*(escape(node[key] or "never") for key in keys))
        yield table
    if told["certificate"]:
        yield f"the server's certificate lasts until {told['certificate']}"
    for run in told["refused"]:
        yield escape(f"{run['run']}: failed, and has no folder ({run['ended']}): {run['reason']}")
    for run in told["runs"]:
        if run["problem"]:
            yield escape(f"{run['run']}: {run['problem']}")
            continue
        sent = ", ".join(f"{_size(run['bytes'][way])} {way}" for way in ("down", "up"))
        yield escape(
            f"{run['run']}: {run['state']}, stage {run['stage']} of {run['stages']}, round "
            f"{run['round']} of {run['rounds']} done ({run['updated']}); {sent}"
        )
        table = Table("hospital", "share", *COUNTS)
        for site, known in run["sites"].items():
            share = "left out" if known["left_out"] else f"{known['share']:.0%}"
            table.add_row(escape(site), share, *(str(known[what]) for what in COUNTS))
        yield table
        if run["failed"] > len(run["failures"]):
            yield f"the last of {run['failed']} failures:"
        for one in run["failures"]:
            where = f"stage {one['stage']}, round {one['round']}, {one['what']}"
            yield escape(f"{one['site']}: {where}: {one['reason']}")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
