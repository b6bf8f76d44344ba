"""Writes small files in the layout of MIMIC-IV-ECG 1.0, after the documentation on PhysioNet; all numbers invented."""

import csv
from pathlib import Path

import numpy as np

STORED_LEADS = ("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6")
MEASUREMENTS = (
    "rr_interval",
    "p_onset",
    "p_end",
    "qrs_onset",
    "qrs_end",
    "t_end",
    "p_axis",
    "qrs_axis",
    "t_axis",
)
COLUMNS = (
    "subject_id",
    "study_id",
    "cart_id",
    "ecg_time",
    *(f"report_{line}" for line in range(18)),
    "bandwidth",
    "filtering",
    *MEASUREMENTS,
)
NUMBERS = (800, 40, 152, 190, 280, 560, 60, 30, 45)


def record_path(subject: int, study: int) -> str:
    return f"files/p{str(subject)[:4]}/p{subject}/s{study}/{study}"


def write_record(folder: Path, subject: int, study: int, signal=None, samples: int = 5000) -> None:
    """Write one record.

    Args:
        folder: where the set is.
        subject: number of the patient.
        study: number of the record.
        signal: mV, one row per lead in the order of `STORED_LEADS`, or one value for each; noise by default.
        samples: length.
    """
    path = folder / record_path(subject, study)
    path.parent.mkdir(parents=True, exist_ok=True)
    if signal is None:
        signal = np.random.default_rng(study).normal(scale=0.3, size=(12, samples))
    signal = np.broadcast_to(np.asarray(signal, dtype=float).reshape(12, -1), (12, samples))
    np.round(signal.T * 200).astype("<i2").tofile(path.with_suffix(".dat"))
    lines = [f"{study} 12 500 {samples} 08:44:00 23/07/2180"]
    lines += [f"{study}.dat 16 200.0(0)/mV 16 0 0 0 0 {lead}" for lead in STORED_LEADS]
    lines += [f"# <subject_id>: {subject}"]
    path.with_suffix(".hea").write_text("\n".join(lines) + "\n")


def write_tables(folder: Path, studies, measurements=True) -> None:
    """Write the tables.

    Args:
        folder: where to.
        studies: tuples of subject, study, report lines, and measured numbers (`None`: blank).
        measurements: whether machine_measurements.csv exists; the demo lacks it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    time = "2180-07-23 08:44:00"
    with open(folder / "record_list.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject_id", "study_id", "file_name", "ecg_time", "path"])
        writer.writerows([subject, study, study, time, record_path(subject, study)] for subject, study, *_ in studies)
    if measurements:
        with open(folder / "machine_measurements.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for subject, study, report, numbers in studies:
                lines = [*report, *[""] * (18 - len(report))]
                writer.writerow([subject, study, 6848296, time, *lines, "0.005-150 Hz", "60 Hz notch", *numbers])


def write_large_tables(folder: Path, records: int, patients: int) -> None:
    """Write tables as long as the real ones, with reports of two to six lines; no records."""
    generator = np.random.default_rng(0)
    subjects = np.sort(generator.integers(10_000_000, 20_000_000, patients))
    of_record = np.sort(np.concatenate([subjects, generator.choice(subjects, records - patients)]))
    studies = 40_000_000 + generator.permutation(10_000_000)[:records]
    lines = ("Sinus rhythm", "Normal ECG", "Left axis deviation.", "Nonspecific T wave changes, inferior leads")
    lines += ("Atrial fibrillation with rapid ventricular response", "Possible anterior infarct, age undetermined")
    cells = [[f'"{line}"' if "," in line else line for line in lines[: 2 + turn]] for turn in range(5)]
    reports = [",".join([*of_report, *[""] * (18 - len(of_report))]) for of_report in cells]
    numbers = ",".join(map(str, NUMBERS))
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "record_list.csv", "w") as file:
        file.write("subject_id,study_id,file_name,ecg_time,path\n")
        for subject, study in zip(of_record.tolist(), studies.tolist(), strict=True):
            file.write(f"{subject},{study},{study},2180-07-23 08:44:00,{record_path(subject, study)}\n")
    with open(folder / "machine_measurements.csv", "w") as file:
        file.write(",".join(COLUMNS) + "\n")
        for row, (subject, study) in enumerate(zip(of_record.tolist(), studies.tolist(), strict=True)):
            beginning = f"{subject},{study},6848296,2180-07-23 08:44:00,{reports[row % 5]}"
            file.write(f"{beginning},0.005-150 Hz,60 Hz notch,{numbers}\n")
