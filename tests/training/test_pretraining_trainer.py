import math

import pytest

from ecg_transformers.training.pretraining_trainer import tri_stage_factor


def test_tri_stage_rises_holds_and_falls():
    factors = [tri_stage_factor(step, 1000) for step in range(1001)]
    assert factors[0] == pytest.approx(0.01) and factors[50] == pytest.approx(0.505)
    assert factors[100:501] == [1.0] * 401
    assert factors[750] == pytest.approx(math.sqrt(0.05)) and factors[1000] == pytest.approx(0.05)
    assert all(late < early for early, late in zip(factors[500:], factors[501:], strict=False))
    assert tri_stage_factor(2000, 1000) == pytest.approx(0.05)


@pytest.mark.parametrize("total", [1, 2, 3, 7])
def test_tri_stage_of_short_runs(total):
    factors = [tri_stage_factor(step, total) for step in range(total + 1)]
    assert all(0 < factor <= 1 for factor in factors)
