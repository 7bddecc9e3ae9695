"""The folder that a run starts from: what it holds, and whether a shape can be grown from it.

No torch here: `plan` asks it.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from model.config import ModelConfig
from model.growth import check_growth
from train.choices import Start
from train.hf_configs import understood

CONFIG = "config.json"


@lru_cache(maxsize=16)
def digest(folder: str) -> str:
    """A hash of a folder's config and weights. Raises ValueError where there are none."""
    files = sorted(Path(folder).glob("*.safetensors"))
    if not files or not (Path(folder) / CONFIG).is_file():
        raise ValueError(
            f"start.folder={folder!r} holds no {CONFIG} and .safetensors; name the checkpoints/"
            "final of a finished run, or a folder that transformers wrote"
        )
    found = hashlib.blake2b(digest_size=8)
    for path in (Path(folder) / CONFIG, *files):
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def config_of(folder: Path) -> ModelConfig:
    """The shape of the model in a folder. Raises ValueError where it is not known here."""
    told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return understood(told) if "model_type" in told else ModelConfig.model_validate(told)


def with_digest(start: Start) -> Start:
    """The start with the hash of its weights. Raises ValueError for a folder without any."""
    return start if start.digest else Start(folder=start.folder, digest=digest(start.folder))


def check(start: Start, model: ModelConfig) -> None:
    """Raises ValueError where the model cannot be grown from the folder's."""
    check_growth(config_of(Path(start.folder)), model)
