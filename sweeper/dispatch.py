"""Which jobs are started next: pure, from how runs stand and which jobs live."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sweeper.cluster import Cluster, Debug, Slurm
from sweeper.record import Job
from sweeper.runs import RunView
from sweeper.speed import Speed

# Deaths on more nodes than these are no node's fault, and leaving out all may leave none.
MOST_AVOIDED = 4

Grants = tuple[tuple[str, int], ...]
AnyOf = Cluster | Debug | Slurm


@dataclass(frozen=True)
class Request:
    """A job to start: the attempts it may claim, over how many processes.

    An array of several `elements` runs `cap` of them at once. `after` is the scheduler's id of a
    job that has to end well first; `avoid` names nodes on which these runs died.
    """

    grants: Grants
    world_size: int
    elements: int = 1
    cap: int = 1
    after: str = ""
    avoid: tuple[str, ...] = ()


def next_jobs(
    views: Mapping[str, RunView],
    live: Sequence[Job],
    cluster: AnyOf,
    speed: Speed,
    array_size: int = 0,
) -> list[Request]:
    """The jobs that free places should do."""
    ready = [run for run in views.values() if not run.finished and _ready(run, views)]
    waiting = sorted(ready, key=lambda run: -speed.seconds(run.spec))
    if isinstance(cluster, Slurm):
        return _arrays([r for r in waiting if r.state == "PLANNED"], live, cluster, array_size)
    return _shared([r for r in waiting if r.state in ("PLANNED", "QUEUED")], live, cluster.workers)


def _ready(run: RunView, views: Mapping[str, RunView]) -> bool:
    """Whether what a run starts from is there."""
    parent = views.get(run.spec.parent or "")
    return not run.waits and (parent is None or parent.state == "DONE")


def _shared(waiting: Sequence[RunView], live: Sequence[Job], workers: int) -> list[Request]:
    """One list for all workers, longest run first: they claim from it what nobody has.

    So they balance without a driver. A run of several processes gets a job of its own.
    """
    free = workers - sum(job.world_size for job in live)
    requests: list[Request] = []
    for run in waiting:
        size = run.spec.parallel.dp
        # A run wider than all workers goes alone.
        if size > 1 and run.state == "PLANNED" and (free >= size or not (live or requests)):
            requests.append(Request((_grant(run),), size))
            free -= size
    grants = tuple(_grant(run) for run in waiting if run.spec.parallel.dp == 1)
    return requests + [Request(grants, 1)] * max(0, min(free, len(grants)))


def _arrays(
    waiting: Sequence[RunView], live: Sequence[Job], cluster: Slurm, array_size: int
) -> list[Request]:
    """Arrays of all that waits, once fewer elements than may run at once are in the queue.

    Runs that died on a node are asked for apart from the others, elsewhere.
    """
    free = cluster.workers - sum(job.elements for job in live)
    groups: dict[tuple[int, bool], list[RunView]] = {}
    for run in waiting:
        groups.setdefault((run.spec.parallel.dp, bool(run.avoid)), []).append(run)
    requests: list[Request] = []
    for (size, _), runs in groups.items():
        if free <= 0:
            break
        runs = runs[: array_size * cluster.runs_per_job]
        elements = math.ceil(len(runs) / cluster.runs_per_job)
        avoid = _avoid(runs)
        grants = tuple(map(_grant, runs))
        requests.append(Request(grants, size, elements, min(free, elements), avoid=avoid))
        free -= elements
    return requests


def _avoid(runs: Sequence[RunView]) -> tuple[str, ...]:
    nodes = tuple(dict.fromkeys(node for run in runs for node in run.avoid))
    return nodes if len(nodes) <= MOST_AVOIDED else ()


def chained(views: Mapping[str, RunView], jobs: Iterable[Job]) -> list[Request]:
    """Runs whose parent is on its way in a job that the scheduler knows: they may wait for it."""
    carriers = {run: job for job in jobs if job.scheduler_id for run, _ in job.grants}
    return [
        Request((_grant(run),), run.spec.parallel.dp, after=carriers[parent].scheduler_id)
        for run in views.values()
        if run.state == "PLANNED"
        and (parent := run.spec.parent) in carriers
        and parent in views
        and not views[parent].finished
    ]


def smallest(requests: Sequence[Request], views: Mapping[str, RunView], speed: Speed) -> Request:
    """The first of these jobs, its smallest run in front; of an array that run alone."""
    request = requests[0]
    grants = sorted(request.grants, key=lambda grant: speed.seconds(views[grant[0]].spec))
    if request.elements > 1:
        return Request(grants=(grants[0],), world_size=request.world_size)
    rest = tuple(grant for grant in request.grants if grant != grants[0])
    return Request((grants[0], *rest), request.world_size, avoid=request.avoid)


def _grant(run: RunView) -> tuple[str, int]:
    return run.run_id, run.attempts + 1
