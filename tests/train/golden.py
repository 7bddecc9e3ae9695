"""Loss curves that are kept: a few steps of every family of presets, at toy size.

`make golden` (python -m tests.train.golden) trains them and writes golden.json; test_golden.py
trains them again and compares. What changes a curve on purpose writes the file anew, and the
change of numbers is seen in review.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.config import ModelConfig
from model.presets import toy
from tests.train.trainings import curve, train
from train.choices import BatchConfig, ObjectiveConfig, OptimConfig, ScheduleConfig
from train.config import DataConfig, EvalConfig, RunSpec
from train.data.curate import with_digest
from train.runlog import RunDir, create_run

FILE = Path(__file__).with_name("golden.json")
# A preset of each family, and the objective that it was published with.
FAMILIES: dict[str, tuple[str, ObjectiveConfig]] = {
    "gpt2": ("gpt2", ObjectiveConfig()),
    "gpt3": ("gpt3-125m", ObjectiveConfig()),
    "gpt-neox": ("gpt-neox-20b", ObjectiveConfig()),
    "opt": ("opt-125m", ObjectiveConfig()),
    "palm": ("palm-8b", ObjectiveConfig()),
    "gopher": ("gopher-44m", ObjectiveConfig()),
    "chinchilla": ("chinchilla-70b", ObjectiveConfig()),
    "llama": ("llama-7b", ObjectiveConfig()),
    "llama-2": ("llama-2-7b", ObjectiveConfig()),
    "llama-3": ("llama-3-8b", ObjectiveConfig()),
    "t5": ("t5-small", ObjectiveConfig(kind="span")),
    "t5-1.1": ("t5-1.1-small", ObjectiveConfig(kind="span")),
    "ul2": ("ul2-20b", ObjectiveConfig(kind="ul2")),
}
VOCABULARY, STEPS, BATCH_TOKENS = 300, 20, 1024
Curve = list[tuple[int, float, float]]


def data() -> DataConfig:
    """A small part of the built-in corpus, with sentinels for those that denoise."""
    return with_digest(
        DataConfig(
            bytes_per_source=200_000,
            validation_fraction=0.1,
            vocab_size=VOCABULARY,
            sentinels=20,
        )
    )


def spec_of(
    model: ModelConfig, objective: ObjectiveConfig, text: DataConfig, steps: int = STEPS
) -> RunSpec:
    """A run of so many steps; its rate is held, so that a shorter one is the longer one's start."""
    return RunSpec(
        study="golden",
        trial=0,
        budget=1e8,
        seed=11,
        model=model,
        data=text,
        objective=objective,
        batch=BatchConfig(
            global_batch_tokens=BATCH_TOKENS,
            micro_batch_size=max(1, BATCH_TOKENS // model.seq_len // 2),
        ),
        # With the eps of 1e-8 AdamW makes steps of gradients that are rounding alone.
        optim=OptimConfig(lr=0.003, eps=1e-6),
        schedule=ScheduleConfig(kind="constant", warmup_tokens=4 * BATCH_TOKENS),
        evals=EvalConfig(validation_tokens=512),
        tokens=steps * BATCH_TOKENS,
    )


def family(name: str, text: DataConfig) -> RunSpec:
    """The run whose curve is kept for a family."""
    preset, objective = FAMILIES[name]
    return spec_of(toy(preset, VOCABULARY), objective, text)


def curves(specs: Mapping[str, RunSpec], home: Path) -> dict[str, Curve]:
    """Step, loss and gradient norm of runs trained by one job."""
    runs: dict[str, RunDir] = {name: create_run(home, spec) for name, spec in specs.items()}
    assert train(*runs.values()) == 0
    return {name: curve(run) for name, run in runs.items()}


def recorded() -> dict[str, Curve]:
    """The kept curves by family."""
    return {name: numbered(**kept) for name, kept in _content()["curves"].items()}


def recorded_text() -> str:
    """The digest of the text that the kept curves were made from."""
    return _content()["digest"]


def _content() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def numbered(loss: list[float], grad_norm: list[float]) -> Curve:
    return [(step, *both) for step, both in enumerate(zip(loss, grad_norm, strict=True), start=1)]


def write(home: Path) -> None:
    text = data()
    found = curves({name: family(name, text) for name in FAMILIES}, home)
    lines = []
    for name, rows in found.items():
        # Eight digits are all that a number of 32 bits has.
        loss, norm = ([float(f"{row[column]:.8g}") for row in rows] for column in (1, 2))
        kept = json.dumps(loss) + f',\n   "grad_norm": {json.dumps(norm)}'
        lines.append(f'  "{name}": {{\n   "loss": {kept}}}')
    head = f'{{\n "digest": "{text.digest}",\n "curves": {{\n'
    FILE.write_text(head + ",\n".join(lines) + "\n }\n}\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
