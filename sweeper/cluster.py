"""Where the jobs of a study run: in this process, in processes of this machine, on Slurm."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from train.config import Frozen

# From the signal to the kill: the running step ends, a checkpoint is written.
SIGNAL_SECONDS = 90
PLAIN = r"^[^\x00-\x1f\x7f]*$"
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,:&|\[\]()*+-]+$")]
Line = Annotated[str, Field(pattern=PLAIN)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class _Jobs(Frozen):
    """What all clusters share: `environment` names variables that jobs get beside the usual."""

    environment: tuple[Variable, ...] = ()


class Cluster(_Jobs):
    """Processes on this machine, at most `workers` at once."""

    kind: Literal["local"] = "local"
    workers: int = Field(default=2, gt=0)
    # submitit's own default of two minutes would end a job in the middle of its work.
    timeout_minutes: int = Field(default=30 * 24 * 60, gt=0)


class Debug(_Jobs):
    """The driver's own process, one run after the other: for a debugger."""

    kind: Literal["debug"] = "debug"

    @property
    def workers(self) -> int:
        return 1


class Slurm(_Jobs):
    """Jobs of Slurm: arrays of which at most `workers` elements run at once.

    A run of dp processes gets ceil(dp / tasks_per_node) nodes. An element trains `runs_per_job`
    runs in turn. `container` stands before python (such as "apptainer exec image.sif"), `setup` are
    shell lines before it, `extra` any other parameter of sbatch by its long name. Values that are
    None are left to the site.
    """

    kind: Literal["slurm"] = "slurm"
    workers: int = Field(default=64, gt=0)
    runs_per_job: int = Field(default=1, gt=0)
    minutes: int = Field(default=24 * 60, gt=0)
    tasks_per_node: int = Field(default=1, gt=0)
    cpus_per_task: int | None = Field(default=None, gt=0)
    gpus_per_node: int | None = Field(default=None, gt=0)
    mem_gb: float | None = Field(default=None, gt=0)
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    gres: Word | None = None
    exclude: tuple[Word, ...] = ()
    setup: tuple[Line, ...] = ()
    container: Line = ""
    extra: dict[Word, bool | int | float | Line] = Field(default_factory=dict)
    # One question a poll, for all jobs together.
    poll_seconds: float = Field(default=20.0, gt=0)

    @model_validator(mode="after")
    def _legal(self) -> Self:
        if self.minutes * 60 < 2 * SIGNAL_SECONDS:
            raise ValueError(
                f"minutes={self.minutes}: a job is told to save {SIGNAL_SECONDS} s before its end "
                f"and Slurm may be a minute early; give it {2 * SIGNAL_SECONDS // 60} or more"
            )
        return self


AnyCluster = Annotated[Cluster | Debug | Slurm, Field(discriminator="kind")]
LOCAL = Cluster()
CLUSTERS: dict[str, type[Cluster] | type[Debug] | type[Slurm]] = {
    "local": Cluster,
    "debug": Debug,
    "slurm": Slurm,
}
