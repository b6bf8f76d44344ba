"""What pretraining on reports is for: naming findings of patients never seen, without a label."""

import json

import pytest

from ecg_transformers.corpora.synthetic import DEFAULT_LABELS
from ecg_transformers.evaluation.zero_shot_run import evaluate_zero_shot, parse_zero_shot_arguments
from ecg_transformers.training import DBETA_DEMO_SETTINGS, dbeta_demo_arguments, pretrain_dbeta


@pytest.fixture
def score(tmp_path):
    """Return the macro AUROC of a folder on the test patients, by the findings' names or by descriptions of them."""
    names = {name: name.replace("_", " ") for name in DEFAULT_LABELS}
    (tmp_path / "names.json").write_text(json.dumps(names))

    def score(folder, descriptions=tmp_path / "names.json"):
        options = ["--corpus", "synthetic", "--corpus_options", *DBETA_DEMO_SETTINGS["corpus_options"]]
        options += ["--model", folder, "--output_dir", tmp_path / "scores", "--overwrite_output_dir", "true"]
        options += ["--descriptions", descriptions, "--device", "cpu", "--bootstrap_resamples", 0]
        results = evaluate_zero_shot(*parse_zero_shot_arguments(list(map(str, [*options, "--disable_tqdm", "true"]))))
        assert results["num_missing_labels"] == 0
        return results["macro_auroc"]

    return score


@pytest.mark.slow
def test_the_demonstration_learns_to_name_findings_of_unseen_patients(tmp_path, score):
    pretrain_dbeta(*dbeta_demo_arguments(tmp_path / "untrained", num_train_epochs=0, max_steps=-1, use_cpu=True))
    assert 0.35 < score(tmp_path / "untrained") < 0.65
    result = pretrain_dbeta(*dbeta_demo_arguments(tmp_path / "trained", use_cpu=True))
    assert result.validation["ets_loss"] < result.learning_curve[0]["ets_loss"]
    assert score(tmp_path / "trained") >= 0.85
    assert score(tmp_path / "trained", "synthetic") >= 0.85
