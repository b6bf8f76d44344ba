import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ecg_transformers.training import (
    cluster_descriptors,
    parse_cluster_arguments,
    parse_hubert_ecg_pretraining_arguments,
    pretrain_hubert_ecg,
    run_hubert_ecg_command,
)
from ecg_transformers.training.row_cache import RowCache


def numbers(count, rows=7):
    random = np.random.default_rng(0)
    return [random.normal(size=(rows, 3)).astype(np.float32) for _ in range(count)]


def test_rows_are_read_back_as_they_were(tmp_path):
    batches = [*numbers(120), np.full((2, 3), np.nan, np.float32), np.empty((0, 3), np.float32)]
    cache = RowCache(tmp_path, {"kind": "x"})
    assert not cache.complete
    first = list(cache.fill(lambda skip: batches[skip:]))
    assert cache.complete and len(list(cache.folder.glob("part-*.arrow"))) == 3
    again = list(RowCache(tmp_path, {"kind": "x"}).fill(lambda skip: pytest.fail("computed again")))
    for one, other, expected in zip(first, again, batches, strict=True):
        np.testing.assert_array_equal(one, expected)
        np.testing.assert_array_equal(other, expected)
    rows = np.concatenate(batches)
    assert len(cache) == len(rows)
    for row in (0, 6, 7, 500, len(rows) - 1):
        np.testing.assert_array_equal(cache[row], rows[row])
    with pytest.raises(IndexError):
        cache[len(rows)]
    assert not RowCache(tmp_path, {"kind": "y"}).complete


def test_an_interrupted_filling_goes_on(tmp_path):
    batches = numbers(130)
    cache = RowCache(tmp_path, {})

    def broken(skip):
        yield from batches[:70]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(cache.fill(broken))
    assert not cache.complete
    skipped = []

    def rest(skip):
        skipped.append(skip)
        return batches[skip:]

    found = list(RowCache(tmp_path, {}).fill(rest))
    assert skipped == [50] and cache.complete
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(batches))


@pytest.fixture(scope="module")
def codebooks(corpus_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("codes")
    arguments = ["--corpus", corpus_folder, "--clusters", 6, 9, "--report", "false", "--output", folder / "codes"]
    return cluster_descriptors(*parse_cluster_arguments([*map(str, arguments)])).output_dir


@pytest.mark.parametrize("extra", [[], ["--streaming", "true", "--epochs", "2"]])
def test_clustering_with_kept_descriptors_finds_the_same_centres(extra, corpus_folder, tmp_path, capsys):
    command = ["--corpus", corpus_folder, "--batch_size", 8, "--clusters", 5, "--report", "false", *extra]

    def cluster(name, *more):
        arguments = [*map(str, [*command, "--output", tmp_path / name, *more])]
        (book,) = cluster_descriptors(*parse_cluster_arguments(arguments)).codebooks.codebooks
        return book.centers, capsys.readouterr().out

    plain, said = cluster("plain")
    assert "Descriptors are" not in said.partition("Codes:")[2]
    for name, word in (("filled", "kept in"), ("read", "read from")):
        centers, said = cluster(name, "--descriptor_cache", tmp_path / "cache")
        assert torch.equal(centers, plain) and f"Descriptors are {word}" in said
    (folder,) = (tmp_path / "cache").iterdir()
    assert json.loads((folder / "complete.json").read_text())["rows"] == 30 * 93
    assert "kept in" in cluster("others", "--descriptor_cache", tmp_path / "cache", "--descriptors", "mixed")[1]


@pytest.fixture
def train(corpus_folder, tiny_overrides, tmp_path):
    def train(output, codes, *extra):
        arguments = ["--corpus", corpus_folder, "--codebooks", codes, "--output", tmp_path / output]
        arguments += ["--config_overrides", tiny_overrides, "--train_windows", "first", "--num_train_epochs", 2]
        arguments += ["--per_device_train_batch_size", 10, "--use_cpu", "--disable_tqdm", "true", *extra]
        return pretrain_hubert_ecg(*parse_hubert_ecg_pretraining_arguments([*map(str, arguments)]))

    return train


def test_training_on_kept_codes_is_the_same_training(train, codebooks, corpus_folder, tmp_path, capsys):
    """Of shards, with what the model sees disturbed, and of a teacher."""
    emg = ["--augmentations", "emg"]
    plain = train("plain", codebooks, *emg)
    for name, word in (("filled", "kept in"), ("read", "read from")):
        kept = train(name, codebooks, *emg, "--target_cache", tmp_path / "cache")
        assert f"Codes of train records are {word}" in capsys.readouterr().out
        assert kept.learning_curve == plain.learning_curve
        first, second = (load_file(run.output_dir / "model.safetensors") for run in (plain, kept))
        assert all(torch.equal(value, second[name]) for name, value in first.items())

    arguments = ["--corpus", corpus_folder, "--descriptors", plain.output_dir, "--layer", 1, "--clusters", 5]
    arguments += ["--report", "false", "--output", tmp_path / "codes-2"]
    cluster_descriptors(*parse_cluster_arguments([*map(str, arguments)]))
    direct = train("direct", tmp_path / "codes-2")
    kept = train(
        "looked-up", tmp_path / "codes-2", "--target_cache", tmp_path / "cache", "--dataloader_num_workers", 1
    )
    for one, other in zip(direct.learning_curve, kept.learning_curve, strict=True):
        # A teacher's states depend on the batch to float precision, so a token between two codes may change sides.
        assert other["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-3)
        assert other["training_loss"] == pytest.approx(one["training_loss"], rel=1e-3)
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_codes_of_moving_windows_are_not_kept(corpus_folder, codebooks, tmp_path, capsys):
    command = ["train", "--corpus", corpus_folder, "--codebooks", codebooks, "--output", tmp_path / "run"]
    command += ["--target_cache", tmp_path / "cache", "--max_steps", 1]
    assert run_hubert_ecg_command([*map(str, command)]) == 2
    assert "Give --train_windows first" in capsys.readouterr().err
    command += ["--train_windows", "first", "--streaming", "true"]
    assert run_hubert_ecg_command([*map(str, command)]) == 2
    assert "a --streaming corpus has none" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
