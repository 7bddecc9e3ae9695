"""`python replay_again.py RUN_DIR`: replays of a run in one process, their answers by name as JSON.

The run is given a state after step 4 and final weights, which hold the same, and others than the
run's first; in the end the final ones are damaged.
"""

import json
import sys
from functools import partial
from pathlib import Path

import torch

from train import checkpoint, replay
from train.attempt import starting_model
from train.engine import build_engine, snapshot
from train.parallel import Ranks, connect
from train.replay_files import ReplayOrder
from train.runlog import RunDir
from train.saving import Saver


def leave_weights(run: RunDir, ranks: Ranks) -> tuple[str, str]:
    model = starting_model(run, run.spec(), None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    engine = build_engine(model, run.spec(), ranks)
    saver = Saver(run, 1, ranks)
    saver.start(partial(snapshot, engine), 4)
    saver.finish()
    checkpoint.save_final(model, run, 1)
    engine.destroy()
    (state,) = run.resume_states()
    return str(state.relative_to(run.path)), str(run.final.relative_to(run.path))


def answer(run: RunDir, ranks: Ranks, step: int, steps: int = 1, weights: str = "") -> str:
    order = ReplayOrder(run=str(run.path), step=step, steps=steps, weights=weights)
    return replay.replay(order, ranks).model_dump_json()


if __name__ == "__main__":
    run, ranks = RunDir(Path(sys.argv[1])), connect(0, 1, 0, Path("unused"))
    replay.deterministic()
    state, final = leave_weights(run, ranks)
    found = {
        "step 3": answer(run, ranks, 3),
        "step 3 again": answer(run, ranks, 3),
        "step 4": answer(run, ranks, 4),
        "steps 3 and 4": answer(run, ranks, 3, steps=2),
        "step 5": answer(run, ranks, 5),
        "step 5 from a state": answer(run, ranks, 5, weights=state),
        "step 5 from the end": answer(run, ranks, 5, weights=final),
    }
    file = run.final / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    try:
        answer(run, ranks, 5, weights=final)
    except ValueError as error:
        found["damaged"] = str(error)
    print(json.dumps(found))
