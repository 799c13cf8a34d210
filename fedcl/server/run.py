"""A run: stages > rounds > evaluation > checkpoint > whoever watches."""

import logging
from collections.abc import Sequence

import torch
from flwr.serverapp import Grid

from fedcl import arrays
from fedcl.config.schema import Config
from fedcl.effort import Clock
from fedcl.errors import DataError, RunError, writing
from fedcl.registry import name_of
from fedcl.server.architecture import architectures, check_local, cost
from fedcl.server.begin import begun, in_words, taught_before
from fedcl.server.checkpoint import Checkpoint, Keeper
from fedcl.server.collapse import CollapseError
from fedcl.server.evaluation import Closing
from fedcl.server.events import Watcher
from fedcl.server.exchange import Exchange
from fedcl.server.gate import Gate
from fedcl.server.results import Verdict
from fedcl.server.rollback import means, take_back
from fedcl.server.rounds import Stage
from fedcl.server.run_log import Log, tell_changes, tell_chosen, tell_notes
from fedcl.server.settling import settled
from fedcl.server.state import State, check_same
from fedcl.wire.answers import Hello

log = logging.getLogger("fedcl")


class Server:
    """Runs the experiment that `config` describes over the hospitals of a grid.

    Args:
        grid: any Flower Grid.
        config: the run, checked.
        checkpoint: where snapshots go.
        state: the state to go on from; None for a new run.
        watchers: told how the run goes.
        name: of the run, for hospitals that keep something for several.
    """

    def __init__(
        self,
        grid: Grid,
        config: Config,
        checkpoint: Checkpoint,
        state: State | None = None,
        watchers: Sequence[Watcher] = (),
        name: str = "",
    ) -> None:
        self.config, self.checkpoint, self.watchers = config, checkpoint, list(watchers)
        if state is not None:
            check_same(state.configuration, config.fingerprint())
        timeline = config.timeline
        arrived = timeline.seen(state.stage if state else 0)
        self.architectures = architectures(config.job, arrived)
        self.state = state or self._new()
        for one in self.architectures.values():
            check_local(config, one)
        self.cases: dict[str, int] = {}
        self.shape: list[int] = []
        self._grid, self._name = grid, name
        self.exchange = self._exchange()

    def _exchange(self) -> Exchange:
        return Exchange(self._grid, self.config, self.state, self._name, self._admit)

    def _new(self) -> State:
        """Return the state in which a run begins.

        Raises:
            ConfigError: the teacher trained before cannot be used.
        """
        job, told = self.config.job, {}
        weights, teacher = arrays.Arrays(), arrays.Arrays()
        for name, one in self.architectures.items():
            if not one.sites:
                continue
            own, taken = begun(one, self.config.tracking.uri)
            weights |= one.whole(own)
            if taken:
                told[name] = taken
            if one.model.teaches:
                teacher |= one.whole(own)
        teaching = job.strategy.teaching
        if teaching is not None and teaching.file is not None:
            for name in {role.teacher for role in job.roles.values() if role.teacher}:
                one = self.architectures[name]
                teacher |= one.whole(taught_before(one, teaching.file))
        return State(weights, self.config.fingerprint(), teacher=teacher, begun=told)

    def meet(self) -> dict[str, Hello]:
        """Meet the hospitals; nothing is written before those needed first have answered.

        Raises:
            DataError: a site cannot take part, or its data are not those of the run resumed.
            ConfigError: what sites are to send cannot be protected.
            RunError: a hospital could not answer at all.
        """
        config = settled(self._grid, self.config, self.state)
        if config is not self.config:
            self.config = config
            self.exchange = self._exchange()
        timeline = self.config.timeline
        needed = timeline.present(self.state.stage) if self.config.deployed else timeline.sites
        about = self._welcome(needed + timeline.trainers([]))
        for error in self.exchange.roster.refused.values():
            raise error
        missing = [site for site in needed if site not in about]
        if missing and not (self.config.deployed and about):
            raise DataError(f"site {missing[0]}: no hospital of that name answered")
        return about

    def _welcome(self, sites: Sequence[str] = ()) -> dict[str, Hello]:
        """Return what hospitals hold that are new and fit the others.

        Args:
            sites: whom to wait for.
        """
        met = self.exchange.roster.meet(sites)
        return {site: met[site] for site in self.config.timeline.sites if site in met}

    def _admit(self, site: str, hello: Hello) -> None:
        """Take note of what a hospital holds.

        Raises:
            DataError, ConfigError: see `meet`.
        """
        self.state.samples[site] = hello.shape
        if site not in self.config.timeline.sites:  # a pool, which holds what its sites do
            return
        config, strategy = self.config, self.config.job.strategy
        if hello.measured:
            raise DataError(f"site {site}: it told a measure that it was not asked for")
        if self.state.digests.get(site, hello.digest) != hello.digest:
            raise DataError(
                f"site {site}: its data have changed since the run began; put back what it had, or "
                "begin another run"
            )
        if not self.cases:
            self._first_met(site, hello)
        one = self.architectures[config.job.roles[site].model]
        if len(hello.shape) != len(self.shape):
            raise DataError(
                f"site {site}: its samples have {len(hello.shape)} axes, not those of "
                f"{next(iter(self.cases))}, {self.shape}"
            )
        ours = strategy.reporting(one.network, config.job.task, hello.shape)
        if ours != strategy.reporting(one.network, config.job.task, self.shape):
            raise DataError(
                f"site {site}: its images are {hello.shape} (channels, rows, columns), those "
                f"of {next(iter(self.cases))} {self.shape}; {name_of(strategy)} needs one "
                "shape, change scenario.size or the scenario"
            )
        self.cases[site], self.state.digests[site] = hello.test, hello.digest
        self.state.ledger.missed.pop(site, None)
        known = config.samples.get(site, hello.samples)
        if hello.samples > known:
            told = "site %s: it says that it has %d training samples; they count as %d (%s)"
            log.warning(told, site, hello.samples, known, f"sites.{site}.samples")
        self.state.notes[site] = hello.notes
        if hello.source:
            self.state.sources[site] = hello.source

    def _first_met(self, site: str, hello: Hello) -> None:
        """Learn from the first hospital what a sample looks like, and what that costs."""
        config, strategy = self.config, self.config.job.strategy
        self.shape = hello.shape
        sample = -torch.ones(1, *self.shape)  # of a field a corner, which every grid has
        for name, one in self.architectures.items():
            network = config.job.network(name, config.timeline.sites)
            parameters, operations = cost(network, sample, site)
            self.state.costs[name] = {"parameters": parameters, "macs": operations}
            if one.sites:
                shared = one.shared(self.state.weights).keys()
                reports = strategy.reporting(one.network, config.job.task, self.shape) is not None
                config.privacy.check_sent(strategy, shared, reports)

    def run(self, about: dict[str, Hello], clock: Clock) -> None:
        """Run all stages that are left.

        Args:
            about: what `meet` returned.
            clock: begun when this process began with the run.

        Raises:
            RunError: too few updates in a round, or a site that could not be evaluated;
                the last checkpoint can be resumed.
        """
        config, state = self.config, self.state
        keeper = Keeper(self.checkpoint, state, config.privacy.accounts, clock)
        # First tell, then save: a round told twice after a crash can be recognised, one never
        # told cannot be made up for.
        watchers = [Log(config), *self.watchers, keeper]
        if state.initial is None:
            for name, told in state.begun.items():
                for line in in_words(name, told):
                    log.warning("%s", line)
        tell_notes(config, state, about)
        tell_changes(config, state)
        for watcher in watchers:
            watcher.started(config, state, about)
        keeper.save()
        if state.initial is None:
            state.initial = self._closing.test(-1)
            state.validation = means(config.job.task, state.initial)
            state.ledger.seconds["setup"] += clock.effort()["seconds"]
            keeper.save()
        while state.stage < len(config.timeline.stages):
            self._expect(config.timeline.present(state.stage), "arrival")
            self._close(self._played(watchers, keeper))
            for watcher in watchers:
                watcher.stage_done(config, state)

    def _played(self, watchers: Sequence[Watcher], keeper: Keeper) -> Stage:
        """Play the rounds that are left of a stage; one that a site has spoilt is taken back.

        Raises:
            RunError: see `run`.
        """
        while True:
            self._grow()
            stage = Stage(self.config, self.exchange, self.state, self.architectures, watchers)
            try:
                stage.run()
                return stage
            except CollapseError as spoilt:
                if not take_back(self.state, self.checkpoint, spoilt):
                    keeper.failed()
                    raise
                for watcher in watchers:
                    watcher.round_taken_back(self.state)
            except RunError:
                keeper.failed()
                raise
            keeper.save()
            self.checkpoint.drop_after(self.state.round)

    def _close(self, stage: Stage) -> None:
        """Test every site after a stage and note what came of it; keep the stage's weights."""
        config, state = self.config, self.state
        self._expect(config.timeline.present(state.stage), "test")
        stays = self._passes_the_gate()
        if not stays:
            self._take_back()
        scores = self._closing.test(state.stage)
        elsewhere = self._closing.test_elsewhere(state.stage)
        if stays and state.stage + 1 < len(config.timeline.stages):
            state.memory = self._closing.remember(stage)
        state.rows.append(scores)
        state.ended.append(dict(state.versions))
        state.elsewhere.append(elsewhere)
        state.momentum = {}
        if stays:
            state.chosen.append(state.best_round if state.best else state.round)
            if config.job.learner.keep == "best_round":
                tell_chosen(state)
        else:
            state.chosen.append([0, *state.chosen][state.verdicts[-1].model])
        state.best, state.best_score = {}, None
        state.changes, state.shut_out = {}, []
        state.validation = means(config.job.task, scores)
        state.sent.append(dict(state.ledger.bytes))
        teaching = config.job.strategy.teaching
        if teaching is not None and teaching.changes == "stage":
            state.teacher = state.weights
        self._write(f"stage-{state.stage}.safetensors")

    def _write(self, name: str) -> None:
        """Write the weights as they are into a file of their own."""
        file = self.checkpoint.folder / name
        with writing(file):
            # What hospitals keep is not here: in its place there is what nobody has trained.
            every = self.architectures.values()
            shared = (one.whole(one.shared(self.state.weights)) for one in every if one.sites)
            arrays.save_file(file, {k: v for part in shared for k, v in part.items()})

    def _passes_the_gate(self) -> bool:
        """Judge the stage's model; return whether the run goes on from it.

        Raises:
            RunError: it is refused, and the run is to stop.
        """
        state, number, after = self.state, self.state.stage + 1, self.config.release.on_refusal
        if after is None:
            return True
        trained = [name for name, one in self.architectures.items() if one.sites]
        begun = all(state.begun.get(name, {"renewed": name})["renewed"] == [] for name in trained)
        released = state.verdicts[-1].model if state.verdicts else 0
        if not released and not begun:
            verdict = Verdict(True, number, reason="it is the first one")
        else:
            gate = Gate(self.config, self.exchange, state, self.architectures)
            verdict = gate.judge(self._ended(released).weights, released)
        state.verdicts.append(verdict)
        if verdict.released:
            return True
        log.warning("the model of stage %d is refused: %s", number, verdict.reason)
        if after == "stop":
            raise RunError(
                f"the model of stage {number} is refused: {verdict.reason}; release.on_refusal="
                "keep or warn goes on"
            )
        return after == "warn"

    def _take_back(self) -> None:
        """Go back to the model in use, as if the stage had taught nothing.

        What hospitals keep for themselves goes back as well: the versions are those of then.
        """
        state = self.state
        self._write(f"refused-{state.stage + 1}.safetensors")
        before = self._ended(state.verdicts[-1].model)
        for name in ("weights", "teacher", "memory", "versions", "kept", "stored"):
            setattr(state, name, getattr(before, name))
        state.best, state.trained[state.stage :] = {}, [[]]
        self._grow()

    def _ended(self, stages: int) -> State:
        """Return the state in which the run was after so many stages.

        Raises:
            RunError: it is not there any more.
        """
        found = self.checkpoint.ended(stages)
        if found is None:
            folder = self.checkpoint.folder
            raise RunError(f"{folder}: the state after stage {stages} is not there any more")
        return found

    def _expect(self, sites: Sequence[str], what: str) -> None:
        """Wait for hospitals, not for ever.

        Args:
            sites: whom the stage needs.
            what: they are to do, in the words of `failures`.
        """
        state = self.state
        self._welcome(sites)
        there = self.exchange.roster.connected()
        for site in sites:
            if site not in there:
                reason = f"not there after {self.config.wait:g} s (timeline.wait)"
                reason = str(self.exchange.roster.refused.get(site, reason))
                state.ledger.fail(site, state.stage, state.round, what, reason)

    @property
    def _closing(self) -> Closing:
        """What is done at the end of a stage, with what is known by now."""
        return Closing(self.config, self.exchange, self.state, self.architectures, self.shape)

    def _grow(self) -> None:
        """Give the model room for what the sites arriving in this stage bring."""
        state = self.state
        arrived = self.config.timeline.seen(state.stage)
        self.architectures = architectures(self.config.job, arrived)
        room = arrays.Arrays()
        for one in self.architectures.values():
            room |= one.whole(arrays.of_network(one.network))
        state.weights = arrays.grown(state.weights, room)
        state.teacher = arrays.grown(state.teacher, room)
