import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from ecg_transformers.training.codebook_fitting import RowSample, fit_codebooks


def directions(rows, codes=6, noise=0.05, seed=0):
    """Rows of any length around a few directions, and which."""
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(codes, 8))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    which = random.integers(codes, size=rows)
    found = (centers[which] + noise * random.normal(size=(rows, 8))) * random.uniform(0.1, 50, (rows, 1))
    return torch.from_numpy(found.astype(np.float32)), which


def pieces(rows, size):
    return lambda: iter(rows.split(size))


def test_finds_the_clusters_and_their_inertia():
    rows, which = directions(3000)
    (book,), sample = fit_codebooks(pieces(rows, 170), [6], batch_rows=400)
    codes = book.assign(rows).numpy()
    # One code for each direction, up to their names
    assert len({(int(code), int(direction)) for code, direction in zip(codes, which, strict=True)}) == 6
    unit = torch.nn.functional.normalize(rows, dim=-1)
    best = KMeans(6, n_init=3, random_state=0).fit(unit.numpy()).inertia_ / len(rows)
    assert book.inertia == pytest.approx(best, rel=0.05)
    assert np.allclose(np.linalg.norm(sample, axis=1), 1, atol=1e-5) and len(sample) == 3000


def test_several_sizes_at_once_equal_each_alone():
    rows, _ = directions(1500)
    together, _ = fit_codebooks(pieces(rows, 100), [4, 9], batch_rows=300, normalize=False)
    for book in together:
        (alone,), _ = fit_codebooks(pieces(rows, 100), [len(book)], batch_rows=300)
        assert torch.equal(alone.centers, book.centers)
        assert not book.normalize and alone.normalize


def test_pieces_that_meet_the_steps_give_the_same_centres():
    rows, _ = directions(1300, noise=0.4)
    (one,), _ = fit_codebooks(pieces(rows, 300), [5], batch_rows=300)
    (other,), _ = fit_codebooks(pieces(rows, 100), [5], batch_rows=300)
    assert torch.equal(one.centers, other.centers)


def test_epochs_and_nan():
    rows, _ = directions(600)
    rows[5, 3] = torch.nan
    begun = []

    def batches():
        begun.append(1)
        return iter(rows.split(100))

    (book,), _ = fit_codebooks(batches, [3], batch_rows=200, epochs=2)
    assert len(begun) == 2 and book.centers.isfinite().all()


def test_too_few_rows_are_refused():
    rows, _ = directions(20)
    with pytest.raises(ValueError, match="20 rows of descriptors are too few for 30 codes"):
        fit_codebooks(pieces(rows, 7), [30])
    with pytest.raises(ValueError, match="at least 2 codes"):
        fit_codebooks(pieces(rows, 7), [1])


def test_sample_is_uniform_and_bounded():
    counts = np.zeros(100)
    for seed in range(300):
        sample = RowSample(20, seed)
        for start in range(0, 100, 7):
            sample.add(np.arange(start, min(start + 7, 100))[:, None])
        assert sample.rows.shape == (20, 1) and len(set(sample.rows[:, 0])) == 20
        counts[sample.rows[:, 0]] += 1
    # 60 are expected of each, standard deviation 6.9
    assert 35 < counts.min() and counts.max() < 90


MEMORY = """
import resource, sys, torch
from ecg_transformers.training.codebook_fitting import fit_codebooks
records = int(sys.argv[1])
def batches():
    random = torch.Generator().manual_seed(0)
    for _ in range(records // 20):
        yield torch.randn(20, 93, 39, generator=random)
fit_codebooks(batches, [20])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_records():
    pytest.importorskip("resource")
    peaks = []
    for records in (400, 2000):
        done = subprocess.run([sys.executable, "-c", MEMORY, str(records)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout) / 1024)
    # 2,000 records are 29 MB of descriptors; all that is kept is a sample and a batch
    assert peaks[1] < peaks[0] + 15
