import json

import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn import metrics as reference

from ecg_transformers.evaluation import regression_metrics


def test_scores_equal_scikit_learn():
    rng = np.random.default_rng(0)
    targets = rng.normal(60, 12, (80, 2))
    predictions = targets + rng.normal(1, 5, (80, 2))
    targets[:10, 1] = np.nan
    scores = regression_metrics(targets, predictions, ["age", "rate"])
    for column, name in enumerate(["age", "rate"]):
        known = ~np.isnan(targets[:, column])
        true, predicted = targets[known, column], predictions[known, column]
        row = scores["per_target"][name]
        assert row["num_known"] == known.sum()
        assert row["mae"] == pytest.approx(reference.mean_absolute_error(true, predicted))
        assert row["rmse"] == pytest.approx(reference.root_mean_squared_error(true, predicted))
        assert row["r2"] == pytest.approx(reference.r2_score(true, predicted))
        assert row["pearson"] == pytest.approx(pearsonr(true, predicted).statistic)
    assert scores["mae"] == pytest.approx(np.mean([row["mae"] for row in scores["per_target"].values()]))


def test_scores_without_spread_are_missing():
    constant = regression_metrics([0.1, 0.1, 0.1], [0.1, 0.2, 0.3])["per_target"]["target_0"]
    assert constant["r2"] is None
    assert constant["pearson"] is None
    flat_prediction = regression_metrics([1.0, 2.0, 3.0], [2.0, 2.0, 2.0])
    assert flat_prediction["r2"] == 0
    assert flat_prediction["pearson"] is None
    unknown = regression_metrics([[np.nan, 1.0], [None, 2.0]], [[1, 1], [2, 2]])
    assert unknown["per_target"]["target_0"]["mae"] is None
    assert unknown["mae"] == 0
    json.dumps(unknown, allow_nan=False)


@pytest.mark.parametrize(
    ("targets", "predictions", "message"),
    [
        ([1.0, 2.0], [1.0], "shape"),
        ([1.0], [np.inf], "finite"),
        ([np.inf], [1.0], "infinite"),
        (np.zeros((1, 1, 1)), [1.0], "records, quantities"),
    ],
)
def test_bad_input_is_explained(targets, predictions, message):
    with pytest.raises(ValueError, match=message):
        regression_metrics(targets, predictions)
