"""Resumable engine states and final weights on disk: atomic, verified, retained by count."""

import hashlib
import json
import shutil
from pathlib import Path

import deepspeed
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import ModelConfig
from model.transformer import Transformer
from train.parallel import Ranks
from train.runlog import RunDir, write_atomic

KEPT = 2  # the newest, and the one before it should the newest be damaged


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    return {str(path.relative_to(folder)): _sha256(path) for path in sorted(files)}


def is_whole(folder: Path) -> bool:
    """True when every file of a checkpoint is there with the bytes that were written."""
    try:
        expected = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return bool(expected) and expected == _manifest(folder)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def saved_steps(run: RunDir) -> list[Path]:
    """Folders of resumable checkpoints, newest first, whole or not."""
    return sorted(run.checkpoints.glob("step-*"), key=_step, reverse=True)


def save(engine: deepspeed.DeepSpeedEngine, run: RunDir, step: int, ranks: Ranks) -> None:
    """Write the engine's state after `step` steps; the manifest, last, makes it count."""
    folder = run.checkpoints / f"step-{step}"
    if ranks.first:
        shutil.rmtree(folder, ignore_errors=True)
    dist.barrier()
    engine.save_checkpoint(str(run.checkpoints), tag=folder.name, save_latest=False)
    dist.barrier()
    if ranks.first:
        write_atomic(folder / "manifest.json", json.dumps(_manifest(folder)))
        run.event("checkpoint", step=step)
        for old in saved_steps(run)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)


def newest_whole(run: RunDir) -> Path | None:
    """The newest checkpoint whose bytes verify; a damaged one is passed over, loudly."""
    for folder in saved_steps(run):
        if is_whole(folder):
            return folder
        run.event("checkpoint_damaged", path=str(folder.relative_to(run.path)))
    return None


def resume(engine: deepspeed.DeepSpeedEngine, run: RunDir, folder: Path) -> int:
    """Load an engine state and return the steps that it holds."""
    path, _ = engine.load_checkpoint(str(run.checkpoints), tag=folder.name)
    assert path is not None, f"DeepSpeed found nothing to load in {folder}"
    return _step(folder)


def weights(model: Transformer) -> dict[str, Tensor]:
    """Named parameters for a weights file: a tied table stands once, under the embedding's name."""
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}


def save_final(model: Transformer, run: RunDir) -> None:
    """Leave the weights alone, for a later stage, an export, an evaluation."""
    staging = run.checkpoints / ".final"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    save_file(weights(model), staging / "model.safetensors")
    write_atomic(staging / "config.json", model.config.model_dump_json(indent=1))
    write_atomic(staging / "manifest.json", json.dumps(_manifest(staging)))
    shutil.rmtree(run.final, ignore_errors=True)
    staging.rename(run.final)


def drop_resume_states(run: RunDir) -> None:
    """A finished run needs no state to resume from."""
    for folder in saved_steps(run):
        shutil.rmtree(folder, ignore_errors=True)


def load_final(run: RunDir) -> Transformer:
    """The model of a finished run, as it ended. Raises ValueError where its weights are damaged."""
    if not is_whole(run.final):
        raise ValueError(
            f"the weights of run {run.path.name} in {run.final} are missing or damaged; "
            f"delete {run.path / 'result.json'} and launch again to train them anew"
        )
    config = ModelConfig.model_validate_json((run.final / "config.json").read_text("utf-8"))
    model = Transformer(config)
    state = load_file(run.final / "model.safetensors")
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert set(missing) <= {"head.weight"}, missing  # the tied table, stored once
    return model
