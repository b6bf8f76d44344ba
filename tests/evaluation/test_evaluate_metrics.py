import subprocess
import sys

import evaluate
import numpy as np
import pytest
import torch

from ecg_transformers.evaluation import (
    ChallengeWeights,
    ECGChallengeScore,
    ECGMultilabelMetrics,
    ECGRegressionMetrics,
    ECGSinglelabelMetrics,
    challenge_score,
    multilabel_metrics,
    regression_metrics,
    singlelabel_metrics,
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("a metric tried to open a network connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path))


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    targets = (rng.random((50, 3)) < 0.4).astype(float)
    targets[3, 1] = np.nan
    return targets, rng.random((50, 3))


def test_multilabel_in_one_go_in_batches_and_one_by_one(problem):
    targets, probabilities = problem
    expected = multilabel_metrics(targets, probabilities, ["a", "b", "c"], 0.4)
    metric = ECGMultilabelMetrics(["a", "b", "c"], 0.4)
    assert metric.compute(predictions=probabilities, references=targets) == expected
    for part in np.array_split(np.arange(50), 4):
        metric.add_batch(predictions=torch.tensor(probabilities[part]), references=torch.tensor(targets[part]))
    assert metric.compute() == expected
    for row in range(50):
        metric.add(prediction=probabilities[row].tolist(), reference=targets[row].tolist())
    assert metric.compute() == expected
    other = metric.compute(predictions=probabilities, references=targets, thresholds=[0.1, 0.2, 0.3])
    assert other["per_label"]["b"]["threshold"] == 0.2


def test_metric_survives_an_error(problem):
    targets, probabilities = problem
    metric = ECGMultilabelMetrics()
    with pytest.raises(ValueError, match="between 0 and 1"):
        metric.compute(predictions=probabilities * 3, references=targets)
    with pytest.raises(ValueError, match="Mismatch|shape"):
        metric.compute(predictions=probabilities[:10], references=targets)
    fresh = ECGMultilabelMetrics()
    assert fresh.compute(predictions=probabilities, references=targets) == multilabel_metrics(targets, probabilities)


def test_files_serve_several_processes(problem):
    targets, probabilities = problem
    metric = ECGMultilabelMetrics(keep_in_memory=False)
    assert metric.compute(predictions=probabilities, references=targets) == multilabel_metrics(targets, probabilities)


def test_none_is_unknown():
    metric = ECGMultilabelMetrics()
    scores = metric.compute(predictions=[[0.1], [0.9], [0.3]], references=[[0], [1], [None]])
    assert scores["per_label"]["label_0"]["num_unknown"] == 1


def test_single_label():
    probabilities = np.array([[0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])
    targets = np.array([0, 1, -100])
    scores = ECGSinglelabelMetrics(["no", "yes"]).compute(predictions=probabilities, references=targets)
    assert scores == singlelabel_metrics(targets, probabilities, ["no", "yes"])


@pytest.mark.parametrize("columns", [None, 2])
def test_regression(columns):
    rng = np.random.default_rng(0)
    shape = (20,) if columns is None else (20, columns)
    targets, predictions = rng.normal(size=(2, *shape))
    scores = ECGRegressionMetrics().compute(predictions=predictions, references=targets)
    assert scores == regression_metrics(targets, predictions)


def test_challenge_score(problem):
    targets, probabilities = problem
    weights = ChallengeWeights(("a", "b"), [[1, 0.4], [0.4, 1]])
    metric = ECGChallengeScore(weights, ["a", "b", "x"], 0.3, normal_class="a")
    scores = metric.compute(predictions=probabilities, references=targets)
    expected = challenge_score(targets, probabilities > 0.3, weights, ["a", "b", "x"], "a")
    assert scores == {"challenge_score": expected, "num_scored_classes": 2, "unscored_labels": ["x"]}
    missing = metric.compute(predictions=[[1.0, 0.0, 0.0]], references=[[1, 0, 0]])
    assert missing["challenge_score"] is None


def test_metrics_combine(problem):
    targets, probabilities = problem
    weights = ChallengeWeights(("a", "b"), [[1, 0.4], [0.4, 1]])
    names = ["a", "b", "x"]
    combined = evaluate.combine([ECGMultilabelMetrics(names), ECGChallengeScore(weights, names, normal_class="a")])
    combined.add_batch(predictions=probabilities[:20], references=targets[:20])
    combined.add_batch(predictions=probabilities[20:], references=targets[20:])
    scores = combined.compute()
    assert {"macro_auroc", "challenge_score"} <= set(scores)


def test_description_names_the_inputs():
    metric = ECGMultilabelMetrics()
    assert metric.name == "ecg_multilabel_metrics"
    assert "probabilities" in metric.inputs_description
    assert "missing" in metric.description


def test_import_is_lazy():
    code = (
        "import sys; import ecg_transformers.evaluation as evaluation; dir(evaluation)\n"
        "loaded = {'sklearn', 'evaluate', 'datasets', 'pandas'} & set(sys.modules)\n"
        "before = set(sys.modules)\n"
        "evaluation.multilabel_metrics, evaluation.bootstrap_intervals, evaluation.make_compute_metrics\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "assert not {'sklearn', 'evaluate', 'datasets', 'pandas', 'scipy'} & new, new\n"
        "import ecg_transformers.evaluation.challenge\n"
        "assert callable(evaluation.challenge_score)\n"
        "print(sorted(loaded))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "evaluate" not in result.stdout


def test_every_public_name_exists():
    import ecg_transformers.evaluation as evaluation

    for name in evaluation.__all__:
        assert getattr(evaluation, name).__doc__
    with pytest.raises(AttributeError, match="public names"):
        _ = evaluation.f2
