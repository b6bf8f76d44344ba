import json

import numpy as np
import pytest

from ecg_transformers import load_corpus
from ecg_transformers.training import finetune
from ecg_transformers.training.label_fraction import select_label_fraction
from ecg_transformers.training.task import load_task


def example(seed=0, num_patients=400, prevalences=(0.4, 0.1, 0.02, 0.005)):
    """Records of patients with 1 to 5 records each; rare labels; every ninth record unlabelled."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(num_patients), rng.integers(1, 6, num_patients)))
    targets = (rng.random((len(groups), len(prevalences))) < prevalences).astype(np.float32)
    targets[rng.random(targets.shape) < 0.05] = np.nan
    targets[::9] = np.nan
    return groups, targets


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_fractions_are_whole_patients_one_within_the_other(seed):
    groups, targets = example(seed)
    labelled = ~np.isnan(targets).all(axis=1)
    before = np.array([], dtype=int)
    for fraction in (0.01, 0.05, 0.1, 0.5, 0.99, 1.0):
        chosen = select_label_fraction(groups, targets, fraction, seed)
        assert np.array_equal(chosen, np.unique(chosen)) and labelled[chosen].all()
        assert set(before) <= set(chosen)
        # All labelled records of a chosen patient, none of another.
        assert np.array_equal(chosen, np.flatnonzero(np.isin(groups, groups[chosen]) & labelled))
        wanted = round(fraction * labelled.sum())
        assert wanted <= len(chosen) < wanted + 5
        before = chosen
    assert np.array_equal(before, np.flatnonzero(labelled))


def test_every_label_keeps_a_positive_where_the_fraction_allows():
    for seed in range(10):
        groups, targets = example(seed, prevalences=(0.4, 0.1, 0.01, 0.004, 0.004))
        chosen = select_label_fraction(groups, targets, 0.05, seed)
        assert ((targets[chosen] == 1).any(axis=0) == (targets == 1).any(axis=0)).all()


def test_the_seed_draws_and_the_same_seed_repeats():
    groups, targets = example()
    first, again, other = (select_label_fraction(groups, targets, 0.1, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    # Random apart from the few patients that carry the rare labels: two draws share about a tenth.
    assert len(set(first) & set(other)) < 0.5 * len(first)


def test_classes_and_values():
    groups = np.arange(100)
    classes = np.array([0] * 90 + [1] * 5 + [2] * 3 + [-100] * 2)
    chosen = select_label_fraction(groups, classes, 0.03)
    assert len(chosen) == 3 and set(classes[chosen]) == {0, 1, 2}
    values = np.linspace(0, 90, 100)[:, None]
    values[::2] = np.nan
    assert len(select_label_fraction(groups, values, 0.1)) == 5


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01])
def test_fractions_out_of_range(fraction, make_arguments):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        select_label_fraction([0], np.ones((1, 1)), fraction)
    with pytest.raises(ValueError, match="--label_fraction"):
        make_arguments("--label_fraction", fraction)


def test_a_run_on_a_fraction(make_arguments, corpus_folder, capsys):
    """The run learns from the fraction, weights its positives, says so, and scores on all test records."""
    options = ("--label_fraction", 0.4, "--label_fraction_seed", 3, "--freeze_encoder", True, "--num_train_epochs", 1)
    result = finetune(*make_arguments(*options))
    run = json.loads((result.output_dir / "run.json").read_text())
    fraction, splits = run["corpus"]["label_fraction"], run["corpus"]["splits"]
    assert (fraction["fraction"], fraction["seed"], fraction["of_records"], fraction["of_patients"]) == (
        0.4,
        3,
        30,
        30,
    )
    assert [splits[name]["records"] for name in ("train", "validation", "test")] == [12, 10, 10]
    assert run["training"]["steps"] == 2
    for name, weight in run["training"]["pos_weight"].items():
        counts = splits["train"]["labels"][name]
        expected = counts["negatives"] / counts["positives"] if counts["positives"] else 1.0
        assert weight == pytest.approx(expected, rel=1e-5)
    card = (result.output_dir / "README.md").read_text()
    assert "Trained on 40 % of the labelled training records" in card and "from 30 records of 30 patients" in card

    printed = capsys.readouterr().out
    assert "Of the training records 12 of 30 (12 of 30 patients) are kept: --label_fraction 0.4 of the" in printed

    same = ("--output_dir", result.output_dir, "--resume_from_checkpoint", "last")
    with pytest.raises(ValueError, match="label_fraction was 0.4 with seed 3, is 0.4 with seed 4"):
        finetune(*make_arguments(*same, "--label_fraction", 0.4, "--label_fraction_seed", 4, "--freeze_encoder", True))


def test_labels_that_lose_their_positives_are_named(make_arguments, corpus_folder, caplog):
    import logging

    _, data_args, *_ = make_arguments("--label_fraction", 0.04)
    full = load_corpus(corpus_folder)
    transformers_logger = logging.getLogger("transformers")
    transformers_logger.addHandler(caplog.handler)
    try:
        task = load_task(data_args)
    finally:
        transformers_logger.removeHandler(caplog.handler)
    lost = task.facts["label_fraction"]["labels_without_positives"]
    assert len(task.corpus["train"]) == 1 and len(lost) > 3
    rows = full["train"]["labels"][:]
    kept = {name for name, value in task.corpus["train"][0]["labels"].items() if value}
    assert set(lost) == {name for name in task.label_names if any(row[name] for row in rows)} - kept
    assert f"--label_fraction 0.04 leaves 1 training records, none of them with {len(lost)}" in caplog.text
    assert task.corpus["test"]["record_id"][:] == full["test"]["record_id"][:]
