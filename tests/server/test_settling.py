"""`scenario.spacing=auto`: the hospitals of the first stage measure, all take the median."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo

from fedcl.app.cli import main
from fedcl.app.simulation import APP, nodes_of
from fedcl.config.groups import DEPLOYED
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.effort import Clock
from fedcl.errors import DataError, FedclError
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.events import Round, Watcher
from fedcl.server.outcome import outcome
from fedcl.server.run import Server
from fedcl.server.state import State
from fedcl.wire.answers import Hello
from fedcl.wire.local_grid import InProcessGrid
from tests.conftest import read
from tests.images import nifti, picture, reoriented

SPACINGS = {
    "A": [(3.0, 1.0, 1.2), (5.0, 1.4, 1.0), (4.0, 1.1, 1.1), (1.0, 0.5, 0.5), (1.0, 0.5, 0.5)],
    "B": [(2.0, 0.8, 0.9), (2.5, 0.6, 0.7), (8.0, 0.7, 0.8), (1.0, 0.5, 0.5), (1.0, 0.5, 0.5)],
    "C": [(2.0, 0.5, 0.5)] * 5,
}
"""In mm (slice, row, column); of every site three volumes are trained on, two are not."""
PARTS = ["train=[p0,p1,p2]", "val=[p3]", "test=[p4]"]
BY_HAND = [(4.0 + 2.5) / 2, (1.1 + 0.7) / 2, (1.1 + 0.8) / 2]
"""Medians of A: 4, 1.1, 1.1; of B: 2.5, 0.7, 0.8."""

QUICK = [
    "engine=inprocess", "tracking.enabled=false", "run.figures=false", "strategy=finetune",
    "scenario=folder", "scenario.patient='^(.+)$'", "scenario.labels=[0,1]",
    "model.channels=[4,8]", "timeline.rounds=1", "timeline.stages=[[A,B],[C]]", "learner.steps=1",
    *(f"+scenario.assigned.{part}" for part in PARTS),
]  # fmt: skip
IN_3D = ["scenario.spatial_dims=3", "scenario.size=8", "scenario.overlap=0"]
AUTO = "scenario.spacing=auto"


def spacing(numbers: Any) -> str:
    return f"scenario.spacing=[{','.join(map(repr, map(float, numbers)))}]"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of sites whose voxels differ in size; some lie along other axes."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for site, spacings in SPACINGS.items():
        for number, (slices, rows, columns) in enumerate(spacings):
            image = rng.normal(size=(9, 8, 6)).astype(np.float32)
            affine = np.diag([columns, rows, slices, 1.0])
            axes = ("RAS", "PIR", "LPS")[number % 3]
            for kind, array in (("images", image), ("masks", (image > 0.5).astype(np.uint8))):
                turned, its = reoriented(array, affine, axes)
                nifti(root / site / kind / f"p{number}.nii", turned, its)
    return root


def config(data: Path, *overrides: str) -> Config:
    return Config.parse(compose([*QUICK, *IN_3D, f"scenario.root={data}", *overrides]))


class Lines(InProcessGrid):
    """Hospitals of which some may be away, or say something else of themselves.

    Args:
        settings: of the run.
        folder: of what they keep.
        says: what a site says instead, given whether it was asked for a measure.
        away: sites that are not there.
    """

    def __init__(
        self,
        settings: Config,
        folder: Path,
        says: Callable[[str, bool, Hello], Hello] = lambda site, asked, hello: hello,
        away: str = "",
    ) -> None:
        super().__init__(APP, list(nodes_of(settings, folder).values()))
        self.says, self.away = says, away
        self.asked: list[tuple[str, bool]] = []
        self._met: dict[str, tuple[str, bool]] = {}

    def _site(self, node: int) -> str:
        return str(self.contexts[node].node_config["site"])

    def get_nodes(self) -> list[NodeInfo]:
        return [node for node in super().get_nodes() if self._site(node.node_id) not in self.away]

    def get_node_ids(self) -> list[int]:
        return [node.node_id for node in self.get_nodes()]

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            if message.metadata.message_type == "query.hello":
                site = self._site(message.metadata.dst_node_id)
                job = json.loads(str(message.content.config_records["job"]["json"]))
                self.asked.append((site, job["scenario"]["spacing"] == "auto"))
                self._met[message.metadata.message_id] = self.asked[-1]
        super()._send(messages)

    def _keep(self, reply: Message) -> None:
        met = self._met.get(reply.metadata.reply_to_message_id)
        if met is not None:
            told = {**reply.content.config_records["hello"]}
            said = self.says(*met, Hello(**told))  # type: ignore[arg-type]
            reply.content = RecordDict({"hello": ConfigRecord(vars(said))})
        super()._keep(reply)


def server(settings: Config, folder: Path, grid: Lines) -> Server:
    checkpoint = Checkpoint(folder / "checkpoint")
    return Server(grid, settings, checkpoint, checkpoint.load())


def deployed(data: Path, *overrides: str) -> Config:
    """Return the run as a server has it whose hospitals may be there or not."""
    values = compose([*QUICK, *IN_3D, AUTO, "timeline.wait=0.05", *overrides])
    values["scenario"]["root"] = str(data)
    values["engine"]["name"] = DEPLOYED
    return Config.parse(values, simulated=False)


# --- what it is -----------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["A", "B"])
def test_a_site_tells_the_medians_of_its_training_images(data: Path, site: str):
    scenario = config(data, AUTO).job.scenario
    wanted = np.median(SPACINGS[site][:3], axis=0)
    assert scenario.measure(site, data / site, 0) == pytest.approx(wanted.tolist())


def test_in_2d_it_is_of_rows_and_columns(data: Path):
    scenario = config(data, AUTO, "scenario.spatial_dims=2").job.scenario
    assert scenario.measure("A", data / "A", 0) == pytest.approx([1.1, 1.1])
    assert scenario.measure("B", data / "B", 0) == pytest.approx([0.7, 0.8])


def test_only_cases_that_a_run_with_this_seed_trains_on_count(tmp_path: Path):
    """With a drawn split, of which a case that is all ignored has no part."""
    rng, sizes = np.random.default_rng(1), [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
    for number, size in enumerate(sizes):
        image = rng.normal(size=(6, 6, 4)).astype(np.float32)
        mask = np.full(image.shape, 7, np.uint8) if number == 2 else (image > 0).astype(np.uint8)
        for kind, array in (("images", image), ("masks", mask)):
            nifti(tmp_path / "A" / kind / f"p{number}.nii", array, np.diag([size, size, size, 1]))
    base = [part for part in QUICK if not part.startswith(("+scenario", "timeline.stages"))]
    asked = [*base, *IN_3D, f"scenario.root={tmp_path}", "scenario.ignore=[7]", "scenario.size=4"]
    for seed in range(6):
        scenario = Config.parse(compose([*asked, AUTO])).job.scenario
        given = Config.parse(compose([*asked, "scenario.spacing=4"])).job.scenario
        trained = {case.name for case in given.load("A", tmp_path / "A", seed).train}
        wanted = float(np.median([sizes[int(name[1:])] for name in trained]))
        assert scenario.measure("A", tmp_path / "A", seed) == pytest.approx([wanted] * 3), seed


def test_a_run_takes_the_median_of_the_first_stage_and_says_so(cli, data: Path, tmp_path: Path):
    asked = [*QUICK, *IN_3D, f"scenario.root={data}"]
    assert cli(*asked, AUTO, f"run.dir={tmp_path / 'auto'}") == 0
    found = read(tmp_path / "auto")
    assert list(found["settled"]) == ["scenario.spacing"]
    assert found["settled"]["scenario.spacing"] == pytest.approx(BY_HAND)
    log = (tmp_path / "auto" / "log.txt").read_text()
    assert "scenario.spacing: [3.25, 0.9, 0.95], the median over the sites of the first" in log
    assert "spacing: auto" in (tmp_path / "auto" / "config.yaml").read_text()
    given = spacing(found["settled"]["scenario.spacing"])
    assert cli(*asked, given, f"run.dir={tmp_path / 'given'}") == 0
    same = read(tmp_path / "given")
    for key in ("weights_sha256", "matrix", "data_sha256"):
        assert found[key] == same[key], key
    assert same["settled"] == {}


def test_inspect_says_it_and_shows_images_so(data: Path, capsys):
    asked = ["inspect", *QUICK, *IN_3D[:1], f"scenario.root={data}"]
    assert main([*asked, AUTO]) == 0
    auto = capsys.readouterr().out
    notes = [line for line in auto.splitlines() if "scenario.spacing" in line]
    assert len(notes) == 1 and "the median over the sites of the first stage" in notes[0]
    assert [float(n) for n in notes[0].partition("[")[2].partition("]")[0].split(",")] == (
        pytest.approx(BY_HAND)
    )
    assert main([*asked, spacing(BY_HAND)]) == 0
    assert capsys.readouterr().out == auto.replace(notes[0] + "\n", "")


def test_a_pool_takes_what_its_sites_say(data: Path, tmp_path: Path):
    shas = []
    for name, own in (("auto", AUTO), ("given", spacing(BY_HAND))):
        settings = config(data, own, "timeline.centralised=true")
        one = server(settings, tmp_path / name, Lines(settings, tmp_path / name))
        one.run(one.meet(), Clock())
        found = outcome(one.config, one.state).values()
        shas.append(found["weights_sha256"])
        if own == AUTO:
            assert found["settled"]["scenario.spacing"] == pytest.approx(BY_HAND)
    assert shas[0] == shas[1]


def test_nothing_but_the_measure_is_told_at_first(data: Path, tmp_path: Path):
    heard = []

    def says(site: str, asked: bool, hello: Hello) -> Hello:
        heard.append((asked, hello == Hello(site, measured=hello.measured), len(hello.measured)))
        return hello

    settings = config(data, AUTO)
    server(settings, tmp_path, Lines(settings, tmp_path, says)).meet()
    assert heard == [(True, True, 3)] * 3 + [(False, False, 0)] * 3


# --- resuming -------------------------------------------------------------------------------------


class Interrupt(Watcher):
    """Stops a run as its first round is over."""

    def round_done(self, done: Round, state: State) -> None:
        raise KeyboardInterrupt


def test_a_resumed_run_keeps_the_value_and_asks_nobody_again(data: Path, tmp_path: Path):
    settings = config(data, AUTO)
    whole = server(settings, tmp_path / "whole", Lines(settings, tmp_path / "whole"))
    whole.run(whole.meet(), Clock())
    grid = Lines(settings, tmp_path / "run")
    first = server(settings, tmp_path / "run", grid)
    first.watchers.append(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        first.run(first.meet(), Clock())
    assert grid.asked == [(s, True) for s in "ABC"] + [(s, False) for s in "ABC"]

    def lies(site: str, asked: bool, hello: Hello) -> Hello:
        return replace(hello, measured=[7.0] * 3) if asked else hello

    later = Lines(settings, tmp_path / "run", lies)
    again = server(settings, tmp_path / "run", later)
    again.run(again.meet(), Clock())
    assert later.asked == [(s, False) for s in "ABC"]
    ends = [outcome(settings, one.state).values() for one in (whole, again)]
    assert ends[0]["weights_sha256"] == ends[1]["weights_sha256"]
    assert ends[0]["settled"] == ends[1]["settled"]


def test_data_that_have_changed_are_refused_as_ever(tmp_path: Path, data: Path):
    """Even where what changed is the size of voxels alone, which has then no say any more."""
    root = tmp_path / "data"
    shutil.copytree(data, root)
    settings = config(root, AUTO)
    first = server(settings, tmp_path / "run", Lines(settings, tmp_path / "run"))
    first.watchers.append(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        first.run(first.meet(), Clock())
    image = np.random.default_rng(5).normal(size=(9, 8, 6)).astype(np.float32)
    for kind, array in (("images", image), ("masks", (image > 0.5).astype(np.uint8))):
        nifti(root / "A" / kind / "p0.nii", array, np.diag([2.0, 2.0, 2.0, 1.0]))
    again = server(settings, tmp_path / "run", Lines(settings, tmp_path / "run"))
    with pytest.raises(DataError, match="site A: its data have changed since the run began"):
        again.meet()


# --- what cannot be -------------------------------------------------------------------------------


def test_pictures_have_no_millimetres(cli, tmp_path: Path, capsys):
    for site in "ABC":
        for number in range(5):
            for kind in ("images", "masks"):
                file = tmp_path / "data" / site / kind / f"p{number}.png"
                picture(file, np.eye(16, dtype=np.uint8))
    asked = [*QUICK, f"scenario.root={tmp_path / 'data'}", AUTO]
    assert cli(*asked, f"run.dir={tmp_path / 'run'}") == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("fedcl:")]
    for words in ("site A", "p0.png", "how large its voxels are", "scenario.spacing=null"):
        assert words in line
    assert not (tmp_path / "run").exists()
    assert main(["inspect", *asked]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "site A" in said and "p0.png" in said


@pytest.mark.parametrize("value", ["Auto", "median", "[auto,1,1]", "-1", "auto scenario.resize=8"])
def test_another_value_is_refused(cli, data: Path, tmp_path: Path, capsys, value: str):
    asked = [*QUICK, *IN_3D, f"scenario.root={data}", *f"scenario.spacing={value}".split()]
    assert cli(*asked, f"run.dir={tmp_path / 'run'}") == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("fedcl:")]
    assert "scenario.spacing: " in line and not (tmp_path / "run").exists()


def told(numbers: list[float], site: str = "B") -> Callable[[str, bool, Hello], Hello]:
    def says(name: str, asked: bool, hello: Hello) -> Hello:
        return replace(hello, measured=numbers) if name == site and asked else hello

    return says


ROGUE = {
    "nothing": (told([]), "malformed hello"),
    "too few": (told([1.0]), "site B"),
    "too many": (told([1.0] * 4), "site B"),
    "far too many": (told([1.0] * 9), "malformed hello"),
    "nan": (told([float("nan")] * 3), "malformed hello"),
    "inf": (told([1.0, float("inf"), 1.0]), "malformed hello"),
    "1e300": (told([1e300] * 3), "malformed hello"),
    "minus": (told([-100.0] * 3), "site B"),
    "zero": (told([0.0] * 3), "site B"),
    "a light year": (told([1e8] * 3), "site B"),
    "the first, too many": (told([1.0] * 4, "A"), "site A"),
}


@pytest.mark.parametrize("name", ROGUE)
def test_a_measure_that_is_none_is_refused_in_a_line_that_names_the_site(
    data: Path, tmp_path: Path, name: str
):
    says, named = ROGUE[name]
    settings = config(data, AUTO)
    one = server(settings, tmp_path, Lines(settings, tmp_path, says))
    with pytest.raises(FedclError) as caught:
        one.meet()
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "checkpoint").exists() and not one.state.settled


def test_who_tells_all_of_itself_when_asked_for_a_measure_is_refused(data: Path, tmp_path: Path):
    """As a hospital of an earlier version would."""
    hello = Hello("B", "", "ff", 3, 1, 1, 3, [1, 8, 8, 8])
    settings = config(data, AUTO)
    grid = Lines(settings, tmp_path, lambda site, asked, own: hello if site == "B" else own)
    with pytest.raises(DataError, match="site B: it did not say what it has measured"):
        server(settings, tmp_path, grid).meet()


def test_who_tells_a_measure_unasked_is_refused(data: Path, tmp_path: Path):
    def says(site: str, asked: bool, hello: Hello) -> Hello:
        return replace(hello, measured=[1.0] * 3) if site == "B" and not asked else hello

    settings = config(data, AUTO)
    with pytest.raises(DataError, match="site B: it told a measure that it was not asked for"):
        server(settings, tmp_path / "auto", Lines(settings, tmp_path / "auto", says)).meet()
    plain = config(data, "scenario.spacing=2")
    with pytest.raises(DataError, match="site B: it told a measure that it was not asked for"):
        server(plain, tmp_path / "plain", Lines(plain, tmp_path / "plain", says)).meet()


def test_later_hospitals_have_no_say_whatever_they_tell(data: Path, tmp_path: Path):
    settings = config(data, AUTO, "timeline.stages=[[A,B],[C]]")
    for number, lie in enumerate(([1e6] * 3, [1.0] * 5, [])):
        grid = Lines(settings, tmp_path / str(number), told(lie, "C"))
        one = server(settings, tmp_path / str(number), grid)
        one.meet()
        assert one.state.settled["spacing"] == pytest.approx(BY_HAND)


# --- real hospitals, which may be off -------------------------------------------------------------


def test_of_real_hospitals_those_that_are_there_have_the_say(data: Path, tmp_path: Path, caplog):
    settings = deployed(data)
    one = server(settings, tmp_path, Lines(settings, tmp_path, away="B"))
    with caplog.at_level("WARNING", "fedcl"):
        one.meet()
    assert one.state.settled["spacing"] == pytest.approx([4.0, 1.1, 1.1])
    assert "site B is not there, and has no say" in caplog.text
    assert one.config.job.scenario.spacing == pytest.approx([4.0, 1.1, 1.1])


def test_where_none_of_the_first_hospitals_is_there_it_cannot_begin(data: Path, tmp_path: Path):
    settings = deployed(data)
    one = server(settings, tmp_path, Lines(settings, tmp_path, away="AB"))
    with pytest.raises(DataError, match="site A: no hospital of that name answered"):
        one.meet()


def test_a_hospital_that_comes_later_is_asked_with_the_value(data: Path, tmp_path: Path):
    settings = deployed(data)
    grid = Lines(settings, tmp_path, away="C")
    one = server(settings, tmp_path, grid)
    about = one.meet()
    grid.away = ""
    one.run(about, Clock())
    assert grid.asked == [("A", True), ("B", True), ("A", False), ("B", False), ("C", False)]
    found = outcome(one.config, one.state).values()
    assert found["stages"] == [["A", "B"], ["C"]] and not found["failures"]
