"""Corpora of real files through the whole of a fine-tuning: a model of a few thousand parameters, one epoch."""

import pytest

from ecg_transformers.training import finetune


@pytest.fixture
def run(make_arguments, tiny_overrides, shared_data):
    def run(corpus, folder, *options):
        return finetune(
            *make_arguments("--corpus", corpus, "--data_dir", shared_data / folder, "--num_train_epochs", 1, *options)
        )

    return run


def test_ludb(run):
    result = run("ludb", "ludb", "--task", "hypertrophy", "--min_positives", 8)
    assert result.label_names == ["Left atrial hypertrophy", "Left ventricular hypertrophy"]
    assert result.test["num_records"] == 3


def test_brugada_huca(run, tmp_path):
    result = run("brugada_huca", "brugada-huca", "--task", "all")
    # One of the nine subjects has the syndrome, so nothing can be ranked among those held out.
    assert result.label_names == ["brugada", "basal_pattern", "sudden_death"] and result.test is None
    assert (tmp_path / "run" / "model.safetensors").is_file()
