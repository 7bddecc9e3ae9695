"""A spike is found, gone back from and passed by, the same way whatever else happens to the run."""

import json
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainings import done, events, lines, start, train, twin, until

from train.config import CheckpointConfig, DataConfig, SpikeConfig, StabilityConfig
from train.data.curate import with_digest
from train.runlog import RunDir, read_lines
from train.spikes import Spike, SpikeWatch, batch_of, distance, lr_scale, skipped_batches, spike_at

MakeRun = Callable[..., RunDir]
WORDS = "the old cat saw a red hat on my long road and then went home".split()
SETTINGS = SpikeConfig(deviations=8, window=30, rewind=5)
FOREIGN = 200  # the document that is no language


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Sentences of few words, and one document of random characters among them."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=120)) for _ in range(400)]
    texts[FOREIGN] = "".join(draw.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", k=300))
    folder = tmp_path_factory.mktemp("foreign")
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "words.jsonl").write_text(rows, encoding="utf-8")
    return with_digest(DataConfig(corpus=str(folder), validation_fraction=0.1, vocab_size=300))


def last_curve(run: RunDir) -> dict[int, tuple[float, float, float]]:
    """Loss, gradient norm and rate of each step, as it was made the last time."""
    logs = (read_lines(run.metrics(attempt.number)) for attempt in run.attempts())
    return {
        line["step"]: (line["loss"], line["grad_norm"], line["lr"]) for log in logs for line in log
    }


def watched(settings: SpikeConfig = SETTINGS) -> StabilityConfig:
    return StabilityConfig(spikes=settings)


@pytest.mark.slow
def test_the_batches_of_a_spike_are_skipped_and_its_documents_named(
    make_run: MakeRun, foreign: DataConfig
) -> None:
    plain = make_run(seed=80, data=foreign, tokens=95 * 512)
    run = make_run(seed=80, data=foreign, tokens=95 * 512, stability=watched())
    assert train(plain, run) == 0
    found = events(run, "spike")
    assert found
    for event in found:
        numbers = [(first, last) for _, _, first, last in event["documents"]]  # pyright: ignore
        assert any(last - first <= 2 and "loss" in str(event["why"]) for first, last in numbers)
    strange = set.intersection(
        *(
            {n for _, _, first, last in event["documents"] for n in range(first, last + 1)}  # pyright: ignore
            for event in found
        )
    )
    assert len(strange) == 1, "one document is in all of them"
    as_planned, as_gone = last_curve(plain), last_curve(run)
    before = int(str(found[0]["after"]))
    assert all(as_planned[step] == as_gone[step] for step in range(1, before + 1))
    worst = max(
        step
        for step in as_planned
        if as_planned[step][0] == max(value[0] for at, value in as_planned.items() if at > 30)
    )
    assert as_gone[worst][0] < as_planned[worst][0] - 0.5, "what spiked there is not seen"
    assert len(as_gone) == 95
    assert done(run).state == "DONE"


@pytest.mark.slow
def test_a_run_killed_after_a_spike_takes_the_same_way(
    make_run: MakeRun, foreign: DataConfig, tmp_path: Path
) -> None:
    settings = {"seed": 80, "data": foreign, "tokens": 95 * 512, "stability": watched()}
    settings["checkpoints"] = CheckpointConfig(every_seconds=0.05)
    undisturbed = make_run(**settings)
    run = twin(make_run(**settings, study="twin"), tmp_path / "home")
    with start(run) as process:
        until(lambda: events(run, "spike"))
        seen = lines(run)
        until(lambda: lines(run) > seen + 3)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=120)
    assert run.result() is None
    assert train(run) == 0
    if undisturbed.result() is None:
        assert train(undisturbed) == 0
    assert last_curve(run) == last_curve(undisturbed)
    assert done(run).nats_per_token == done(undisturbed).nats_per_token


@pytest.mark.slow
def test_one_spike_too_many_is_divergence_and_others_cost_rate(
    make_run: MakeRun, foreign: DataConfig
) -> None:
    often = SpikeConfig(deviations=1.5, window=10, rewind=2, limit=3)
    run = make_run(seed=81, data=foreign, tokens=95 * 512, stability=watched(often))
    assert train(run) == 0
    assert done(run).state == "DIVERGED"
    assert len(events(run, "spike")) == 3
    assert len(events(run, "spike_limit")) == 1
    spikes = [Spike(int(str(e["step"])), int(str(e["after"]))) for e in events(run, "spike")]
    rates = {step: values[2] for step, values in last_curve(run).items()}
    last = max(rates)
    if all(last > spike.after for spike in spikes):
        assert lr_scale(often, spikes, last) == 0.25


def test_no_spike_is_seen_in_the_first_steps_nor_without_being_asked_for() -> None:
    watch, deaf = SpikeWatch(SETTINGS), SpikeWatch(SpikeConfig())
    assert not any(watch.look(loss, 1.0) for loss in (9.0, 3.0, 8.0, 2.0))
    assert not any(deaf.look(loss, 1.0) for loss in (1.0, 1e9, float("nan")))


def test_a_loss_that_is_no_number_is_a_spike_at_once() -> None:
    assert SpikeWatch(SETTINGS).look(float("nan"), 1.0) == "loss is not finite"
    assert SpikeWatch(SETTINGS).look(1.0, float("inf")) == "gradient norm is not finite"


def test_distance_is_in_standard_deviations_of_normal_numbers() -> None:
    draw = random.Random(3)
    seen = [draw.gauss(5, 2) for _ in range(20_001)]
    assert distance(11, seen) == pytest.approx(3, rel=0.03)
    assert distance(4, seen) == 0


@given(
    at=st.lists(st.integers(1, 60), max_size=5),
    rewind=st.integers(1, 20),
)
def test_no_batch_of_a_spike_comes_again_and_none_comes_twice(at: list[int], rewind: int) -> None:
    settings = SpikeConfig(deviations=5, rewind=rewind)
    spikes: list[Spike] = []
    for step in at:
        before = skipped_batches(spikes)
        spike = spike_at(settings, step)
        spikes.append(spike)
        after = skipped_batches(spikes)
        seen = [batch_of(before, s) for s in range(spike.after + 1, step + 1)]
        assert set(after) == {*before, *seen}
        taken = [batch_of(after, s) for s in range(1, 100)]
        assert not set(after) & set(taken)
        assert taken == sorted(set(taken))


def test_the_second_spike_lowers_the_rate_from_where_it_went_back_to() -> None:
    spikes = [Spike(50, 40), Spike(80, 70)]
    scales = [lr_scale(SpikeConfig(lr_factor=0.5), spikes, step) for step in (40, 41, 70, 71)]
    assert scales == [1, 1, 1, 0.5]
