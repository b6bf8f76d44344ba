import shutil
import time
from pathlib import Path

import cart_files
import numpy as np
import pytest
import scp_writer

from ecg_transformers import ECGReadError, read_ecg

# Peak memory is looked at where the system tells it.
resource = pytest.importorskip("resource")

HINTS = {"sampling_rate": 500, "lead_names": ["I", "II", "V1"], "units": "mV"}

# One real record of each kind: the file that is read, the file that is damaged, and what the caller states.
SHARED = {
    "ptb-xl header": ("ptb-xl/records100/00000/00378_lr.hea", ".hea", {}),
    "challenge header": ("challenge-2021/georgia/E00001.hea", ".hea", {}),
    "challenge signal": ("challenge-2021/georgia/E00001.hea", ".mat", {}),
    "ludb header": ("ludb/data/104.hea", ".hea", {}),
    "code15": ("code15-mat/code_15_2657522.mat", ".mat", {}),
    "cpsc2018": ("cpsc2018-mat/A1980.mat", ".mat", {}),
    "sph": ("sph-h5/SPH00001.h5", ".h5", {}),
    "philips 1.03": ("philips-xml/129DYPRG.xml", ".xml", {}),
    "philips 1.04": ("philips-xml/ad4d3d80-d165_1-04_orig.xml", ".xml", {}),
    "muse": ("muse-xml/muse_ecg1.xml", ".xml", {}),
    "hl7": ("hl7-aecg/ad4d3d80-d165_1-04_converted_aecg.xml", ".xml", {}),
    "schiller": ("schiller-xml/schiller.xml", ".xml", {}),
    "dicom": ("dicom/Example.dcm", ".dcm", {}),
    "scp-ecg": ("scp-ecg/Example.scp", ".scp", {}),
    "healforce": ("scp-ecg/healforce_62.scp", ".scp", {"lead_names": ["I", "II", "V1"]}),
}

COUNTS = [b"0", b"-1", b"nan", b"1e999", b"999999999999", b"99999999999999999999999", b"", b"../x", b"/etc/passwd"]
BINARY_COUNTS = [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", bytes(4), b"\x00\x00\x00\x40"]


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    data = bytearray(data)
    for _ in range(int(random.integers(1, 4))):
        if not data:
            break
        # Headers are at the beginning of every format, so half of the damage goes there.
        reach = len(data) if random.random() < 0.5 else min(len(data), 600)
        at = int(random.integers(reach))
        kind = int(random.integers(9))
        if kind == 0:
            del data[at:]
        elif kind == 1:
            data[at] ^= 1 << int(random.integers(8))
        elif kind == 2:
            data[at] = int(random.integers(256))
        elif kind == 3:
            start, length = int(random.integers(len(data))), int(random.integers(1, 200))
            data[at:at] = data[start : start + length]
        elif kind == 4:
            del data[at : at + int(random.integers(1, 64))]
        elif kind == 5:
            end = at
            while end < len(data) and end < at + 12 and data[end] in b"0123456789.-":
                end += 1
            data[at:end] = COUNTS[int(random.integers(len(COUNTS)))]
        elif kind == 6:
            at -= at % 4
            data[at : at + 4] = BINARY_COUNTS[int(random.integers(len(BINARY_COUNTS)))]
        elif kind == 7:
            # Two pieces, such as sections or leads, change places.
            size = min(int(random.integers(1, 2000)), len(data) // 3)
            one, two = sorted(int(place) for place in random.integers(0, len(data) - size + 1, 2))
            if one + size <= two:
                data[one : one + size], data[two : two + size] = data[two : two + size], data[one : one + size]
        else:
            data[at : at + 32] = random.integers(0, 256, 32, dtype=np.uint8).tobytes()
    return bytes(data)


def check_sane(record, size):
    assert record.signal.ndim == 2 and record.signal.dtype == np.float32
    assert len(record.lead_names) == record.num_leads == len(set(record.lead_names))
    assert not np.isinf(record.signal).any() and not np.isnan(record.signal).all(axis=1).any()
    assert 1 <= record.sampling_rate <= 100_000
    # One value takes at least a bit or so in any format; zeros pack at most about 1000:1 (deflate).
    assert record.signal.size <= 1100 * size + 20_000_000
    assert 0 <= record.metadata.get("age", 0) <= 120


def attack(path: Path, victim: Path, hints: dict, rounds: int, seed: int) -> tuple[int, int]:
    random = np.random.default_rng(seed)
    whole, refused, slowest = victim.read_bytes(), 0, 0.0
    for number in range(rounds):
        victim.unlink(missing_ok=True)
        victim.write_bytes(mutate(whole, random))
        begin = time.perf_counter()
        try:
            check_sane(read_ecg(path, **hints), sum(file.stat().st_size for file in path.parent.iterdir()))
        except ECGReadError as error:
            assert error.reason and error.remedy and error.path, number
            refused += 1
        except Exception as error:
            raise AssertionError(f"round {number} of {victim.name}: {type(error).__name__}: {error}") from error
        slowest = max(slowest, time.perf_counter() - begin)
    victim.write_bytes(whole)
    assert slowest < 5, f"one reading took {slowest:.1f} s"
    return refused, rounds


def own_files(folder: Path, write):
    small = np.round(write.signal(3, 200) * 200).astype(np.int64)
    yield write.wfdb(folder, "plain"), ".hea", {}
    yield write.wfdb(folder, "plain"), ".dat", {}
    leads = ("I", "II", "V1")
    for fmt in ("212", "24", "516", "311", "8"):
        digital = np.cumsum(np.sign(small), axis=1) % 50 if fmt == "8" else np.clip(small, -500, 500)
        yield write.wfdb(folder, f"f{fmt}", digital, fmt=fmt, leads=leads, gain=200), ".hea", {}
    yield write.wfdb(folder, "flac", small, fmt="516", leads=leads, gain=200), ".dat", {}
    write.wfdb(folder, "s1", small, leads=leads, gain=200)
    (folder / "whole.hea").write_text("whole/2 3 500 500\ns1 200\n~ 300\n# Age: 50\n")
    yield folder / "whole.hea", ".hea", {}
    header, _ = write.challenge(folder)
    yield header, ".hea", {}
    yield header, ".mat", {}
    yield write.code15(folder), ".mat", {}
    yield write.cpsc(folder), ".mat", {}
    yield write.cpsc(folder, "open.mat", compress=False), ".mat", {}
    yield write.sph(folder), ".h5", {}
    yield write.sph(folder, "open.h5", chunks=None, compression=None), ".h5", {}
    yield write.csv(folder)[0], ".csv", {}
    (folder / "bare.txt").write_text("".join(f"{a:.3f} {b:.3f} {c:.3f}\n" for a, b, c in write.signal(3, 200).T))
    yield folder / "bare.txt", ".txt", HINTS
    np.save(folder / "a.npy", write.signal(3, 200))
    yield folder / "a.npy", ".npy", HINTS
    np.savez(folder / "a.npz", signal=write.signal(3, 200), sampling_rate=500, lead_names=np.array(leads))
    yield folder / "a.npz", ".npz", {}
    np.savez_compressed(folder / "b.npz", signal=write.signal(3, 200))
    yield folder / "b.npz", ".npz", HINTS
    yield cart_files.write_philips(folder), ".xml", {}
    yield (
        cart_files.write_philips(folder, "old.xml", version="1.03", packing="Uncompressed", encoding="utf-8"),
        ".xml",
        {},
    )
    yield cart_files.write_muse(folder), ".xml", {}
    yield cart_files.write_muse(folder, "open.xml", LeadDataCRC32=""), ".xml", {}
    yield cart_files.write_hl7(folder), ".xml", {}
    yield cart_files.write_schiller(folder), ".xml", {}
    yield cart_files.write_dicom(folder), ".dcm", {}
    yield cart_files.write_dicom(folder, "implicit.dcm", implicit=True), ".dcm", {}
    yield scp_writer.write_scp(folder), ".scp", {}
    for number, options in enumerate(({}, {"coding": "own"}, {"coding": "plain"}, {"beats": [(0, 61), (0, 300)]})):
        path = scp_writer.write_scp(folder, f"open{number}.scp", **options)
        yield scp_writer.without_checksums(path), ".scp", {}
    yield scp_writer.write_healforce(folder), ".scp", {"lead_names": HINTS["lead_names"]}
    yield cart_files.write_edf(folder), ".edf", {}
    yield write.matlab_73(folder), ".mat", HINTS
    yield write.parquet(folder), ".parquet", {}


def run_all(folder, write, rounds, seed):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = 0
    for number, (path, ending, hints) in enumerate(own_files(folder, write)):
        refused, count = attack(path, path.with_suffix(ending), hints, rounds, seed + number)
        total += count
        assert refused > 0, f"no damage to {path.name} was noticed"
        assert read_ecg(path, **hints), "the undamaged file must read"
    # Kilobytes on Linux, bytes on macOS; 2 GiB of growth would mean that a claimed size was believed.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 * 2**20 * (1024 if before > 2**30 else 1)
    return total


def run_shared(folder, shared_data, rounds, seed):
    for number, (name, (record, ending, hints)) in enumerate(SHARED.items()):
        source = shared_data / record
        place = folder / name
        place.mkdir()
        for file in source.parent.glob(f"{source.stem}.*"):
            shutil.copyfile(file, place / file.name)
        path = place / source.name
        attack(path, path.with_suffix(ending), hints, rounds, seed + number)


def test_damaged_files_are_refused_or_sane(tmp_path, write):
    assert run_all(tmp_path, write, rounds=60, seed=0) >= 1000


def test_damaged_real_files_are_refused_or_sane(tmp_path, write, shared_data):
    run_shared(tmp_path, shared_data, rounds=60, seed=100)


@pytest.mark.slow
def test_thousands_of_damaged_files(tmp_path, write):
    assert run_all(tmp_path, write, rounds=200, seed=1000) >= 3000


@pytest.mark.slow
def test_thousands_of_damaged_real_files(tmp_path, write, shared_data):
    run_shared(tmp_path, shared_data, rounds=450, seed=2000)
