import h5py
import numpy as np
import pytest
import scipy.io
import wfdb

from ecg_transformers import STANDARD_LEADS


def ecg_like(num_leads=12, num_samples=1000, rate=500, seed=0):
    random = np.random.default_rng(seed)
    time = np.arange(num_samples) / rate
    beats = np.exp(-(((time % 0.8) - 0.3) ** 2) / 0.0003)
    amplitudes = np.linspace(0.4, 1.6, num_leads)[:, None] * np.where(np.arange(num_leads) % 3 == 0, -1, 1)[:, None]
    return amplitudes * beats + 0.02 * random.standard_normal((num_leads, num_samples))


def pack(digital, fmt):
    flat = digital.T.reshape(-1)
    if fmt == "8":
        return np.diff(digital, axis=1, prepend=digital[:, :1]).T.astype("i1").tobytes()
    if fmt in ("61", "160"):
        return (flat.astype(">i2") if fmt == "61" else (flat + 32768).astype("<u2")).tobytes()
    group = 2 if fmt == "212" else 3
    flat = np.pad(flat, (0, -len(flat) % group)).reshape(-1, group)
    if fmt == "212":
        one, two = (flat & 0xFFF).T
        columns = [one & 0xFF, (one >> 8) | (two >> 8 << 4), two & 0xFF]
    elif fmt == "311":
        one, two, three = (flat & 0x3FF).T
        word = one | two << 10 | three << 20
        columns = [word >> shift & 0xFF for shift in (0, 8, 16, 24)]
    else:
        one, two, three = (flat & 0x3FF).T
        low, high = one << 1 | (three & 0x1F) << 11, two << 1 | three >> 5 << 11
        columns = [low & 0xFF, low >> 8, high & 0xFF, high >> 8]
    return np.stack(columns, axis=1).astype(np.uint8).tobytes()


def write_wfdb(folder, name="rec", digital=None, fmt="16", rate=500, leads=STANDARD_LEADS, gain=1000, **options):
    if digital is None:
        digital = np.round(ecg_like(len(leads)) * gain).astype(np.int64)
    if fmt in ("8", "61", "160", "212", "310", "311"):
        # Formats that the library reads and does not write; https://wfdb.io/spec/signal-files.html.
        (folder / f"{name}.dat").write_bytes(pack(np.asarray(digital), fmt))
        lines = [f"{name} {len(leads)} {rate} {np.shape(digital)[1]}"]
        lines += [
            f"{name}.dat {fmt} {gain}(0)/mV 0 0 {row[0]} 0 0 {lead}" for lead, row in zip(leads, digital, strict=True)
        ]
        (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
        return folder / f"{name}.hea"
    wfdb.wrsamp(
        name,
        fs=rate,
        units=["mV"] * len(leads),
        sig_name=list(leads),
        d_signal=np.asarray(digital).T,
        fmt=[fmt] * len(leads),
        adc_gain=[gain] * len(leads),
        baseline=[0] * len(leads),
        write_dir=str(folder),
        **options,
    )
    return folder / f"{name}.hea"


def write_challenge(
    folder, name="A0001", comments="#Age: 74\n#Sex: Male\n#Dx: 59118001,426783006\n", record_name=None
):
    digital = np.round(ecg_like() * 1000).astype(np.int16)
    scipy.io.savemat(folder / f"{name}.mat", {"val": digital}, format="4")
    lines = [f"{record_name or name} 12 500 {digital.shape[1]} 12-May-2020 12:33:59"]
    lines += [
        f"{name}.mat 16+24 1000/mV 16 0 {row[0]} 0 0 {lead}" for lead, row in zip(STANDARD_LEADS, digital, strict=True)
    ]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n" + comments)
    return folder / f"{name}.hea", digital


def write_code15(folder, name="exam.mat", signal=None, rate=400, **extra):
    signal = ecg_like(rate=400).astype(np.float32) if signal is None else signal
    variables = {"feats": signal, "curr_sample_rate": np.int64(rate), "curr_sample_size": np.int64(signal.shape[-1])}
    scipy.io.savemat(folder / name, variables | extra)
    return folder / name


def write_cpsc(folder, name="cpsc.mat", compress=True):
    struct = {"sex": "Female", "age": np.uint8(61), "data": ecg_like()}
    scipy.io.savemat(folder / name, {"ECG": struct}, do_compression=compress)
    return folder / name


def write_sph(folder, name="SPH1.h5", signal=None, **options):
    signal = ecg_like().astype(np.float16) if signal is None else signal
    with h5py.File(folder / name, "w") as file:
        file.create_dataset("ecg", data=signal, **({"chunks": (3, 250), "compression": "gzip"} | options))
    return folder / name


def write_matlab_73(folder, name="new.mat", signal=None, as_struct=False, **extra):
    """A file as MATLAB's -v7.3 makes it: a block of 512 bytes, then HDF5 with reversed axes and MATLAB_class."""
    signal = ecg_like(3, 200) if signal is None else signal

    def put(group, key, value, kind):
        # Texts are columns of 16-bit numbers.
        stored = np.array([[ord(one)] for one in value], np.uint16) if kind == "char" else np.atleast_2d(value).T
        group.create_dataset(key, data=stored, compression="gzip").attrs["MATLAB_class"] = np.bytes_(kind)

    with h5py.File(folder / name, "w", userblock_size=512) as file:
        if as_struct:
            ecg = file.create_group("ECG")
            ecg.attrs["MATLAB_class"] = np.bytes_("struct")
            put(ecg, "sex", "Female", "char")
            put(ecg, "age", np.uint8([[61]]), "uint8")
            put(ecg, "data", signal, "double")
        else:
            put(file, "val_mv", signal, "double")
            put(file, "note", "made by a test", "char")
        for key, (value, kind) in extra.items():
            put(file, key, value, kind)
    with open(folder / name, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: PCWIN64".ljust(116) + bytes(8) + b"\x00\x02IM")
    return folder / name


def write_parquet(folder, name="one.parquet", count=1):
    from ecg_transformers import ECGRecord
    from ecg_transformers.corpora.columns import build_corpus, corpus_features, multi_label_feature
    from ecg_transformers.corpora.saved_corpus import save_parquet

    rows = [
        {"ecg": ECGRecord(ecg_like(3, 200, seed=number), 500, ("I", "II", "V1"), {"age": 40.0}), "labels": {"AF": 1.0}}
        | {"record_id": f"r{number}", "patient_id": f"p{number}", "age": None if number else 55.0}
        for number in range(count)
    ]
    corpus = build_corpus({"train": rows}, corpus_features(multi_label_feature(["AF"])))
    del corpus["validation"], corpus["test"]
    (path,) = save_parquet(corpus, folder / "parquet", batch_size=2)
    return path.rename(folder / name)


def write_csv(folder, name="ecg.csv", titles="time (s),I (mV),V1 (mV)"):
    signal = ecg_like(2, 300)
    rows = [f"{n / 500:.3f},{a:.5f},{b:.5f}" for n, (a, b) in enumerate(signal.T)]
    (folder / name).write_text("\n".join([titles, *rows]) + "\n")
    return folder / name, signal


@pytest.fixture
def write():
    """The writers of small files, as one namespace."""

    class Writers:
        signal = staticmethod(ecg_like)
        wfdb = staticmethod(write_wfdb)
        challenge = staticmethod(write_challenge)
        code15 = staticmethod(write_code15)
        cpsc = staticmethod(write_cpsc)
        sph = staticmethod(write_sph)
        csv = staticmethod(write_csv)
        matlab_73 = staticmethod(write_matlab_73)
        parquet = staticmethod(write_parquet)

    return Writers


@pytest.fixture
def refused():
    """Read a file that must be refused; return the message after checking its three parts."""
    from ecg_transformers import ECGReadError, read_ecg

    def check(path, match, **options):
        with pytest.raises(ECGReadError, match=match) as caught:
            read_ecg(path, **options)
        error = caught.value
        assert str(path.stem) in str(error), "the message must name the file"
        assert error.reason and error.remedy and error.reason in str(error) and error.remedy in str(error)
        return error

    return check
