"""The envelope: a curve under the best run of every rung."""

import numpy as np
import pytest

from analysis import envelope
from analysis.law import NotEnough
from analysis.runs import prepare
from tests.analysis import ladders

BUDGETS = tuple(np.geomspace(1e18, 1e21, 7).tolist())


def test_the_curve_of_the_best_losses_is_recovered() -> None:
    """Along Chinchilla's optima L* = E + K C^-g with g = alpha beta / (alpha + beta)."""
    runs = prepare(ladders.ladder(BUDGETS, sizes=15))
    fit = envelope.fit(runs, draws=20)
    g = ladders.ALPHA * ladders.BETA / (ladders.ALPHA + ladders.BETA)
    assert fit.coef["g"] == pytest.approx(g, rel=1e-2)
    assert fit.coef["E"] == pytest.approx(ladders.E, rel=1e-3)
    logs, drawn = envelope.optimum(fit, runs, 1e22)
    assert np.exp(logs[2]) == pytest.approx(ladders.optimum(1e22)[2], rel=1e-3)
    assert np.isnan(logs[:2]).all()
    assert drawn.shape == (20, 3)


def test_three_rungs_are_too_few() -> None:
    with pytest.raises(NotEnough, match="3 rungs of compute; law 'envelope' needs 4"):
        envelope.fit(prepare(ladders.ladder(BUDGETS[:3])))
