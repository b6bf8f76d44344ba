"""Writes CODE-15 % and CODE-test in their documented layouts, small or with all 345,779 exams.

The layouts are those of the data sets' pages (Zenodo 4916206 and 3625006) and of the README that comes with CODE-test.
Signals are square waves, which pack so well that the whole of CODE-15 % takes about 0.3 GB and 10 s:

    python tests/corpora/code_writer.py code15 FOLDER --exams 345779 --parts 18
"""

import argparse
import zlib
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

LABELS = ["1dAVb", "RBBB", "LBBB", "SB", "ST", "AF"]
PREVALENCE = [0.016, 0.028, 0.017, 0.016, 0.022, 0.020]  # about those of CODE-15 %
ROW = (4096, 12)
CODE15_LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
CODE_TEST_LEADS = ["I", "II", "III", "aVL", "aVF", "aVR", "V1", "V2", "V3", "V4", "V5", "V6"]
NUM_SAMPLES = [2800, 2934, 4000, 4096]
READERS = ["gold_standard", "cardiologist1", "cardiologist2", "cardiology_residents", "emergency_residents"]
READERS += ["medical_students", "dnn"]


def exam_signal(number, lead_names):
    """Return the recording (leads, samples) in mV of an exam: lead I and II differ, the others follow from them."""
    num_samples = NUM_SAMPLES[number % 4]
    beat = np.where(np.arange(num_samples) // 100 % 4 == 0, 1.0, -0.25).astype(np.float32)
    one, two = beat * (1 + number // 4 % 2), np.float32(0.75) * beat
    leads = {"I": one, "II": two, "III": two - one, "aVR": -(one + two) / 2, "aVL": one - two / 2}
    leads |= {"aVF": two - one / 2} | {f"V{chest}": beat * np.float32(0.125 * chest) for chest in range(1, 7)}
    return np.stack([leads[name] for name in lead_names])


def padded(signal):
    """Return a recording as the files hold it: (4096, 12), the same number of zeros on both sides."""
    row = np.zeros(ROW, dtype="<f4")
    begin = (ROW[0] - signal.shape[1]) // 2
    row[begin : begin + signal.shape[1]] = signal.T
    return row


def _write_tracings(file, variants, lead_names):
    """Write one row per number, the signals of `exam_signal`; -1 is a row of zeros."""
    rows = {number: padded(exam_signal(number, lead_names)) for number in range(8)} | {-1: np.zeros(ROW, "<f4")}
    packed = {number: zlib.compress(row.tobytes(), 9) for number, row in rows.items()}
    dataset = file.create_dataset("tracings", (len(variants), *ROW), "<f4", chunks=(1, *ROW), compression="gzip")
    for index, number in enumerate(variants):
        dataset.id.write_direct_chunk((index, 0, 0), packed[int(number)])


def write_code15(folder, num_exams=60, num_parts=3, seed=0):
    """Write `exams.csv` and the parts; return the table."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    # Two thirds as many patients as exams; ids are neither sorted nor dense.
    num_patients = max(1, num_exams * 233_770 // 345_779)
    patients = np.concatenate([np.arange(num_patients), random.integers(0, num_patients, num_exams - num_patients)])
    exam_ids = random.permutation(np.arange(1, num_exams + 1)) * 13
    first = np.arange(num_exams) < num_patients
    table = pd.DataFrame({"exam_id": exam_ids})
    table["age"] = random.integers(17, 100, num_exams)
    table["is_male"] = random.random(num_exams) < 0.4
    table["nn_predicted_age"] = table["age"] + random.normal(0, 8, num_exams).round(4)
    for name, share in zip(LABELS, PREVALENCE, strict=True):
        table[name] = random.random(num_exams) < max(share, 5 / num_exams)
    table["patient_id"] = patients * 7 + 3
    # Follow-up is known of the first exam of a patient only.
    table["death"] = np.where(first, random.random(num_exams) < 0.1, None)
    table["timey"] = np.where(first, random.uniform(0, 7, num_exams).round(3), None)
    table["normal_ecg"] = ~table[LABELS].any(axis=1) & (random.random(num_exams) < 0.5)
    part = random.integers(0, num_parts, num_exams)
    part[:num_parts] = np.arange(num_parts)
    table["trace_file"] = [f"exams_part{number}.hdf5" for number in part]
    table = table.sample(frac=1, random_state=seed).reset_index(drop=True)
    table.to_csv(folder / "exams.csv", index=False)

    for number in range(num_parts):
        ids = exam_ids[part == number]
        with h5py.File(folder / f"exams_part{number}.hdf5", "w") as file:
            # Each part ends with a row of zeros whose exam_id is 0.
            file["exam_id"] = np.append(ids, 0).astype("<i8")
            _write_tracings(file, np.append(ids % 8, -1), CODE15_LEADS)
    return table


def write_code_test(folder, num_exams=827, seed=0):
    """Write `ecg_tracings.hdf5`, `attributes.csv` and `annotations/`; return the gold standard."""
    folder = Path(folder)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    columns = ["1dAVb", "RBBB", "LBBB", "SB", "AF", "ST"]
    for reader in READERS:
        found = (random.random((num_exams, len(columns))) < 0.1).astype(int)
        table = pd.DataFrame(found, columns=columns)
        table.to_csv(folder / "annotations" / f"{reader}.csv", index=False)
    attributes = {"age": random.integers(17, 100, num_exams), "sex": random.choice(["M", "F"], num_exams)}
    pd.DataFrame(attributes).to_csv(folder / "attributes.csv", index=False)
    with h5py.File(folder / "ecg_tracings.hdf5", "w") as file:
        _write_tracings(file, np.arange(num_exams) % 8, CODE_TEST_LEADS)
    return pd.read_csv(folder / "annotations" / "gold_standard.csv")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=["code15", "code_test"])
    parser.add_argument("folder")
    parser.add_argument("--exams", type=int, default=60)
    parser.add_argument("--parts", type=int, default=3, help="of code15")
    arguments = parser.parse_args()
    if arguments.corpus == "code15":
        write_code15(arguments.folder, arguments.exams, arguments.parts)
    else:
        write_code_test(arguments.folder, arguments.exams)


if __name__ == "__main__":
    main()
