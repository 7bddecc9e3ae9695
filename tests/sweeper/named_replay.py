"""`python named_replay.py NODE FOLDER`: an answer without torch that is another where NODE is.

Rank 0 looks at the nodes that Slurm gave its job.
"""

import os
import subprocess
import sys
from pathlib import Path

from train.replay_files import ANSWER, ORDER, ReplayAnswer, ReplayOrder
from train.runlog import write_atomic

bad, folder = sys.argv[1], Path(sys.argv[2])
order = ReplayOrder.model_validate_json((folder / ORDER).read_text())
nodes = subprocess.run(
    ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]],
    capture_output=True,
    text=True,
    check=True,
).stdout.split()
print(f"task {os.environ['SLURM_PROCID']} of {os.environ['SLURM_NTASKS']} on {nodes}", flush=True)
if os.environ["SLURM_PROCID"] == "0":
    digest = f"step {order.step} on {len(nodes)}" + (" but wrong" if bad in nodes else "")
    write_atomic(folder / ANSWER, ReplayAnswer(digest=digest, losses=(1.0,)).model_dump_json())
