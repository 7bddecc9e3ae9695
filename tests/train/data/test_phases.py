"""Windows of a run that changes its mixture on the way."""

import numpy as np

from train.data.loader import TrainLoader
from train.data.prepare import PreparedData


def test_a_source_goes_on_where_the_phase_before_left_it(prepared: PreparedData) -> None:
    first, second = sorted(prepared.manifest.sources)[:2]
    before = TrainLoader(prepared.folder, {first: 3.0, second: 1.0}, 16, 4, seed=5)
    after = TrainLoader(
        prepared.folder,
        {first: 1.0, second: 1.0},
        16,
        4,
        5,
        begin=400,
        taken=before.taken_after(400),
    )
    assert before.taken_after(400) == {first: 300, second: 100}
    assert after.taken_after(600) == {first: 400, second: 200}
    alone = TrainLoader(prepared.folder, {first: 1.0}, 16, 4, seed=5).rows(np.arange(400))
    rows = np.concatenate([before.rows(np.arange(400)), after.rows(np.arange(400, 600))])
    assert {tuple(row) for row in alone} <= {tuple(row) for row in rows}
