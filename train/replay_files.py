"""What a replay is asked for and what it answers: two files of its folder. No torch."""

from pydantic import Field

from train.choices import Frozen

ORDER, ANSWER = "replay.json", "replayed.json"


class ReplayOrder(Frozen):
    """Replay `steps` steps of the run in the folder `run`, from `step` on (counted from 1).

    It begins with the weights in `weights`, a state to resume from or the final ones, below the
    run's folder; with those that the run itself began with where that is empty.
    """

    run: str
    step: int = Field(gt=0)
    steps: int = Field(default=1, gt=0)
    weights: str = ""
    threads: int = Field(default=1, gt=0)


class ReplayAnswer(Frozen):
    """A hash over all that the steps computed in all ranks, and their losses (nats per token)."""

    digest: str
    losses: tuple[float, ...]
