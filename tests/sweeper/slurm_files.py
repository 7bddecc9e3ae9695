"""The programs of a Slurm of one's own and the files they read, all below one folder."""

import os
import random
import shutil
import socket
from pathlib import Path

NODES = ("n1", "n2", "n3", "n4")
PROGRAMS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch", "setpriv")
SYSTEM_TABLES = Path("/usr/share/mysql/mysql_system_tables.sql")

# A requeued job waits for the lifetime of its credentials (120 s unless cred_expire says less).
SLURM = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.steps.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=1
SlurmdTimeout=10
KillWait=5
MinJobAge=300
MaxJobCount=10000
MaxArraySize={max_array_size}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=2,bf_interval=2
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting_port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations,limits,qos
JobAcctGatherType=jobacct_gather/linux
NodeName=n[1-4] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{node_ports}] CPUs=4 RealMemory=2000
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=10 AllowQos=ALL
PartitionName=high Nodes=ALL PriorityTier=10 AllowQos=ALL
"""

ACCOUNTING = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdPort={accounting_port}
SlurmUser=root
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_accounting
"""


def missing_for_slurm() -> str | None:
    """Why no Slurm can be started here; None where one can."""
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    absent = [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]
    if not SYSTEM_TABLES.exists():
        absent.append(str(SYSTEM_TABLES))
    return f"a Slurm of one's own needs {', '.join(absent)}" if absent else None


def search_path() -> str:
    """PATH with the folder of the daemons, which is not in everyone's."""
    return os.environ["PATH"] + ":/usr/sbin"


def write_files(folder: Path, max_array_size: int) -> None:
    """Key, configuration and folders of a cluster that has not been started."""
    controller, accounting, first_node = _free_ports()
    values: dict[str, str | int | Path] = {
        "folder": folder,
        "host": socket.gethostname().split(".")[0],
        "max_array_size": max_array_size,
        "controller_port": controller,
        "accounting_port": accounting,
        "node_ports": f"{first_node}-{first_node + len(NODES) - 1}",
    }
    (folder / "state").mkdir()
    (folder / "mariadb" / "mysql").mkdir(parents=True)
    (folder / "slurm.conf").write_text(SLURM.format_map(values))
    _write_secret(folder / "slurmdbd.conf", ACCOUNTING.format_map(values).encode())
    _write_secret(folder / "munge.key", random.randbytes(128))


def daemon_commands(folder: Path) -> dict[str, list[str]]:
    """How each daemon is started in the foreground, in the order of starting."""
    munged = [
        "munged", "--foreground", "--force", f"--key-file={folder}/munge.key",
        f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
        f"--seed-file={folder}/munge.seed", f"--log-file={folder}/munged.log",
    ]  # fmt: skip
    mariadbd = [*mariadb_command(folder), f"--socket={folder}/mariadb.socket", "--skip-networking"]
    commands = {
        "munged": munged,
        "mariadbd": [*mariadbd, f"--pid-file={folder}/mariadbd.pid"],
        "slurmdbd": ["slurmdbd", "-D"],
        "slurmctld": ["slurmctld", "-D"],
    }
    return commands | {node: ["slurmd", "-D", "-N", node] for node in NODES}


def mariadb_command(folder: Path) -> list[str]:
    """MariaDB that asks for no password, and need not survive a loss of power."""
    return [
        "mariadbd", "--no-defaults", f"--datadir={folder}/mariadb", "--user=root",
        "--skip-grant-tables", "--innodb-flush-method=nosync", "--innodb-log-file-size=16M",
        "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900",
    ]  # fmt: skip


def _write_secret(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def _free_ports() -> tuple[int, int, int]:
    """Ports of controller and accounting, and the first port of the nodes: below those that the
    system hands to clients, so that a daemon that is started again finds its own free."""
    while True:
        first = random.randrange(20000, 30000)
        if all(_is_free(port) for port in range(first, first + 2 + len(NODES))):
            return first, first + 1, first + 2


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
