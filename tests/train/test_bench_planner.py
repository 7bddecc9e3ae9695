"""Predicted against published speed of runs, and what the few constants of the model do to it."""

import math
from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
from published_runs import HELD_OUT, LLAMA, RUNS, SET_FROM, square_flops
from scipy.optimize import least_squares

from model.presets import preset
from tests.benchmarks import Bench
from train.hardware import H100
from train.layout_search import Wish, ranked
from train.setting import Efficiency
from train.step_time import step_time


@pytest.mark.bench
@pytest.mark.parametrize("name", RUNS)
def test_published_runs_are_predicted(bench: Bench, name: str) -> None:
    run = RUNS[name]
    known = "held out" if name in HELD_OUT else "set from"
    said = f"{name}: TFLOP/s ({run.tflops:.0f} published, {known})"
    bench(said, run.predicted(), 0.8 * run.tflops, 1.2 * run.tflops)


@pytest.mark.bench
def test_how_the_runs_depend_on_what_is_set_by_hand(bench: Bench) -> None:
    def errors(efficiency: Efficiency, names: list[str]) -> list[float]:
        return [math.log(RUNS[n].predicted(efficiency) / RUNS[n].tflops) for n in names]

    def residuals(shares: np.ndarray) -> list[float]:
        return errors(Efficiency(matmul=shares[0], memory=shares[1]), list(SET_FROM))

    matmul, memory = least_squares(residuals, [0.65, 0.8], bounds=([0.3, 0.3], [1, 1])).x
    bench("share of the matmul peak by least squares on two rows", matmul, 0.6, 0.7)
    bench("share of the memory's bandwidth by least squares on two rows", memory, 0.7, 0.9)
    for name, efficiency in {
        "as set by hand": Efficiency(),
        "least squares on two rows": Efficiency(matmul=matmul, memory=memory),
        "links at 0.7": Efficiency(links=0.7),
        "no overlap": Efficiency(overlap=0.0),
    }.items():
        wrong = np.expm1(errors(efficiency, list(RUNS)))
        bench(f"{name}: largest error too fast", wrong.max())
        bench(f"{name}: largest error too slow", wrong.min())
        bench(f"{name}: median error", float(np.median(abs(wrong))), high=0.1)
    for run in LLAMA:
        said = f"{run.name}: were masked scores counted"
        bench(said, replace(run, flops=square_flops).predicted() / run.tflops - 1)


@pytest.mark.bench
def test_a_whole_pretraining_costs_what_was_published(bench: Bench) -> None:
    """Llama 3 405B: 15.6 T tokens (arXiv:2407.21783), 30.84 M GPU-hours (its model card)."""
    run = LLAMA[1]
    layout, seconds = run.setting.layout, step_time(run.setting).total
    steps = 15.6e12 / (layout.sequences * run.setting.model.seq_len)
    hours = steps * seconds * layout.world_size / 3600
    bench("Llama 3 405B: million GPU-hours (30.84 published, stops in them)", hours / 1e6, 24.7, 37)


@pytest.mark.bench
def test_a_search_takes_seconds(bench: Bench) -> None:
    began = perf_counter()
    best = ranked(Wish(preset("llama-3-70b"), 512, 1024, H100))[0]
    bench("seconds to search a layout for Llama 3 70B on 512 GPUs", perf_counter() - began, high=5)
    layout = best.layout
    bench("its dp", layout.dp)
    bench("its tp x pp x cp", layout.tp * layout.pp * layout.cp)
    bench("its step, seconds", best.time.total)
