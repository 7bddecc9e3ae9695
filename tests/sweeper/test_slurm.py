"""Whole launches on a real Slurm of four nodes, through what befalls jobs there.

What must hold after each: no run lost, none trained twice at once, and its state told truly.
"""

import json
import random
import subprocess
import time
from collections.abc import Iterator

import pytest
from command_line import CommandLine
from observing import HOLD, made, runs, starts, until
from slurm_cluster import SlurmCluster

from train.runlog import RunDir

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

SLURM = (
    "cluster={'kind': 'slurm', 'partition': 'low', 'workers': 8, 'poll_seconds': 1.0, "
    "'minutes': 5, 'environment': ('FAKE_SECONDS',)}"
)

DESIGN = "{{'kind': 'one_at_a_time', 'budget': 1e12, 'seeds': {seeds}, 'tokens_per_param': 80}}"
TWO = f"designs=({DESIGN.format(seeds=(0,))},)"
FOUR = f"designs=({DESIGN.format(seeds=(0, 1))},)"
ONE = "designs=({'kind': 'random', 'trials': 1, 'budget': 1e12, 'tokens_per_param': 80},)"
STEPS = [1, 2, 3, 4]
NODE_LOSS_SECONDS = 60.0


@pytest.fixture
def on_slurm(command: CommandLine, slurm: SlurmCluster) -> Iterator[CommandLine]:
    """The command line of a login node; queue and nodes are cleared after the test."""
    own = ("SWEEPER_HOME", "PYTHONPATH", "FAKE_SECONDS")
    command.environment = slurm.environment | {name: command.environment[name] for name in own}
    yield command
    slurm.cancel_all()


def begun(command: CommandLine) -> list[RunDir]:
    """The runs that have a folder."""
    return runs(command.home) if (command.home / "runs").exists() else []


def sbatch_calls(command: CommandLine) -> int:
    return len(list((command.home / "studies" / "small" / "jobs").glob("*/*_submission.sh")))


def start(command: CommandLine, *overrides: str, seconds: float) -> "subprocess.Popen[str]":
    """A launch whose runs take so long."""
    arguments = ("launch", str(command.study), SLURM, HOLD, *overrides)
    return command.start(*arguments, FAKE_SECONDS=str(seconds))


def ended(driver: "subprocess.Popen[str]") -> str:
    """What a launch said that ended well."""
    said, _ = driver.communicate(timeout=150)
    assert driver.returncode == 0, said
    return said


def at_work(command: CommandLine, count: int = 1) -> list[RunDir]:
    """Waits until so many runs have made a step and have no result yet."""

    def found() -> list[RunDir]:
        home = command.home / "runs"
        folders = [RunDir(path.parent) for path in sorted(home.glob("*/metrics.1.jsonl"))]
        return [run for run in folders if run.result() is None]

    until(lambda: len(found()) >= count)
    return found()


def said_in_jobs(command: CommandLine) -> str:
    """What jobs printed, among it what Slurm refused them."""
    logs = (command.home / "studies" / "small" / "jobs").glob("*/*_log.out")
    return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')}" for path in logs)


def job_of(slurm: SlurmCluster, run: RunDir) -> tuple[str, str]:
    """Slurm's number of the job that has a run, and its node."""
    name, _, index = run.attempts()[-1].job.partition("_")
    for number, element, job, _, _, node in slurm.squeue():
        if job == name and (not index or element == index):
            return (f"{number}_{index}" if index else number), node
    raise AssertionError(f"Slurm does not know {name}")


def whole(command: CommandLine, count: int) -> None:
    """So many runs are DONE, there are no others, and each made each of its steps once."""
    assert [made(run) for run in runs(command.home)] == [STEPS] * count
    assert all(run.result() is not None for run in runs(command.home))
    assert command.rows("select count(*) from runs where state = 'DONE'") == [str(count)]
    waits = "state in ('QUEUED', 'RUNNING', 'FAILED', 'CANCELLED', 'PRUNED')"
    assert command.rows(f"select count(*) from runs where {waits}") == ["0"]


def attempts(command: CommandLine) -> list[int]:
    """How often each run was tried, the most often tried last."""
    return sorted(len(run.attempts()) for run in runs(command.home))


def causes(command: CommandLine) -> list[str]:
    """How attempts ended that ended without a result."""
    return [failure.cause for run in runs(command.home) for failure in run.failures()]


def test_a_study_runs_as_arrays_and_its_promotion_as_a_chain(on_slurm: CommandLine) -> None:
    code, said = on_slurm.launch(SLURM)
    assert code == 0, said
    assert {starts(run) for run in runs(on_slurm.home)} == {1}
    assert "inside the interval" in said
    assert on_slurm.rows("select count(*) from runs where state != 'DONE'") == ["0"]
    # The data, the first run alone, all others, and three promoted stages.
    assert sbatch_calls(on_slurm) <= 6


def test_a_partition_that_is_not_there_is_said_once_and_mended(on_slurm: CommandLine) -> None:
    code, said = on_slurm.launch(SLURM, HOLD, TWO, "cluster.partition=nowhere")
    assert code == 1
    assert said.count("the scheduler refuses") == 1
    assert "invalid partition" in said
    assert "cluster.partition=" in said
    assert "Traceback" not in said
    # A container, lines before it, a node that is left out, a parameter of the site's own.
    own = ("container='env IN_A_CONTAINER=1'", "setup=('umask 077',)", "exclude=('n1',)",
           "extra={'comment': 'ours'}")  # fmt: skip
    code, said = on_slurm.launch(SLURM, HOLD, TWO, *(f"cluster.{one}" for one in own))
    assert code == 0, said
    whole(on_slurm, 2)
    assert attempts(on_slurm) == [1, 1]
    assert "n1" not in {run.attempts()[0].host for run in runs(on_slurm.home)}


def test_a_limit_of_two_jobs_is_met_two_at_a_time(on_slurm: CommandLine) -> None:
    code, said = on_slurm.launch(SLURM, HOLD, FOUR, "cluster.qos=small")
    assert code == 0, said
    assert "the scheduler takes no more for now" in said
    whole(on_slurm, 4)
    assert attempts(on_slurm) == [1] * 4


def test_a_preempted_run_goes_on_at_its_step(on_slurm: CommandLine, slurm: SlurmCluster) -> None:
    with start(on_slurm, TWO, seconds=4) as driver:
        at_work(on_slurm)
        slurm.submit("sleep 1", "--nodes=4", "--exclusive", "--partition=high")
        ended(driver)
    whole(on_slurm, 2)
    assert set(causes(on_slurm)) == {"preempted"}
    again = [run for run in runs(on_slurm.home) if len(run.attempts()) == 2]
    assert again
    for run in again:
        first, second = run.attempts()
        assert first.job == second.job


def test_a_run_that_is_out_of_time_goes_on_in_the_same_job(
    on_slurm: CommandLine, slurm: SlurmCluster
) -> None:
    with start(on_slurm, TWO, seconds=4) as driver:
        (run, *_) = at_work(on_slurm)
        # What Slurm sends 90 s before the end, and takes half a minute to notice that it is due.
        slurm.run("scancel", "--signal=USR2", job_of(slurm, run)[0])
        ended(driver)
    whole(on_slurm, 2)
    assert causes(on_slurm) == ["timeout"]
    assert len({attempt.job for attempt in run.attempts()}) == 1, said_in_jobs(on_slurm)


def test_slurms_own_time_limit_is_waited_for_and_the_run_goes_on_at_its_step(
    on_slurm: CommandLine, slurm: SlurmCluster
) -> None:
    """A limit can be brought down to a minute; what then comes at which time is Slurm's doing."""
    with start(on_slurm, ONE, seconds=48) as driver:
        (run,) = at_work(on_slurm)
        number, _ = job_of(slurm, run)
        slurm.run("scontrol", "update", f"JobId={number}", "TimeLimit=1")
        until(lambda: run.failure(1) is not None, 60)
        slurm.run("scontrol", "update", f"JobId={number}", "TimeLimit=5")
        ended(driver)
    whole(on_slurm, 1)
    assert causes(on_slurm) == ["timeout"]
    first, second = run.attempts()
    assert first.job == second.job
    assert run.failures()[0].step >= 1
    assert slurm.accounted(number) == ["REQUEUED", "COMPLETED"]


def test_a_run_that_gets_nowhere_in_its_time_is_given_up_and_its_job_ends(
    on_slurm: CommandLine, slurm: SlurmCluster
) -> None:
    with start(on_slurm, ONE, seconds=400) as driver:
        for attempt in (1, 2, 3):
            until(lambda n=attempt: any(starts(run) == n for run in begun(on_slurm)), 60)
            (run,) = runs(on_slurm.home)
            slurm.run("scancel", "--signal=USR2", job_of(slurm, run)[0])
        said, _ = driver.communicate(timeout=60)
    assert driver.returncode == 1, said
    assert "timeout: 3 attempts in a row got no further than step 0" in said
    assert causes(on_slurm) == ["timeout"] * 3
    until(lambda: not slurm.run("squeue", "-h"))
    assert len(run.attempts()) == 3


def test_a_job_cancelled_by_hand_is_said_and_not_submitted_again(
    on_slurm: CommandLine, slurm: SlurmCluster
) -> None:
    with start(on_slurm, TWO, seconds=6) as driver:
        (run, *_) = at_work(on_slurm)
        slurm.run("scancel", job_of(slurm, run)[0])
        said, _ = driver.communicate(timeout=90)
    assert "cancelled in the scheduler" in said
    assert len(run.attempts()) == 1
    assert run.result() is None
    states = "select state, count(*) from runs where state in ('CANCELLED', 'DONE') group by all"
    assert sorted(on_slurm.rows(states)) == ["CANCELLED 1", "DONE 1"]
    _, said = on_slurm.launch(SLURM, HOLD, TWO)
    assert len(run.attempts()) == 1


def test_the_runs_of_a_lost_node_go_on_elsewhere(
    on_slurm: CommandLine, slurm: SlurmCluster
) -> None:
    with start(on_slurm, TWO, seconds=6) as driver:
        (run, *_) = at_work(on_slurm)
        _, node = job_of(slurm, run)
        slurm.kill_slurmd(node)
        slurm.down(node)
        ended(driver)
    whole(on_slurm, 2)
    first, *_, last = run.attempts()
    assert (first.host, last.host == node) == (node, False)


def test_a_drained_node_ends_its_runs_and_gets_no_more(
    on_slurm: CommandLine, slurm: SlurmCluster
) -> None:
    with start(on_slurm, FOUR, seconds=2) as driver:
        (run, *_) = at_work(on_slurm)
        _, node = job_of(slurm, run)
        slurm.drain(node)
        ended(driver)
    whole(on_slurm, 4)
    assert attempts(on_slurm) == [1] * 4
    assert sum(run.attempts()[0].host == node for run in runs(on_slurm.home)) == 1


def test_runs_go_on_while_the_controller_is_away(
    on_slurm: CommandLine, slurm: SlurmCluster
) -> None:
    with start(on_slurm, FOUR, seconds=3) as driver:
        (run, *_) = at_work(on_slurm)
        slurm.kill_controller()
        # In the meantime the driver asks in vain, and the first run ends.
        until(lambda: run.result() is not None)
        slurm.start_controller()
        ended(driver)
    whole(on_slurm, 4)
    assert attempts(on_slurm) == [1] * 4


def test_a_study_ends_without_accounting(on_slurm: CommandLine, slurm: SlurmCluster) -> None:
    slurm.stop_accounting()
    seeds = f"designs=({DESIGN.format(seeds=(66,))},)"
    code, said = on_slurm.launch(SLURM, HOLD, seeds)
    assert code == 0, said
    whole(on_slurm, 2)
    assert attempts(on_slurm) == [2, 2]


@pytest.mark.parametrize("accounting", [True, False], ids=["accounting", "no accounting"])
def test_a_driver_that_is_killed_again_and_again_doubles_no_job(
    on_slurm: CommandLine, slurm: SlurmCluster, accounting: bool
) -> None:
    """Two of its runs are killed as well, in their first attempt; ten instants in all."""
    instants = random.Random(11 if accounting else 12)
    if not accounting:
        slurm.stop_accounting()
    seeds = f"designs=({DESIGN.format(seeds=(0, 66))},)"
    for _ in range(5):
        with start(on_slurm, seeds, seconds=3) as driver:
            time.sleep(instants.uniform(1.0, 5.0))
            driver.kill()
    code, said = on_slurm.launch(SLURM, HOLD, seeds)
    assert code == 0, said
    whole(on_slurm, 4)
    assert attempts(on_slurm) == [1, 1, 2, 2]


def test_a_killed_run_does_not_lose_the_others_of_its_job(on_slurm: CommandLine) -> None:
    seeds = f"designs=({DESIGN.format(seeds=(0, 1, 66))},)"
    code, said = on_slurm.launch(SLURM, HOLD, seeds, "cluster.runs_per_job=4")
    assert code == 0, said
    whole(on_slurm, 6)
    assert attempts(on_slurm) == [1, 1, 1, 1, 2, 2]


def test_doctor_probes_a_compute_node_and_finds_the_queue(on_slurm: CommandLine) -> None:
    on_slurm.home.mkdir(mode=0o700)
    code, said = on_slurm.run("doctor", str(on_slurm.study), SLURM, "--probe", "--json")
    found = {check["name"]: check for check in json.loads(said)["checks"]}
    assert code == 0, said
    for name in ("slurm", "accounting", "slurm settings", "partition, account, qos"):
        assert found[name]["verdict"] == "ok", found[name]
    assert found["compute node"]["verdict"] == "ok"
    assert found["compute node"]["seen"].endswith("sees this folder and this Python")
    code, said = on_slurm.run(
        "doctor", str(on_slurm.study), SLURM, "cluster.partition=nowhere", "--probe"
    )
    assert code == 1
    assert "no partition nowhere; there is high, low" in said
