"""`python -m train.export RUN_DIR FOLDER`: a finished run as a folder that transformers loads.

Exit status 2 with one sentence where that cannot be.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from train import checkpoint, huggingface
from train.config import data_id
from train.data.tokenizer import END_OF_TEXT, FILE, SPECIAL_TOKENS
from train.runlog import RunDir


def export(run: RunDir, folder: Path) -> None:
    """Write config, weights and tokenizer into a new folder, whole or not at all.

    Raises ValueError where the folder exists, the run has no whole weights, or its model has no
    equal at Hugging Face.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists; name a folder that does not, nothing is overwritten")
    if not folder.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {folder.absolute().parent}; make it first")
    model = checkpoint.load_final(run)
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    staging.mkdir()
    try:
        huggingface.write(staging, model.config, checkpoint.weights(model))
        _add_tokenizer(run, staging, model.config.seq_len)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _add_tokenizer(run: RunDir, folder: Path, seq_len: int) -> None:
    data = run.home / "data" / data_id(run.spec().data)
    shutil.copyfile(data / FILE, folder / FILE)
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": seq_len,
        "eos_token": SPECIAL_TOKENS[END_OF_TEXT],
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told, indent=2), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m train.export", description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory with final weights")
    parser.add_argument("folder", type=Path, help="the folder to make")
    arguments = parser.parse_args()
    try:
        export(RunDir(arguments.run.resolve()), arguments.folder)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
