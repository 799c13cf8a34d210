"""A trained model as a MONAI bundle: a folder that MONAI loads and runs without fedcl.

Its layout is https://docs.monai.io/en/stable/mb_specification.html. Network and the running of it
are MONAI's; images are prepared, and masks written, by modules of fedcl's in the folder `scripts`
(`fedcl.release.carried`), since no transform of MONAI's resamples and pads alike.
"""

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fedcl import __version__
from fedcl.data.preparing import Preparation
from fedcl.data.reading import Reader
from fedcl.errors import writing
from fedcl.release.about import FILE
from fedcl.release.carried import write_scripts
from fedcl.release.portable import write_torchscript
from fedcl.release.trained import METADATA, WEIGHTS, Trained

SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
NEEDED = {
    "fire": "0.7.1",
    "nibabel": "5.4.2",
    "pillow": "12.0.0",
    "pytorch-ignite": "0.5.5",
    "scipy": "1.17.1",
}
"""What MONAI alone does not install, and what is known to do where it is not here."""
USE = (
    "Research only. It is no medical device; nobody may be diagnosed or treated by what it answers."
)
README = "# {name}\n\n{description}\n\n{use}\n"
RUN = "\n## How it is run\n"
"""The heading in `docs/README.md` of what is no card."""
RUNNING = """
Needed are `pip install {packages}`. From this folder, masks for all images in IMAGES:

```
python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES --output_dir MASKS
```

Images are NIfTI or pictures. Where their names say more than the case, as those of a file per channel do,
add `--pattern "{{case}}_{{channel}}.nii.gz"`. By fedcl: `fedcl predict FOLDER --images IMAGES --out MASKS`.
"""  # noqa: E501


def write_bundle(
    folder: Path,
    one: Trained,
    told: Mapping[str, Any] | None = None,
    card: str = "",
    licence: str = "",
    torchscript: bool = False,
) -> None:
    """Write a bundle.

    Of a scenario that does not read image files as others do, it is of the network alone.

    Args:
        folder: is made; what it holds of an earlier bundle is written anew.
        one: the model.
        told: entries of `configs/metadata.json` in the place of those written without, such as
            `name`, `version`, `changelog`, `description`, `authors`, `copyright`, `data_source`,
            `eval_metrics`, `intended_use`, `references`.
        card: the text of `docs/README.md`; empty, and that says how to run it.
        licence: the text of `LICENSE`; empty, and there is none.
        torchscript: whether `models/model.ts` is written where it need not be; it is of networks
            that MONAI alone cannot build.

    Raises:
        ConfigError: the model is of a kind that no bundle can hold.
        RunError: it cannot be written.
    """
    task, network = one.task, one.network
    own = one.answering is network
    definition = one.model.definition(task.channels, task.classes, task.dims) if own else {}
    inference = _network(definition)
    normalise: str | tuple[str, ...] = ""
    if one.reads:
        reader, prepare = one.scenario.reading(one.site)
        inference |= _running(one, reader, prepare, known=bool(definition))
        normalise = prepare.normalise
    about = one.about.released(one.scenario, normalise, one.architecture, one.site)
    metadata = _metadata(one) | dict(told or {})
    with writing(folder):
        for name, content in ((METADATA, metadata), ("configs/inference.json", inference)):
            _write(folder / name, json.dumps(content, indent=2, allow_nan=False) + "\n")
        _write(folder / FILE, about.text())
        _write(folder / "docs/README.md", _readme(metadata, card, one.reads))
        if licence:
            _write(folder / "LICENSE", licence)
        if one.reads:
            write_scripts(folder / "scripts")
        (folder / WEIGHTS).parent.mkdir(exist_ok=True)
        torch.save(network.state_dict(), folder / WEIGHTS)
    if torchscript or not definition:
        write_torchscript(folder / "models/model.ts", one)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def _readme(metadata: Mapping[str, Any], card: str, reads: bool) -> str:
    """Return the card of a model, or what is known without one, and how the bundle is run."""
    told = {key: metadata[key] for key in ("name", "description")}
    text = card.partition(RUN)[0] or README.format(**told, use=metadata["intended_use"])
    if not reads:
        return text
    packages = " ".join(["monai", *metadata["required_packages_version"]])
    return text.rstrip("\n") + "\n" + RUN + RUNNING.format(packages=packages)


def _metadata(one: Trained) -> dict[str, Any]:
    """Return what `configs/metadata.json` says of itself; all of it can be told otherwise."""
    task = one.task
    sites = ", ".join(one.about.sites)
    kind = f"{task.dims}-D segmentation of {task.classes - 1} foreground classes"
    shape: list[Any] = list(task.window)
    if not shape:  # MONAI has one variable, `n`, for any multiple along any axis
        shape = [f"{by}*n" if by > 1 else "*" for by in task.multiples or (1,) * task.dims]
    data = {
        "format": "magnitude", "modality": "n/a", "spatial_shape": shape, "dtype": "float32",
        "is_patch_data": bool(task.window),
    }  # fmt: skip
    image = {
        "type": "image", **data, "num_channels": task.channels, "value_range": [],
        "channel_def": {str(n): f"channel {n}" for n in range(task.channels)},
    }  # fmt: skip
    logits = {
        "type": "image", **data, "format": "logits", "num_channels": task.classes,
        "value_range": [], "channel_def": {str(n): _class(n) for n in range(task.classes)},
    }  # fmt: skip
    return {
        "schema": SCHEMA,
        "name": f"fedcl {one.about.scenario['name']} {one.architecture}",
        "version": "0.1.0",
        "changelog": {"0.1.0": f"written by fedcl {__version__}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {name: _version(name) for name in NEEDED},
        "task": kind,
        "description": f"{kind}, trained by federated continual learning "
        f"({one.about.strategy['name']}) at the sites {sites}.",
        "authors": "",
        "copyright": "",
        "data_source": f"the sites {sites}; no image has left them",
        "data_type": "NIfTI or pictures",
        "image_classes": f"{task.channels} channels, normalised over the whole image",
        "label_classes": f"a class per voxel, {_class(0)} and {task.classes - 1} more",
        "pred_classes": f"{task.classes} channels of logits",
        "intended_use": USE,
        "references": [],
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": logits}},
    }


def _class(number: int) -> str:
    return f"class {number}" if number else "background"


def _version(name: str) -> str:
    """Return the version of a package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return NEEDED[name]


def _network(definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `configs/inference.json` says of the network."""
    network: Mapping[str, Any] = definition or {  # else its code lies with its weights
        "_target_": "torch.jit.load",
        "f": "$@bundle_root + '/models/model.ts'",
        "map_location": "@device",
    }
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": network,
        "network": "$@network_def.to(@device)",
    }


def _running(one: Trained, reader: Reader, prepare: Preparation, known: bool) -> dict[str, Any]:
    """Return what it says besides, of all from files of images to masks.

    Args:
        one: the model.
        reader: of its images.
        prepare: makes of them what networks are shown.
        known: whether MONAI builds the network, which then gets its weights.
    """
    task, taken = one.task, reader.channels
    chosen: Any = "luminance" if taken.luminance else list(taken.chosen) or taken.count
    loader = {
        "_target_": "CheckpointLoader",
        "load_path": f"$@bundle_root + '/{WEIGHTS}'",
        "load_dict": {"model": "@network"},
        "map_location": "@device",
    }
    return {
        "dataset_dir": "images",
        "output_dir": "masks",
        "pattern": "{case}",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "scripts.images.Prepared",
                    "dims": task.dims,
                    "channels": chosen,
                    "normalise": list(prepare.ways(task.channels)),
                    "window": list(prepare.window),
                    "nonzero": prepare.nonzero,
                    "spacing": list(prepare.spacing),
                    "resize": list(prepare.resize),
                }
            ],
        },
        "datalist": {
            "_target_": "scripts.images.listed",
            "folder": "@dataset_dir",
            "pattern": "@pattern",
        },
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": {
            "_target_": "scripts.images.Framed",
            "dims": task.dims,
            "window": list(task.framing.window),
            "least": list(task.framing.least),
            "multiples": list(task.framing.multiples),
            "overlap": task.framing.overlap,
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "scripts.images.Restored"},
                {
                    "_target_": "scripts.images.Written",
                    "folder": "@output_dir",
                    "values": [list(group) for group in reader.labels.values],
                    "colours": reader.labels.colours,
                },
            ],
        },
        "handlers": [loader] if known else [],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }
