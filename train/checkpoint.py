"""Resumable engine states and final weights on disk: atomic, verified, retained by rule.

An attempt writes below its own folder alone, and only while no later one exists.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import deepspeed
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.config import ModelConfig
from model.grow import grow
from model.transformer import Transformer
from train import huggingface
from train.choices import Start
from train.engine import WeightsOnly
from train.retention import is_milestone, retained
from train.runlog import CHECKPOINT_MANIFEST, RunDir, step_of, write_atomic
from train.start import digest
from train.stopping import EndedEarly


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


def drop_old(run: RunDir, attempt: int) -> None:
    """Keep what is to be retained of all attempts' states; the oldest goes when a newer is whole.

    A successor may be reading them: then nothing.
    """
    if run.superseded(attempt):
        return
    states = run.resume_states()
    kept = retained(run.spec(), [step_of(p) for p in states if (p / CHECKPOINT_MANIFEST).exists()])
    newest = max(kept, default=0)
    for old in states:
        if step_of(old) not in kept and step_of(old) < newest:
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


def resume(engine: deepspeed.DeepSpeedEngine, folder: Path) -> None:
    """Load an engine state; what the optimizer is set to stays as it was built."""
    optimizer: Any = engine.optimizer
    built = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    path, _ = engine.load_checkpoint(str(folder.parent), tag=folder.name)
    assert path is not None, f"DeepSpeed found nothing to load in {folder}"
    for group, settings in zip(optimizer.param_groups, built, strict=True):
        group.update(settings)


def module_weights(folder: Path) -> dict[str, Tensor]:
    """The parameters of an engine state, which ZeRO below 3 keeps whole."""
    path = folder / "mp_rank_00_model_states.pt"
    return WeightsOnly().load(str(path), map_location="cpu")["module"]


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
    """A finished run needs no state to resume from; its milestones stay."""
    spec = run.spec()
    for state in run.resume_states():
        if not is_milestone(spec, step_of(state)):
            shutil.rmtree(state, ignore_errors=True)
    for folder in run.checkpoints.glob("attempt-*"):
        if not any(folder.glob("step-*")):
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
