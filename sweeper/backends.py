"""Which scheduler a cluster means. Each is loaded where it is used: submitit takes its time."""

from pathlib import Path

from sweeper.cluster import Cluster, Debug, Slurm
from sweeper.jobs import Backend


def backend_of(cluster: Cluster | Debug | Slurm, home: Path) -> Backend:
    """The scheduler of a study's cluster."""
    if isinstance(cluster, Slurm):
        from sweeper.slurm import SlurmJobs

        return SlurmJobs(cluster, home)
    if isinstance(cluster, Debug):
        from sweeper.local import InProcess

        return InProcess(home)
    from sweeper.local import LocalJobs

    return LocalJobs(cluster, home)
