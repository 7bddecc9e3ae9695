"""What a study's ledger adds up to: jobs, decisions, what growing designs asked for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Event = dict[str, Any]
Stage = Literal["data", "trials", "validation", "promotion"]


@dataclass(frozen=True)
class Job:
    """A job that the driver meant to start: what for, and the attempts that it may claim.

    An array has several `elements`, each with its own share of the grants. `refused`: the scheduler
    did not take it. `code` is the state of the program that it runs.
    """

    name: str
    stage: Stage
    grants: tuple[tuple[str, int], ...]
    world_size: int
    time: float
    elements: int = 1
    scheduler_id: str = ""
    refused: bool = False
    code: str = ""

    def element(self, index: int) -> str:
        """The name by which an element's attempts and its row in the queue are known."""
        return self.name if self.elements == 1 else f"{self.name}_{index}"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.element(index) for index in range(self.elements))

    def share(self, index: int) -> tuple[tuple[str, int], ...]:
        """The grants of an element: dealt in turn, so that long runs first stay balanced."""
        return self.grants[index :: self.elements]


class Asked(NamedTuple):
    """A trial that a growing design asked for; `levels` are values in the recipe by dotted path."""

    budget: float
    params_target: float
    seed: int
    levels: Mapping[str, bool | int | float | str]


@dataclass(frozen=True)
class Batch:
    """Trials that a growing design, named by its kind, asked for at once.

    `saw` are the runs that had ended, by id: with them the same batch would be asked for again.
    """

    design: str
    saw: tuple[str, ...]
    points: tuple[Asked, ...]
    why: str


@dataclass(frozen=True)
class Rung:
    """The validation rung that was chosen: budget and params_target, after the trials of `saw`."""

    saw: tuple[str, ...]
    budget: float
    params: float


@dataclass(frozen=True)
class Decision:
    """What a person or a rule decided of a run: that it ends so, or is tried anew.

    Failures of attempts up to `after` do not count any more.
    """

    state: Literal["PRUNED", "CANCELLED"] | None
    cause: str
    after: int = 0


UNDECIDED = Decision(None, "")


@dataclass
class Record:
    """What the events of a ledger add up to; it grows with them."""

    uid: str = ""
    created: float = 0.0
    jobs: list[Job] = field(default_factory=list[Job])
    batches: list[Batch] = field(default_factory=list[Batch])
    rungs: list[Rung] = field(default_factory=list[Rung])
    decisions: dict[str, Decision] = field(default_factory=dict[str, Decision])
    cordoned: dict[str, str] = field(default_factory=dict[str, str])
    # Nodes that a person vouches for: no rule leaves them out.
    trusted: set[str] = field(default_factory=set[str])
    proven: set[str] = field(default_factory=set[str])
    # Every change of state that the driver saw, and the latest of each run.
    changes: list[Event] = field(default_factory=list[Event])
    states: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])

    def next_job(self) -> str:
        """The name of the next job: with a random study id, so that no other study has it."""
        return f"swp-{self.uid}-{len(self.jobs) + 1:04d}"

    def add(self, event: Event) -> None:
        """Take one more event into account."""
        match event["event"]:
            case "study":
                self.uid, self.created = event["uid"], event["time"]
            case "intent":
                self.jobs.append(_job(event))
            case "submitted":
                self._amend(event["job"], scheduler_id=event["id"])
            case "refused":
                self._amend(event["job"], refused=True)
            case "state":
                self.changes.append(event)
                self.states[event["run"]] = (event["state"], event["cause"])
            case "stop":
                decided = Decision(event["state"], event["cause"], event["after"])
                self.decisions[event["run"]] = decided
            case "retry":
                self.decisions[event["run"]] = Decision(None, event["cause"], event["after"])
            case "cordon":
                self.cordoned[event["node"]] = event["why"]
            case "uncordon":
                self.cordoned.pop(event["node"], None)
                if event["trusted"]:
                    self.trusted.add(event["node"])
            case "proven":
                self.proven.add(event["code"])
            case "batch":
                points = tuple(Asked(*point) for point in event["points"])
                saw = tuple(event["saw"])
                self.batches.append(Batch(event["design"], saw, points, event["why"]))
            case "rung":
                self.rungs.append(Rung(tuple(event["saw"]), event["budget"], event["params"]))
            case _:
                # Said for people: what they announce has a record of its own (promotion.json).
                pass

    def trained_since(self, first: int) -> int:
        """How many runs came to a result by the changes from the `first` on.

        A run whose first change is its result was trained before, perhaps by another study.
        """
        known: dict[str, str] = {}
        count = 0
        for number, change in enumerate(self.changes):
            run, state = change["run"], change["state"]
            fresh = number >= first and known.get(run) not in (None, "DONE", "DIVERGED")
            count += fresh and state in ("DONE", "DIVERGED")
            known[run] = state
        return count

    def _amend(self, name: str, **fields: Any) -> None:
        # A job is amended right after it was meant: it stands near the end.
        for index in range(len(self.jobs) - 1, -1, -1):
            if self.jobs[index].name == name:
                self.jobs[index] = Job(**{**vars(self.jobs[index]), **fields})
                return


def _job(event: Event) -> Job:
    return Job(
        name=event["job"],
        stage=event["stage"],
        grants=tuple((run, attempt) for run, attempt in event["grants"]),
        world_size=event["world_size"],
        time=event["time"],
        elements=event.get("elements", 1),
        code=event.get("code", ""),
    )


def replay(events: Iterable[Event]) -> Record:
    """The record after these events."""
    record = Record()
    for event in events:
        record.add(event)
    return record
