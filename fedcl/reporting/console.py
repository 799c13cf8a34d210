"""The terminal while a run goes on: one console for all, and a progress bar."""

from flwr.app import Message
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fedcl.config.schema import Config
from fedcl.server.events import Round, Watcher
from fedcl.server.outcome import cohorts
from fedcl.server.state import State
from fedcl.wire.answers import Hello

console = Console(stderr=True)


class Display(Watcher):
    """A progress bar that counts the sites' trainings; says stage, round and sites."""

    def __init__(self) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("trainings"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            transient=True,
        )
        self.task = self.bar.add_task("waiting for the hospitals", total=None)
        self.sites: dict[int, str] = {}

    def __enter__(self) -> "Display":
        """Show the bar."""
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bar away."""
        self.bar.stop()

    def replied(self, reply: Message) -> None:
        """Count an answer to a training call."""
        if reply.metadata.message_type == "train":
            self.bar.advance(self.task)

    def started(self, config: Config, state: State, about: dict[str, Hello]) -> None:
        """Set the bar to what is done and what is to come."""
        self.timeline = config.timeline
        sizes: list[int] = []
        for cohort in cohorts(config):
            trainers, first = self.timeline.trainers(cohort), len(sizes) + 1
            rounds = range(first, first + self.timeline.rounds)
            sizes += [len(config.asked(trainers, round_)) for round_ in rounds]
        self.bar.reset(self.task, total=sum(sizes), completed=sum(sizes[: state.round]))
        self.bar.update(self.task, description="evaluating the initial model")

    def round_began(self, stage: int, number: int, cohort: list[str]) -> None:
        """Say which sites train now."""
        stages = len(self.timeline.stages)
        names = ", ".join(cohort) if len(cohort) <= 6 else f"{len(cohort)} sites"
        self.bar.update(
            self.task,
            description=f"stage {stage + 1}/{stages} "
            f"round {number}/{stages * self.timeline.rounds} [bold]{escape(names)}[/]",
        )

    def round_done(self, done: Round, state: State) -> None:
        """Announce the evaluation that follows a stage's last round."""
        if done.number % self.timeline.rounds == 0:
            self.bar.update(
                self.task,
                description=f"stage {done.stage + 1}/{len(self.timeline.stages)} "
                "evaluating every site",
            )
