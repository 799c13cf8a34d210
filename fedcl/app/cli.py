"""The command `fedcl`: simulate, look at data and at runs, prepare a federation.

What a command needs is imported when it is run, so that help and mistakes are told at once.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fedcl import __version__
from fedcl.errors import ConfigError, FedclError
from fedcl.tracking.source import at_hand

MODEL = "folder of a run or of a bundle, or models:/NAME@released of MLflow's registry"
MLFLOW = "sqlite:///mlflow.db"
EXAMPLES = "e.g. fedcl compare outputs/2026-01-31/12-00-00 --out outputs/report"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given[:1] == ["simulate"]:  # the rest is Hydra's to read
        from fedcl.app.simulate import main as simulate

        return simulate(given[1:])
    asked = _parser().parse_args(given)
    try:
        return asked.run(asked) or 0
    except FedclError as error:
        print(f"fedcl: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    parser = argparse.ArgumentParser(
        prog="fedcl", description="Federated continual learning between hospitals."
    )
    parser.add_argument("--version", action="version", version=f"fedcl {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser(
        "simulate", add_help=False,
        help="run a simulation: KEY=VALUE ..., -m for a sweep; the same as simulate.py",
    )  # fmt: skip
    about = "check a scenario's data and say what it holds, without training"
    command = commands.add_parser("inspect", help=about, description=about)
    command.add_argument("overrides", nargs="*", help="as for simulate.py: scenario=NAME ...")
    command.add_argument(
        "--sheets", type=Path, metavar="FOLDER",
        help="write a picture per site into it: images, labels, intensities",
    )  # fmt: skip
    command.set_defaults(run=inspect)
    about = "write table.csv, table.md, table.tex and report.html from finished runs"
    command = commands.add_parser("compare", help=about, description=about, epilog=EXAMPLES)
    command.add_argument(
        "sources", nargs="+", metavar="RUN_OR_EXPERIMENT",
        help="folders of runs or of sweeps, or names of MLflow experiments",
    )  # fmt: skip
    command.add_argument("--out", type=Path, required=True, help="folder to write into")
    command.add_argument("--uri", default=MLFLOW, help="where MLflow keeps them")
    command.add_argument("--reference", help="test against it; default ted, else the best")
    command.add_argument(
        "--where", action="append", default=[], metavar="KEY=VALUE",
        help="take only runs with this setting, e.g. timeline.rounds=8; may be repeated",
    )  # fmt: skip
    command.add_argument("--strict", action="store_true", help="refuse runs not completed")
    command.add_argument("--mix", action="store_true", help="compare what differs all the same")
    command.set_defaults(run=compare)
    about = "run a published table, method by method, and write it beside the published numbers"
    command = commands.add_parser("reproduce", help=about, description=about)
    command.add_argument(
        "table", metavar="TABLE", help="its name, e.g. ted_prostate; any other word lists them all"
    )
    command.add_argument("root", type=Path, metavar="ROOT", help="where the data of all sites lie")
    command.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    command.add_argument("--seeds", help="e.g. 42,43,44; default: those of the table")
    command.add_argument("--only", help="rows to run, e.g. finetune,kd,ted; default: all")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="a setting of every run, e.g. engine=inprocess; may be repeated",
    )  # fmt: skip
    command.set_defaults(run=reproduce)
    about = "write a mask for every image in a folder, as a run's model sees it"
    command = commands.add_parser("predict", help=about, description=about)
    command.add_argument("source", metavar="MODEL", help=MODEL)
    command.add_argument(
        "--uri", default=MLFLOW, help=f"where MLflow keeps models; default: {MLFLOW}"
    )
    command.add_argument("--images", type=Path, required=True, help="folder of images")
    command.add_argument("--out", type=Path, required=True, help="folder to write into, new")
    command.add_argument("--site", help="as whose images; default: samples as large as the largest")
    command.add_argument("--stage", type=int, help="after which stage, from 1; default: the last")
    command.add_argument("--model", help="of several architectures; default: the site's")
    command.add_argument(
        "--pattern", default="{case}",
        help="which files are images, as scenario.image, e.g. '{case}_{channel}.nii.gz'",
    )  # fmt: skip
    command.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    command.add_argument(
        "--no-overlays", action="store_true",
        help="no pictures and no page to look through them: they show patients",
    )  # fmt: skip
    command.set_defaults(run=predict)
    about = "tell what a run's model is, who trained it on what and how well it does, in Markdown"
    command = commands.add_parser("card", help=about, description=about)
    command.add_argument("run_folder", type=Path, metavar="RUN", help="folder of the run")
    command.add_argument("--stage", type=int, help="after which stage, from 1; default: the last")
    command.add_argument("--model", help="of several architectures; default: all of them")
    command.add_argument(
        "--hide-names", action="store_true", help="call hospitals Hospital 1, 2, ..."
    )
    command.add_argument("--out", type=Path, metavar="FILE", help="write it there; default: print")
    command.set_defaults(run=card)
    about = "make the model that would have been without a hospital, from a run that had it"
    command = commands.add_parser("forget", help=about, description=about)
    command.add_argument("run_folder", type=Path, metavar="RUN", help="folder of the run")
    command.add_argument("--site", required=True, help="the hospital that withdraws")
    command.add_argument("--out", type=Path, required=True, help="folder of the new run")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="as with run.resume: engine.*, tracking.*, or a path such as scenario.root; may be "
        "repeated",
    )  # fmt: skip
    command.add_argument(
        "--search", action="store_true",
        help="play nothing, and search the folder --out for what the hospital gave to the run",
    )  # fmt: skip
    command.set_defaults(run=forget)
    about = "write a run's model as a MONAI bundle, ONNX or TorchScript, or a field as NIfTI"
    command = commands.add_parser("export", help=about, description=about)
    command.add_argument("source", metavar="MODEL", help=MODEL)
    command.add_argument(
        "--uri", default=MLFLOW, help=f"where MLflow keeps models; default: {MLFLOW}"
    )
    command.add_argument("--out", type=Path, required=True, help="file, or folder of a bundle")
    command.add_argument(
        "--format", choices=("bundle", "onnx", "torchscript", "nifti"),
        help="default: by the suffix of --out (.onnx, .ts, .pt, .nii, .nii.gz), else bundle",
    )  # fmt: skip
    command.add_argument("--site", help="as whose images; default: samples as large as the largest")
    command.add_argument("--model", help="of several architectures; default: the site's")
    command.add_argument(
        "--output", default="signal", help="of a field: signal, or the name of a mask"
    )
    command.add_argument(
        "--shape", type=int, nargs=4, metavar=("FRAMES", "SLICES", "ROWS", "COLUMNS"),
        help="points along each axis; default: the planned ones",
    )  # fmt: skip
    command.add_argument("--stage", type=int, help="after which stage, from 1; default: the last")
    command.add_argument(
        "--spacing", type=float, nargs=3, metavar=("SLICE", "ROW", "COLUMN"),
        help="of the planned grid, in mm; default: that of the file it was learned from, or 1 1 1",
    )  # fmt: skip
    command.add_argument(
        "--everywhere", action="store_true",
        help="write slices and frames too that the field was never taught; default: NaN",
    )  # fmt: skip
    command.set_defaults(run=export)
    about = "put the version of a model to use that was in use before; nothing running is touched"
    command = commands.add_parser("rollback", help=about, description=about)
    command.add_argument("name", metavar="NAME", help="of the model in MLflow's registry")
    command.add_argument("--to", type=int, metavar="VERSION", help="default: the one before")
    command.add_argument("--uri", default=MLFLOW, help=f"where MLflow is; default: {MLFLOW}")
    command.set_defaults(run=rollback)
    about = "say which hospitals of a federation are there and how far its runs, or one, have got"
    command = commands.add_parser("status", help=about, description=about)
    command.add_argument(
        "folder", type=Path, metavar="FOLDER", help="that fedcl deploy wrote, or of a run"
    )
    command.add_argument("--json", action="store_true", help="for a program")
    command.set_defaults(run=status)
    about = "write the folders of a real federation, or change who belongs to it"
    command = commands.add_parser("deploy", help=about, description=about)
    command.add_argument("folder", type=Path, metavar="FOLDER", help="gets keys and scripts")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--sites", help="make a new federation of these hospitals, e.g. RUNMC,BMC")
    what.add_argument("--add", metavar="SITES", help="let more hospitals in")
    what.add_argument("--revoke", metavar="SITES", help="let hospitals in no more, at once")
    what.add_argument("--rotate", metavar="SITES", help="give hospitals new keys")
    what.add_argument("--renew", action="store_true", help="sign a new certificate for the server")
    command.add_argument("--host", help="with --sites: of the server; default: this machine")
    command.add_argument("--port", type=int, help="with --sites: of the server; default: 18001")
    command.add_argument(
        "--public-key", type=Path, metavar="FILE",
        help="with --add or --rotate: of the hospital, which has made its key itself",
    )  # fmt: skip
    command.add_argument(
        "--passphrase-file", type=Path, metavar="FILE",
        help="with --sites or --renew: opens the authority's key; default: FEDCL_PASSPHRASE, else "
        "the terminal asks",
    )  # fmt: skip
    command.set_defaults(run=deploy)
    about = "answer the server's calls at a hospital, by the code that is installed; see start.sh"
    command = commands.add_parser("hospital", help=about, description=about)
    command.add_argument(
        "folder", type=Path, metavar="FOLDER", help="that fedcl deploy has written"
    )
    command.add_argument("--superlink", required=True, metavar="HOST:PORT", help="the server")
    command.add_argument(
        "--node-config", required=True, metavar="TEXT", help="site='A' state-path='...' ..."
    )
    command.set_defaults(run=hospital)
    return parser


def compare(given: argparse.Namespace) -> None:
    """Write tables and report; see `fedcl.analysis.compare.compare`."""
    from fedcl.analysis.compare import compare as write

    write(
        given.sources, given.out, given.uri, given.reference, given.where, given.strict, given.mix
    )


def deploy(given: argparse.Namespace) -> None:
    """Prepare a federation or change one; see `fedcl.app.provision.federation`."""
    from fedcl.app.provision import federation
    from fedcl.app.provision.authority import passphrase

    for option, value, fits in (
        ("--host: with --sites", given.host, given.sites),
        ("--port: with --sites", given.port, given.sites),
        ("--public-key: with --add or --rotate", given.public_key, given.add or given.rotate),
        ("--passphrase-file: with --sites or --renew", given.passphrase_file,
         given.sites or given.renew),
    ):  # fmt: skip
        if value is not None and not fits:
            raise ConfigError(f"deploy {option} only")
    if given.sites:
        sites, host, port = given.sites.split(","), given.host, given.port
        secret = passphrase(given.passphrase_file, new=True)
        federation.prepare(given.folder, sites, host or "127.0.0.1", port or 18001, secret)
        said = [f"written to {given.folder}; docs/howto/deploy.md says how to go on"]
    elif given.add:
        said = federation.add(given.folder, given.add.split(","), given.public_key)
    elif given.revoke:
        said = federation.revoke(given.folder, given.revoke.split(","))
    elif given.rotate:
        said = federation.rotate(given.folder, given.rotate.split(","), given.public_key)
    else:
        said = federation.renew(given.folder, passphrase(given.passphrase_file, new=False))
    print("\n".join(said))


def export(given: argparse.Namespace) -> None:
    """Write a model, or a field; see `fedcl.app.release.release`, `fedcl.app.export.export`."""
    from fedcl.app.release import format_of, release

    kind = given.format or format_of(given.out) or ("bundle" if not given.out.suffix else "")
    if not kind:
        raise ConfigError(
            f"export --out: {given.out.suffix} stands for no format; give --format, or a folder of "
            "a bundle without a suffix"
        )
    if kind != "nifti":
        with at_hand(given.source, given.uri, "MODEL") as (place, _):
            note = release(Path(place), given.out, kind, given.site, given.stage, given.model)
        print(f"written to {given.out}: {note}")
        return
    from fedcl.app.export import export as write

    shape = tuple(given.shape) if given.shape else None
    spacing = tuple(given.spacing) if given.spacing else None
    written, told = write(
        Path(given.source), given.out, given.output, shape, given.stage, spacing, given.everywhere
    )
    size = " x ".join(map(str, written))
    for line in (f"written to {given.out}: {size}", *told):
        print(line)


def forget(given: argparse.Namespace) -> int:
    """Make the run without a hospital; see `fedcl.app.forget.forget`."""
    from fedcl.app.simulate import interruptibly

    def act() -> int:
        from rich.console import Console

        from fedcl.app.forget import forget as make
        from fedcl.app.forget import search

        if given.search:
            return search(given.run_folder, given.site, given.out, given.set, Console())
        return make(given.run_folder, given.site, given.out, given.set, Console())

    return interruptibly(act)


def hospital(given: argparse.Namespace) -> int:
    """Run at a hospital; see `fedcl.app.hospital.attend`."""
    from fedcl.app.hospital import attend

    return attend(given.folder, given.superlink, given.node_config)


def predict(given: argparse.Namespace) -> None:
    """Write masks; see `fedcl.app.predict.predict`."""
    from rich.console import Console

    from fedcl.app.predict import predict as write

    with at_hand(given.source, given.uri, "MODEL") as (place, called):
        write(
            Path(place), given.images, given.out, Console(), given.site, given.stage, given.model,
            given.pattern, given.device, not given.no_overlays, called,
        )  # fmt: skip


def reproduce(given: argparse.Namespace) -> int:
    """Run a published table; see `fedcl.app.reproduce.reproduce`.

    Raises:
        ConfigError: a seed is none.
    """
    from fedcl.app.simulate import interruptibly

    seeds = given.seeds.split(",") if given.seeds else []
    if not all(seed.isdecimal() for seed in seeds):
        raise ConfigError(f"reproduce --seeds: whole numbers needed, e.g. 42,43, got {given.seeds}")
    only = given.only.split(",") if given.only else []

    def act() -> int:
        from fedcl.app.reproduce import reproduce as play

        return play(given.table, given.root, given.out, [*map(int, seeds)], only, given.set)

    return interruptibly(act)


def rollback(given: argparse.Namespace) -> None:
    """Go back to an earlier version; see `fedcl.tracking.models.roll_back`."""
    from fedcl.tracking.models import roll_back
    from fedcl.tracking.names import RELEASED

    before, now = roll_back(given.uri, given.name, given.to)
    print(f"{given.name}: {RELEASED} is version {now}; version {before} is withdrawn")


def status(given: argparse.Namespace) -> int:
    """Print how a federation, or a run, is doing; see `fedcl.app.status.tell`."""
    from rich.console import Console

    from fedcl.app.status import tell

    return tell(given.folder, given.json, Console())


def card(given: argparse.Namespace) -> None:
    """Print a model card, or write it; see `fedcl.app.card.tell`."""
    from fedcl.app.card import tell

    told = tell(given.run_folder, given.out, given.hide_names, given.stage, given.model)
    print(f"written to {given.out}" if told is None else told, end="\n" if told is None else "")


def inspect(given: argparse.Namespace) -> None:
    """Print what each site of a scenario holds, as a run with this seed would split it.

    Raises:
        FedclError: the configuration or the data of a site cannot be used.
    """
    from rich.console import Console

    from fedcl.config.checked import checked
    from fedcl.config.hydra import compose

    config = checked(compose(given.overrides))
    from fedcl.app.inspect import inspect as look

    look(config, Console(), given.sheets)


if __name__ == "__main__":
    sys.exit(main())
