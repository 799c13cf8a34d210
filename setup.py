"""What pyproject.toml cannot say: `conf/`, beside the packages, travels inside of `fedcl`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConf(build_py):
    """Copies the configuration into what is to be installed."""

    def run(self) -> None:
        """Build; in an editable installation the configuration is used where it lies."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "fedcl" / "conf"
            shutil.copytree("conf", target, dirs_exist_ok=True)


setup(
    cmdclass={"build_py": BuildWithConf},
    # An editable installation puts this folder on Python's path. By setuptools' default, a finder,
    # a folder `fedcl` on PYTHONPATH that holds somebody's models would hide the whole package.
    options={"editable_wheel": {"mode": "compat"}},
)
