"""Checks of Slurm: commands, controller, accounting, its settings, what the study asks of it."""

import getpass
import re
import shutil
import sys
import time
import uuid

from sweeper.checks import Answer, Check, Subject, Verdict, ask, last_line
from sweeper.differences import flat
from sweeper.disk_checks import CLOCK_SECONDS, scratch

COMMANDS = ("sbatch", "squeue", "sacct", "sinfo", "scontrol", "scancel")
PROBE_SECONDS = 180.0


def slurm(subject: Subject) -> Check:
    """Whether Slurm's commands are there and its controller answers."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    bad: Verdict = "FAIL" if subject.slurm else "ok"
    if missing:
        seen = f"{', '.join(missing)} not on the path"
        if not subject.slurm:
            return Check("slurm", "ok", f"{seen}; the local cluster needs none")
        return Check("slurm", bad, seen, "load Slurm's module, or run on a login node")
    answer = ask("scontrol", "ping")
    if answer.code == 0 and " is UP" in answer.text:
        return Check("slurm", "ok", answer.text.splitlines()[0])
    seen = f"no controller answers: {last_line(answer.text)}"
    if not subject.slurm:
        return Check("slurm", "ok", f"{seen}; the local cluster needs none")
    return Check(
        "slurm", bad, seen, "ask for its state: scontrol ping; SLURM_CONF names its config"
    )


def _answers() -> bool:
    answer = ask("scontrol", "ping")
    return answer.code == 0 and " is UP" in answer.text


def _no_slurm(name: str) -> Check:
    return Check(name, "ok", "not looked at: no Slurm answers here")


def accounting(subject: Subject) -> Check:
    """Whether sacct answers: it tells why a job ended that squeue no longer knows."""
    if not _answers():
        return _no_slurm("accounting")
    answer = ask("sacct", "-X", "-n", "-P", "-S", "now-1hour", "-o", "JobID,State")
    if answer.code == 0:
        return Check("accounting", "ok", f"sacct knows {len(answer.text.splitlines())} recent jobs")
    return Check(
        "accounting",
        "warn",
        last_line(answer.text),
        "ask for accounting; without it a job that vanished counts as killed",
    )


def settings(subject: Subject) -> Check:
    """MaxArraySize, requeue, and how preemption is announced."""
    answer = ask("scontrol", "show", "config")
    if answer.code != 0:
        return _no_slurm("slurm settings")
    config = dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", answer.text, re.MULTILINE))
    names = ("MaxArraySize", "JobRequeue", "PreemptType", "PreemptMode")
    signal = "send_user_signal" in answer.text
    seen = [f"{name}={config.get(name, '?')}" for name in names]
    seen.append(f"preempted jobs get {'the user signal' if signal else 'SIGTERM'}")
    if config.get("JobRequeue") == "0":
        way_out = "none needed: the driver submits again; queues are waited in anew"
        return Check("slurm settings", "warn", ", ".join(seen), way_out)
    return Check("slurm settings", "ok", ", ".join(seen))


def place_in_queue(subject: Subject) -> Check:
    """Whether the partition, account and qos that the study names are there."""
    name = "partition, account, qos"
    if subject.study is None or not subject.slurm:
        return Check(name, "ok", "not looked at: no study on Slurm was named")
    if not _answers():
        return Check(name, "FAIL", "the controller does not answer", "see the check slurm")
    asked = _asked(subject)
    refused = [said for kind in ("partition", "account", "qos") if (said := _refused(kind, asked))]
    if refused:
        return Check(
            name, "FAIL", "; ".join(refused), "change the study's cluster, or ask for access"
        )
    shown = ", ".join(f"{kind}={asked[kind]}" for kind in asked) or "Slurm's defaults"
    return Check(name, "ok", shown)


def _asked(subject: Subject) -> dict[str, str]:
    """What the study names of a queue, wherever in its cluster."""
    assert subject.study is not None
    fields = flat(subject.study.cluster.model_dump(mode="json"))
    named = {path.rpartition(".")[2]: value for path, value in fields.items()}
    return {k: str(named[k]) for k in ("partition", "account", "qos") if named.get(k)}


def _refused(kind: str, asked: dict[str, str]) -> str:
    """Why Slurm does not have what is asked, or nothing."""
    wanted = asked.get(kind)
    if wanted is None:
        return ""
    if kind == "partition":
        found = ask("sinfo", "-h", "-o", "%R").text.split()
    else:
        user = getpass.getuser()
        fields = f"format={kind}"
        answer = ask("sacctmgr", "-n", "-P", "show", "assoc", f"user={user}", fields)
        found = re.split(r"[,\s]+", answer.text) if answer.code == 0 else []
        if not any(found):
            # Without associations Slurm enforces none, or does not tell.
            return ""
    lacking = [one for one in wanted.split(",") if one not in found]
    known = ", ".join(sorted(set(filter(None, found))))
    return f"no {kind} {', '.join(lacking)}; there is {known}" if lacking else ""


def probe(subject: Subject) -> Check:
    """A job of seconds on a compute node: does it see this folder, this Python, this clock?"""
    name = "compute node"
    if not subject.probe:
        return Check(name, "ok", "not looked at: --probe submits a job that looks")
    if not _answers():
        return Check(name, "ok", "this machine is the compute node: no Slurm answers here")
    token = uuid.uuid4().hex
    with scratch(subject.home) as folder:
        (folder / "token").write_text(token)
        script = (
            'cat "$1"; echo; hostname; date +%s; "$2" -c "import sys; print(sys.version_info[0])"'
        )
        where = [
            f"--{kind}={value}"
            for kind, value in (_asked(subject) if subject.study else {}).items()
        ]
        command = ("srun", "-N1", "-n1", "--time=2", "--immediate=120", *where)
        said = ask(
            *command,
            "sh",
            "-c",
            script,
            "sh",
            str(folder / "token"),
            sys.executable,
            seconds=PROBE_SECONDS,
        )
    return _probed(name, said, token)


def _probed(name: str, said: Answer, token: str) -> Check:
    """What came back of a probe."""
    if said.code is None or not said.text or "Unable to allocate" in said.text:
        way_out = "see why: squeue --me; or name a partition that is free"
        return Check(name, "warn", f"no job ran: {last_line(said.text)}", way_out)
    lines = said.text.splitlines()
    if said.code != 0 or lines[0] != token or len(lines) < 4:
        way_out = "set SWEEPER_HOME and the environment on a disk that compute nodes mount"
        return Check(name, "FAIL", f"not the same folder or Python: {lines[-1]}", way_out)
    apart = abs(float(lines[2]) - time.time())
    if apart > CLOCK_SECONDS + 1:
        return Check(name, "warn", f"{lines[1]} is {apart:.0f} s apart", "set its clock by NTP")
    return Check(name, "ok", f"{lines[1]} sees this folder and this Python")
