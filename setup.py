"""What pyproject.toml cannot say: `conf/`, beside the packages, travels inside of `fedcl`."""

from pathlib import Path

from setuptools import find_packages, setup

GROUPS = sorted(path.name for path in Path("conf").iterdir() if path.is_dir())

setup(
    packages=[
        *find_packages(include=["fedcl*", "sites*", "strategies*"]),
        *("fedcl.conf" + (f".{group}" if group else "") for group in ["", *GROUPS]),
    ],
    package_dir={"fedcl.conf": "conf"},
    package_data={
        **{f"fedcl.conf.{group}": ["*.yaml"] for group in GROUPS},
        "fedcl.conf": ["*.yaml"],
        "fedcl.analysis": ["report.html"],
        "fedcl.app": ["deploy/*"],
        "sites": ["py.typed"],
        "strategies": ["py.typed"],
        "fedcl": ["py.typed"],
    },
)
