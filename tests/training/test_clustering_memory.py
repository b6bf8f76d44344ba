"""Clustering holds a batch and a sample, however many records there are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ecg_transformers.corpora.synthetic import generate_record

SCRIPT = Path(__file__).parents[2] / "training_scripts" / "pretrain_hubert_ecg.py"

# The command in a process of its own, which says at the end how much memory it had at most
MEASURED = f"""
import resource, runpy, sys
sys.argv[0] = {str(SCRIPT)!r}
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    assert ended.code == 0, ended.code
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_peak_memory_of_the_command_does_not_grow_with_the_records(tmp_path):
    """Measured: 644 MB with 200 files of records, 645 MB with 2,000."""
    pytest.importorskip("resource")
    (tmp_path / "records").mkdir()
    peaks = {}
    for number in range(200):
        generate_record("sinus_rhythm", number).save(tmp_path / "records" / f"{number}.npz")
    for count in (200, 2000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            os.link(tmp_path / "records" / f"{number % 200}.npz", folder / f"{number:04d}.npz")
        command = ["cluster", "--corpus", "folder", "--data_dir", folder, "--clusters", 20, "--batch_size", 20]
        command += ["--output", tmp_path / f"codes-{count}"]
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *map(str, command)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        # KiB on Linux, bytes on macOS
        peaks[count] = int(done.stdout.split()[-1]) / (1024 if sys.platform == "linux" else 1024**2)
    # 1,800 records more are 430 MB of samples and 26 MB of descriptors.
    assert peaks[2000] < peaks[200] + 20
