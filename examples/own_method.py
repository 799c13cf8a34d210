"""A method of one's own beside LwF: `python examples/own_method.py`.

The method is `examples/plugins/strategies/sure.py`; a folder of plug-ins on Python's path is all it
takes, here and in the processes of Ray.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parent / "plugins"))

from three_strategies import SMALL

from fedcl.app.simulation import simulate
from fedcl.config.hydra import compose

if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        for number, method in enumerate((["lwf"], ["sure"], ["sure", "strategy.least=0.99"])):
            values = compose([*SMALL, f"strategy={method[0]}", *method[1:]])
            metrics = simulate(values, Path(folder) / str(number)).metrics
            print(f"{' '.join(method):30} AVG {metrics['avg']:.3f}  BWT {metrics['bwt']:+.3f}")
