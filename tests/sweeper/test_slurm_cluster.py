"""The Slurm that other tests rely on does what its names promise."""

import subprocess
import sys
from pathlib import Path

import pytest
from observing import until
from slurm_cluster import SlurmCluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

NODE_LOSS_SECONDS = 60.0

# A process that ends in its own way while its cluster runs; the folder is its only argument.
ABANDONED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from slurm_cluster import SlurmCluster
cluster = SlurmCluster(Path(sys.argv[1]))
cluster.start()
print("started", flush=True)
{end}
"""


def abandon(folder: Path, end: str) -> "subprocess.CompletedProcess[str]":
    code = ABANDONED.format(tests=str(Path(__file__).parent), end=end)
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_job_runs_and_is_accounted_for(slurm: SlurmCluster):
    job = slurm.submit("echo hello")
    slurm.wait_for(job, "COMPLETED")
    assert (slurm.folder / f"{job}.out").read_text() == "hello\n"
    until(lambda: slurm.accounted(job) == ["COMPLETED"])


def test_a_job_spans_two_nodes(slurm: SlurmCluster):
    job = slurm.submit("srun sh -c 'echo $SLURMD_NODENAME'", "--nodes=2", "--ntasks-per-node=1")
    slurm.wait_for(job, "COMPLETED")
    nodes = (slurm.folder / f"{job}.out").read_text().split()
    assert sorted(nodes) == ["n1", "n2"]


def test_the_job_of_a_lost_node_is_queued_again(slurm: SlurmCluster):
    job = slurm.submit("sleep 300", "--nodelist=n2")
    slurm.wait_for(job, "RUNNING")
    slurm.kill_slurmd("n2")
    slurm.wait_for(job, "PENDING", NODE_LOSS_SECONDS)
    assert slurm.node_states()["n2"] == "down*"
    until(lambda: slurm.accounted(job)[0] == "NODE_FAIL")


def test_the_job_of_a_node_declared_down_is_queued_again(slurm: SlurmCluster):
    job = slurm.submit("sleep 300", "--nodelist=n2")
    slurm.wait_for(job, "RUNNING")
    slurm.down("n2")
    slurm.wait_for(job, "PENDING")
    slurm.resume("n2")
    slurm.wait_for(job, "RUNNING")
    until(lambda: slurm.accounted(job) == ["NODE_FAIL", "RUNNING"])


def test_jobs_outlive_their_slurmd(slurm: SlurmCluster):
    job = slurm.submit("until [ -e go ]; do sleep 0.1; done", f"--chdir={slurm.folder}")
    slurm.wait_for(job, "RUNNING")
    slurm.kill_slurmd("n1", jobs=False)
    slurm.start_slurmd("n1")
    (slurm.folder / "go").touch()
    slurm.wait_for(job, "COMPLETED")


def test_a_controller_that_starts_again_knows_its_queue(slurm: SlurmCluster):
    running, held = slurm.submit("sleep 300"), slurm.submit("true", "--hold")
    slurm.wait_for(running, "RUNNING")
    slurm.kill_controller()
    assert "Unable to contact slurm controller" in slurm.attempt("squeue").stderr
    slurm.start_controller()
    assert (slurm.state(running), slurm.state(held)) == ("RUNNING", "PENDING")


def test_jobs_run_without_accounting_and_are_accounted_for_later(slurm: SlurmCluster):
    slurm.stop_accounting()
    assert slurm.attempt("sacct").returncode != 0
    job = slurm.submit("true")
    slurm.wait_for(job, "COMPLETED")
    slurm.start_accounting()
    until(lambda: slurm.accounted(job) == ["COMPLETED"])


def test_an_urgent_job_sends_another_back_into_the_queue(slurm: SlurmCluster):
    low = slurm.submit("sleep 300", "--nodes=4", "--exclusive")
    slurm.wait_for(low, "RUNNING")
    high = slurm.submit("true", "--nodes=4", "--exclusive", "--partition=high")
    slurm.wait_for(high, "COMPLETED")
    assert slurm.state(low) == "PENDING"
    until(lambda: slurm.accounted(low)[0] == "PREEMPTED")


def test_a_drained_node_takes_no_job(slurm: SlurmCluster):
    slurm.drain("n1")
    assert slurm.node_states()["n1"] == "drained"
    job = slurm.submit("true")
    slurm.wait_for(job, "COMPLETED")
    assert slurm.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%N") == "n2"


def test_the_small_qos_refuses_a_third_job(slurm: SlurmCluster):
    for _ in range(2):
        slurm.submit("sleep 300", "--qos=small")
    refused = slurm.attempt("sbatch", "--qos=small", "--wrap=true")
    assert "QOSMaxSubmitJobPerUserLimit" in refused.stderr


def test_everything_broken_at_once_is_mended(slurm: SlurmCluster):
    slurm.wait_for(slurm.submit("sleep 300", "--nodes=4"), "RUNNING")
    slurm.down("n3")
    slurm.drain("n4")
    slurm.kill_slurmd("n1")
    slurm.kill_controller(saved=False)
    slurm.stop_accounting()
    slurm.healthy()
    assert set(slurm.node_states().values()) == {"idle"}
    assert not slurm.run("squeue", "-h")


def test_a_stopped_cluster_leaves_no_process(slurm: SlurmCluster, tmp_path: Path):
    second = SlurmCluster(tmp_path, max_array_size=11)
    second.start()
    assert second.attempt("sbatch", "--array=0-11", "--wrap=true").returncode != 0
    second.wait_for(second.submit("srun sleep 300", "--nodes=4"), "RUNNING")
    second.kill_slurmd("n2", jobs=False)
    second.stop()
    assert second.processes() == []
    assert set(slurm.node_states().values()) == {"idle"}


def test_a_start_that_fails_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: SlurmCluster
):
    monkeypatch.setattr("slurm_cluster.SETUP", ("no such command",))
    second = SlurmCluster(tmp_path)
    with pytest.raises(AssertionError, match="no such command"):
        second.start()
    assert second.processes() == []


@pytest.mark.usefixtures("slurm_cluster")
def test_an_interpreter_that_ends_takes_daemons_and_jobs_with_it(tmp_path: Path):
    ended = abandon(tmp_path, "cluster.wait_for(cluster.submit('sleep 300'), 'RUNNING')")
    assert (ended.returncode, ended.stdout) == (0, "started\n")
    assert SlurmCluster(tmp_path).processes() == []


@pytest.mark.usefixtures("slurm_cluster")
def test_an_interpreter_that_is_killed_leaves_no_daemon(tmp_path: Path):
    ended = abandon(tmp_path, "os.kill(os.getpid(), 9)")
    assert (ended.returncode, ended.stdout) == (-9, "started\n")
    until(lambda: SlurmCluster(tmp_path).processes() == [])
