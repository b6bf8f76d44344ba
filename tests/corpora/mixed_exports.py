"""A folder as carts, archives and colleagues fill it: one recording per format, and things that are none."""

import sys
from pathlib import Path

import numpy as np

from ecg_transformers import STANDARD_LEADS, ECGRecord

# The writers of formats that the package only reads are beside the tests of the readers.
sys.path.append(str(Path(__file__).resolve().parents[1] / "readers"))

import cart_files
import scp_writer

# What the writers put into each file: record_id -> patient, age, sex
TOLD = {
    "a/hl7": ("SBJ-1", 49.0, "male"),
    "a/philips": ("9999", 50.0, "female"),
    "b/copy": (None, None, None),
    "b/dicom": ("D1", 45.0, "female"),
    "b/schiller": ("42", 56.0, "male"),
    "b/scp": ("S-7", 49.0, "male"),
    "b/wfdb": ("W7", 60.0, "female"),
    "ecg": (None, None, None),
}


def recording(seed=0, seconds=4, rate=250, **metadata):
    time = np.arange(seconds * rate) / rate
    beats = np.exp(-(((time % 0.8) - 0.3) ** 2) / 0.0003)
    leads = np.linspace(0.5, 1.5, 12)[:, None] * beats + 0.1 * np.sin(2 * np.pi * (seed + 1) * time / 3)
    return ECGRecord(leads, rate, STANDARD_LEADS, metadata)


def write_mixed(folder: Path) -> None:
    (folder / "a").mkdir(parents=True)
    (folder / "b").mkdir()
    cart_files.write_philips(folder / "a")
    cart_files.write_hl7(folder / "a", "hl7.xml", counts=cart_files.ecg_counts(seed=2))
    cart_files.write_schiller(folder / "b", counts=cart_files.ecg_counts(seed=3))
    cart_files.write_dicom(folder / "b", "dicom.dcm", counts=cart_files.ecg_counts(seed=4))
    scp_writer.write_scp(folder / "b", "scp.scp")
    recording(5, patient_id="W7", age=60.0, sex="female").save(folder / "b" / "wfdb.hea")
    recording(6).save(folder / "ecg.npz")
    recording(6).save(folder / "b" / "copy.npz")  # the same recording again, of nobody known
    np.save(folder / "stack.npy", np.zeros((3, 12, 1000), dtype=np.float32))
    (folder / "broken.xml").write_text("<restingecgdata><half")
    (folder / "a" / "cut.npz").write_bytes((folder / "ecg.npz").read_bytes()[:3000])
    (folder / "LICENSE.txt").write_text("as you like")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
