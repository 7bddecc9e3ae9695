"""Resumable engine states and final weights on disk: atomic, verified, retained by count.

An attempt writes below its own folder alone, and only while no later one exists.
"""

import hashlib
import json
import shutil
from pathlib import Path

import deepspeed
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import ModelConfig
from model.grow import grow
from model.transformer import Transformer
from train import huggingface
from train.choices import Start
from train.parallel import Ranks, agree
from train.runlog import CHECKPOINT_MANIFEST, RunDir, step_of, write_atomic
from train.start import digest
from train.stopping import EndedEarly

KEPT = 2  # the newest, and the one before it should the newest be damaged


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifest(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != CHECKPOINT_MANIFEST)
    return {str(path.relative_to(folder)): _sha256(path) for path in sorted(files)}


def seal(folder: Path) -> None:
    """Write the manifest of a folder that is complete: from now on it counts."""
    write_atomic(folder / CHECKPOINT_MANIFEST, json.dumps(_manifest(folder)))


def is_whole(folder: Path) -> bool:
    """True when every file of a checkpoint is there with the bytes that were written."""
    try:
        expected = json.loads((folder / CHECKPOINT_MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return bool(expected) and expected == _manifest(folder)


def refuse_superseded(run: RunDir, attempt: int) -> None:
    """Raises EndedEarly where a later attempt exists: this one was thought dead."""
    if run.superseded(attempt):
        message = f"attempt {attempt} was replaced by a later one; it writes no more"
        raise EndedEarly("superseded", message, run.resume_step())


def save(
    engine: deepspeed.DeepSpeedEngine, run: RunDir, attempt: int, step: int, ranks: Ranks
) -> None:
    """Write the engine's state after `step` steps; the manifest, last, makes it count.

    Raises EndedEarly where a later attempt exists. What a full disk leaves of it is removed.
    """
    folder = run.attempt_checkpoints(attempt) / f"step-{step}"
    if agree(ranks.first and run.superseded(attempt), ranks):
        refuse_superseded(run, attempt)
    try:
        engine.save_checkpoint(str(folder.parent), tag=folder.name, save_latest=False)
        dist.barrier()
        if ranks.first:
            seal(folder)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if ranks.first:
        run.event("checkpoint", attempt=attempt, step=step)
        drop_old(run, attempt)


def drop_old(run: RunDir, attempt: int) -> None:
    """Keep the newest states of all attempts. A successor may be reading them: then nothing."""
    if not run.superseded(attempt):
        for old in run.resume_states()[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)


def newest_whole(run: RunDir) -> Path | None:
    """The newest checkpoint whose bytes verify; a damaged one is put aside, loudly.

    Where it was, it would count among those that are kept.
    """
    for folder in run.resume_states():
        if is_whole(folder):
            return folder
        run.event("checkpoint_damaged", path=str(folder.relative_to(run.path)))
        folder.rename(folder.with_name(f"damaged-{folder.name}"))
    return None


def resume(engine: deepspeed.DeepSpeedEngine, folder: Path) -> int:
    """Load an engine state and return the steps that it holds."""
    path, _ = engine.load_checkpoint(str(folder.parent), tag=folder.name)
    assert path is not None, f"DeepSpeed found nothing to load in {folder}"
    return step_of(folder)


def weights(model: Transformer) -> dict[str, Tensor]:
    """Named parameters for a weights file: a tied table stands once, under the embedding's name."""
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}


def save_final(model: Transformer, run: RunDir, attempt: int) -> None:
    """Leave the weights alone, for a later stage, an export, an evaluation.

    Raises EndedEarly where a later attempt exists.
    """
    staging = run.checkpoints / f".final-{attempt}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    save_file(weights(model), staging / "model.safetensors")
    write_atomic(staging / "config.json", model.config.model_dump_json(indent=1))
    seal(staging)
    refuse_superseded(run, attempt)
    shutil.rmtree(run.final, ignore_errors=True)
    staging.rename(run.final)


def drop_resume_states(run: RunDir) -> None:
    """A finished run needs no state to resume from."""
    for folder in run.checkpoints.glob("attempt-*"):
        shutil.rmtree(folder, ignore_errors=True)


def load_final(run: RunDir) -> Transformer:
    """The model of a finished run, as it ended. Raises ValueError where its weights are damaged."""
    if not is_whole(run.final):
        raise ValueError(
            f"the weights of run {run.path.name} in {run.final} are missing or damaged; "
            f"delete {run.path / 'result.json'} and launch again to train them anew"
        )
    return _load(run.final)


def load_start(start: Start, config: ModelConfig, seed: int) -> Transformer:
    """The model of a folder, grown to `config` where that is larger.

    Raises ValueError where its weights are not those that the run was planned with.
    """
    folder = Path(start.folder)
    if (found := digest(start.folder)) != start.digest:
        raise ValueError(
            f"start.folder={start.folder!r} holds other weights ({found}) than when this run was "
            f"planned ({start.digest}); put them back, or launch again to plan anew"
        )
    return grow(_load(folder), config, seed)


def _load(folder: Path) -> Transformer:
    """The model of a folder in our own form or in that of transformers."""
    told = json.loads((folder / "config.json").read_text("utf-8"))
    if "model_type" in told:
        config, state = huggingface.read(folder)
    else:
        config = ModelConfig.model_validate(told)
        state = load_file(folder / "model.safetensors")
    model = Transformer(config)
    missing = model.load_state_dict(state, strict=False).missing_keys
    assert set(missing) <= {"head.weight"}, missing  # the tied table, stored once
    return model
