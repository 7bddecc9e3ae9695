"""The verb `bisect-nodes`: which host computes wrongly, by replaying a step of a run on groups."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sweeper import replays
from sweeper.arguments import ClusterOption, load_study, on_cluster
from sweeper.bisection import Group, Verdict, bisect
from sweeper.cluster import CLUSTERS, Cluster, Debug, Slurm
from sweeper.errors import UserError
from sweeper.folders import StudyDir, home
from sweeper.references import find_run
from sweeper.showing import AsJson, RunArgument
from train.config import RunSpec, steps
from train.replay_files import ReplayOrder
from train.runlog import CHECKPOINT_MANIFEST, RunDir, step_of


def bisect_nodes(
    run: RunArgument,
    step: Annotated[
        int | None,
        typer.Option(
            metavar="S",
            help="The step to replay; the one after the newest checkpoint where it is left out.",
            show_default=False,
        ),
    ] = None,
    hosts: Annotated[
        str | None,
        typer.Option(
            metavar="H1,H2,...",
            help="The hosts; on Slurm also n[1-64]. Left out: those of the run's latest job.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[int, typer.Option("--steps", min=1, help="Steps to replay in a row.")] = 1,
    repeats: Annotated[
        int, typer.Option(min=1, help="Replays of every group: for faults that come and go.")
    ] = 1,
    minutes: Annotated[int, typer.Option(min=1, help="Time of a replay, on Slurm.")] = 30,
    cluster: ClusterOption = None,
    as_json: AsJson = False,
) -> None:
    """Replay a step of a run on groups of hosts, and find those that compute something else.

    Groups of one size must get the same bits. Exit code 1 where some host or group did not; the run
    itself is not touched. On one machine its processes stand for hosts.
    """
    found = find_run(run, home())
    spec = found.spec()
    where = _cluster(spec, cluster)
    asked = _hosts(hosts, found, spec, where)
    order = _order(found, spec, step, count)
    folder = home() / "replays" / found.path.name / time.strftime("%Y%m%d-%H%M%S")
    start = (
        replays.OnSlurm(where, minutes)
        if isinstance(where, Slurm)
        else replays.OnThisMachine(asked, where.environment)
    )

    def tell(line: str) -> None:
        typer.echo(line, err=as_json)

    weights = order.weights or "its first weights"
    tell(f"run {found.path.name}, step {order.step} from {weights}, on {len(asked)} hosts")
    verdict = bisect(asked, replays.replays(folder, order, start, tell), repeats)
    if verdict.clean:
        shutil.rmtree(folder)
    if as_json:
        content = order.model_dump() | {"hosts": asked} | asdict(verdict)
        typer.echo(json.dumps(content, indent=1))
    else:
        typer.echo("\n".join(lines(verdict, folder)))
    raise typer.Exit(0 if verdict.clean else 1)


def lines(verdict: Verdict, folder: Path) -> Iterator[str]:
    """What was found, and the way out."""
    if verdict.clean:
        yield "every host computes the same, bit for bit"
        return
    for host in verdict.bad:
        yield f"{host} computes something else than all others: it is bad"
    for group in verdict.together:
        yield (
            f"{','.join(group)} computed something else, though none of them did alone: the fault "
            "lies between them, or comes and goes; try --repeats"
        )
    if verdict.undecided:
        yield (
            f"{','.join(verdict.undecided)}: they differ, and no two agree on what is right; name "
            "more hosts"
        )
    if verdict.bad:
        named = "".join(f"{host!r}," for host in verdict.bad)
        yield f"to leave them out: cluster.exclude=({named}) for the next launch"
    yield f"logs: {folder}"


def _cluster(spec: RunSpec, kind: str | None) -> Cluster | Debug | Slurm:
    """Where the run's study has its jobs, unless another is asked for."""
    if StudyDir(home(), spec.study).resolved.exists():
        return load_study(Path(spec.study), on_cluster(kind, None)).cluster
    on_cluster(kind, None)
    return CLUSTERS[kind or "local"]()


def _hosts(asked: str | None, run: RunDir, spec: RunSpec, where: Cluster | Debug | Slurm) -> Group:
    """The hosts to tell apart. Raises UserError for fewer than two."""
    if isinstance(where, Slurm):
        attempts = run.attempts()
        try:
            found = (
                replays.hostnames(asked)
                if asked
                else replays.nodes_of_job(attempts[-1].job if attempts else "")
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise UserError(f"--hosts {asked!r}: {error}") from error
    elif asked:
        found = tuple(filter(None, (host.strip() for host in asked.split(","))))
    else:
        found = tuple(f"local-{number}" for number in range(max(2, spec.parallel.dp)))
    if len(found) < 2 or len(set(found)) < len(found):
        raise UserError(
            f"hosts {', '.join(found) or '(none are known)'}: one host is found by comparing it "
            "with others; name two or more, each once, with --hosts"
        )
    return found


def _order(run: RunDir, spec: RunSpec, step: int | None, count: int) -> ReplayOrder:
    """What to replay. Raises UserError for steps that the run does not have."""
    states = [s for s in run.resume_states() if (s / CHECKPOINT_MANIFEST).exists()]
    usable = states if spec.parallel.zero_stage < 3 else []
    before = [s for s in usable if step is None or step_of(s) < step]
    if before:
        weights = before[0]
    else:
        weights = run.final if (run.final / CHECKPOINT_MANIFEST).exists() else None
    last = steps(spec) - count + 1
    first = step if step is not None else min(step_of(before[0]) + 1 if before else 1, max(1, last))
    if not 1 <= first <= last:
        raise UserError(
            f"--step {first} with --steps {count}: run {run.path.name} has {steps(spec)} steps; "
            f"use --step 1 to {max(1, last)}"
        )
    return ReplayOrder(
        run=str(run.path.resolve()),
        step=first,
        steps=count,
        weights=str(weights.relative_to(run.path)) if weights else "",
    )
