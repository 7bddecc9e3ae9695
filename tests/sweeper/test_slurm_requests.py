"""What is asked of sbatch: one request for many runs, with all that a study says of its jobs."""

from pathlib import Path

import pytest

from sweeper.cluster import Slurm
from sweeper.designs import expand
from sweeper.dispatch import next_jobs
from sweeper.jobs import Order
from sweeper.record import Job
from sweeper.runs import RunView
from sweeper.slurm import environment, nodes_of, parameters
from sweeper.speed import Speed
from sweeper.study import Study
from train.config import ParallelConfig, RunSpec

CLUSTER = Slurm(
    partition="gpu",
    account="lab",
    qos="normal",
    constraint="h100&nvlink",
    gres="gpu:h100:4",
    cpus_per_task=8,
    mem_gb=1.5,
    minutes=720,
    tasks_per_node=4,
    exclude=("bad1",),
    setup=("module load cuda",),
    extra={"comment": "ours", "requeue": False},
)


def order(world_size: int = 1, exclude: tuple[str, ...] = (), after: str = "") -> Order:
    job = Job("swp-0a-0001", "trials", (), world_size, 0.0)
    return Order(job, Path("/h"), print, [()], 7, exclude, after)


def test_all_that_a_study_says_of_its_jobs_reaches_sbatch() -> None:
    found = parameters(CLUSTER, order(exclude=("bad1", "bad2"), after="77"))
    expected = {
        "job_name": "swp-0a-0001",
        "partition": "gpu",
        "account": "lab",
        "qos": "normal",
        "constraint": "h100&nvlink",
        "gres": "gpu:h100:4",
        "cpus_per_task": 8,
        "mem": "1536MB",
        "time": 720,
        "exclude": "bad1,bad2",
        "dependency": "afterok:77",
        "setup": ["module load cuda"],
        "array_parallelism": 7,
    }
    assert {name: found[name] for name in expected} == expected
    # A site's own word on a parameter of ours stands; a job whose rank died ends.
    assert found["additional_parameters"] == {
        "requeue": False,
        "kill-on-invalid-dep": "yes",
        "comment": "ours",
    }
    assert found["srun_args"] == ["--kill-on-bad-exit=1"]


def test_what_is_not_said_is_left_to_the_site() -> None:
    found = parameters(Slurm(), order())
    left = ("partition", "account", "qos", "constraint", "gres", "mem", "exclude", "dependency")
    assert not found.keys() & set(left)


@pytest.mark.parametrize(
    ("processes", "nodes", "tasks"), [(1, 1, 1), (4, 1, 4), (5, 2, 3), (6, 2, 3), (16, 4, 4)]
)
def test_a_run_of_many_processes_gets_as_many_nodes_as_it_needs(
    processes: int, nodes: int, tasks: int
) -> None:
    found = parameters(CLUSTER, order(processes))
    assert nodes_of(processes, 4) == nodes
    assert (found["nodes"], found["ntasks_per_node"]) == (nodes, tasks)


def test_jobs_know_their_time_and_no_secret() -> None:
    own = {"HOME": "/root", "WANDB_API_KEY": "s3cret", "LAB_PROXY": "p"}
    asked = CLUSTER.model_copy(update={"environment": ("LAB_PROXY",)})
    assert environment(asked, own) == {
        "HOME": "/root",
        "LAB_PROXY": "p",
        "SWEEPER_JOB_MINUTES": "720",
    }


@pytest.fixture(scope="module")
def spec(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    from command_line import STUDY

    from sweeper.study_file import load

    path = tmp_path_factory.mktemp("study") / "small.py"
    path.write_text(STUDY.format(corpus=str(corpus)))
    study: Study = load(path)
    return expand(study)[0].spec


def waiting(spec: RunSpec, count: int, dp: int = 1) -> dict[str, RunView]:
    wide = spec.model_copy(update={"parallel": ParallelConfig(dp=dp)})
    names = [f"{dp}-{n}" for n in range(count)]
    return {name: RunView(name, wide, "PLANNED", 0) for name in names}


def test_a_thousand_runs_are_one_request_of_at_most_so_many_at_once(spec: RunSpec) -> None:
    (request,) = next_jobs(waiting(spec, 1000), [], Slurm(workers=64), Speed(), 1001)
    assert (request.elements, request.cap, len(request.grants)) == (1000, 64, 1000)


def test_more_runs_than_an_array_may_have_are_asked_for_in_parts(spec: RunSpec) -> None:
    views = waiting(spec, 2500)
    asked: list[str] = []
    for expected in (1001, 1001, 498):
        (request,) = next_jobs(views, [], Slurm(workers=64), Speed(), 1001)
        assert request.elements == expected
        asked += [run for run, _ in request.grants]
        views = {name: run for name, run in views.items() if name not in asked}
    assert len(set(asked)) == 2500


def test_small_runs_share_an_element_and_none_is_left_out(spec: RunSpec) -> None:
    packed = Slurm(workers=64, runs_per_job=8)
    (request,) = next_jobs(waiting(spec, 100), [], packed, Speed(), 1001)
    assert request.elements == 13
    job = Job("j", "trials", request.grants, 1, 0.0, request.elements)
    shares = [job.share(index) for index in range(job.elements)]
    assert sorted(grant for share in shares for grant in share) == sorted(request.grants)
    assert {len(share) for share in shares} == {7, 8}


def test_runs_of_another_width_are_another_request(spec: RunSpec) -> None:
    views = waiting(spec, 3) | waiting(spec, 2, dp=4)
    found = next_jobs(views, [], Slurm(workers=64), Speed(), 1001)
    assert sorted((one.world_size, one.elements) for one in found) == [(1, 3), (4, 2)]
