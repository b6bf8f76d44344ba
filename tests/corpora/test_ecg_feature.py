import pickle
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)

from ecg_transformers.corpora.ecg_feature import ECG, resample
from ecg_transformers.corpora.saved_corpus import save_parquet
from ecg_transformers.readers.numpy_files import record_to_npz_bytes, save_npz
from ecg_transformers.record import ECGRecord


def make_record(number=0, leads=("I", "II", "V1"), rate=250, seconds=2):
    times = np.arange(int(rate * seconds)) / rate
    signal = [(row + 1) * np.sin(2 * np.pi * (row + 2 + number) * times) for row in range(len(leads))]
    return ECGRecord(np.array(signal), rate, leads, {"record_id": f"r{number}", "age": 40.0 + number})


def assert_same(record, expected):
    assert isinstance(record, ECGRecord)
    np.testing.assert_array_equal(record.signal, expected.signal)
    assert record.sampling_rate == expected.sampling_rate
    assert record.lead_names == expected.lead_names
    assert record.metadata["record_id"] == expected.metadata["record_id"]


@pytest.fixture
def records():
    return [make_record(number) for number in range(3)]


@pytest.fixture
def paths(tmp_path, records):
    return [str(save_npz(record, tmp_path / f"r{number}.npz")) for number, record in enumerate(records)]


@pytest.fixture
def data(paths):
    return Dataset.from_dict({"ecg": paths, "n": [0, 1, 2]}, features=Features({"ecg": ECG(), "n": Value("int64")}))


def stored(data, row=0, column="ecg"):
    return data.with_format("arrow")[row].column(column).to_pylist()[0]


def wfdb_file(folder, name="w1"):
    import wfdb

    times = np.arange(1000) / 500
    signal = np.stack([np.sin(2 * np.pi * 3 * times), np.cos(2 * np.pi * 3 * times)], axis=1)
    wfdb.wrsamp(
        name, fs=500, units=["mV"] * 2, sig_name=["I", "II"], p_signal=signal, fmt=["16"] * 2, write_dir=str(folder)
    )
    return folder / f"{name}.hea"


@pytest.mark.parametrize("form", ["record", "str", "path", "bytes", "dict_path", "dict_bytes"])
def test_encodes_every_form(form, records, paths, tmp_path):
    content = record_to_npz_bytes(records[0])
    value = {
        "record": records[0],
        "str": paths[0],
        "path": tmp_path / "r0.npz",
        "bytes": content,
        "dict_path": {"path": paths[0]},
        "dict_bytes": {"path": "r0.npz", "bytes": content},
    }[form]
    feature = ECG()
    encoded = feature.encode_example(value)
    assert set(encoded) == {"bytes", "path"}
    assert_same(feature.decode_example(encoded), records[0])
    assert_same(Dataset.from_dict({"ecg": [value]}, features=Features({"ecg": ECG()}))[0]["ecg"], records[0])


@pytest.mark.parametrize("value", [np.zeros((12, 10)), 3, {}, {"array": [1.0]}, [0.0, 1.0], None])
def test_refuses_what_is_no_ecg(value):
    with pytest.raises(ValueError, match="ECGRecord, a path, bytes"):
        ECG().encode_example(value)


def test_refuses_arrays_of_numbers_in_storage():
    with pytest.raises(TypeError, match="make them ECGRecord"):
        ECG().cast_storage(pa.array([[[1.0, 2.0]]]))


@pytest.mark.parametrize(
    "storage",
    [
        pa.array(["a.npz", None]),
        pa.array(["a.npz", None], pa.large_string()),
        pa.array([b"x", None]),
        pa.array([b"x", None], pa.large_binary()),
        pa.array([{"path": "a.npz"}, None]),
        pa.array([{"path": "a.npz", "bytes": None}, None]),
        pa.array([{"bytes": b"x", "path": None, "other": 1}, None]),
        pa.array([None, None]),
    ],
)
def test_casts_storage(storage):
    cast = ECG().cast_storage(storage)
    assert cast.type == ECG.pa_type
    assert cast.is_null().to_pylist() == storage.is_null().to_pylist()


def test_missing_ecg_stays_missing(paths):
    data = Dataset.from_dict({"ecg": [paths[0], None]}, features=Features({"ecg": ECG()}))
    assert data[1]["ecg"] is None
    assert data.map(lambda row: {"there": row["ecg"] is not None})["there"][:] == [True, False]


def test_paths_are_not_copied(data, paths):
    assert stored(data) == {"bytes": None, "path": paths[0]}


def test_map_without_and_with_reading(data, records, paths):
    untouched = data.map(lambda row: {"twice": row["n"] * 2})
    assert stored(untouched) == {"bytes": None, "path": paths[0]}

    def measure(row):
        row["samples"] = row["ecg"].num_samples
        return row

    read = data.map(measure)
    assert isinstance(read.features["ecg"], ECG)
    assert read["samples"][:] == [500] * 3
    # Handed back unchanged: the path is kept, the samples are not copied into the cache.
    assert stored(read) == {"bytes": None, "path": paths[0]}
    assert_same(read[1]["ecg"], records[1])

    batched = data.map(lambda batch: {"ecg": batch["ecg"], "m": [r.num_samples for r in batch["ecg"]]}, batched=True)
    assert isinstance(batched.features["ecg"], ECG)
    assert_same(batched[2]["ecg"], records[2])


def test_map_stores_changed_records(data, records):
    def halve(row):
        row["ecg"].signal *= 0.5
        return {"ecg": row["ecg"]}

    halved = data.map(halve)
    assert isinstance(halved.features["ecg"], ECG)
    assert stored(halved)["bytes"] is not None
    np.testing.assert_array_equal(halved[1]["ecg"].signal, records[1].signal * 0.5)

    renamed = data.map(lambda row: {"ecg": ECGRecord(row["ecg"].signal[:1], 250, ["V6"], {"record_id": "x"})})
    assert renamed[0]["ecg"].lead_names == ("V6",)

    def annotate(row):
        row["ecg"].metadata["quality"] = "good"
        return row

    assert data.map(annotate)[0]["ecg"].metadata["quality"] == "good"


def test_map_into_a_new_column(data, records):
    derived = data.map(lambda row: {"copy": row["ecg"]}, remove_columns="ecg").cast_column("copy", ECG())
    assert_same(derived[2]["copy"], records[2])


def test_map_in_processes(data, records):
    assert data.map(lambda row: {"peak": float(row["ecg"].signal.max())}, num_proc=2)["peak"][0] > 2.9


def test_filter_and_concatenate(data, records):
    kept = data.filter(lambda row: row["ecg"].metadata["record_id"] != "r1")
    assert [row["ecg"].metadata["record_id"] for row in kept] == ["r0", "r2"]
    both = concatenate_datasets([kept, data])
    assert len(both) == 5
    assert_same(both[4]["ecg"], records[2])


def test_with_transform(data, records):
    transformed = data.with_transform(lambda batch: {"peaks": [record.signal.max() for record in batch["ecg"]]})
    assert transformed[0]["peaks"] == records[0].signal.max()
    assert transformed.select([1, 2])[:]["peaks"] == [records[1].signal.max(), records[2].signal.max()]


def test_save_to_disk(data, records, tmp_path):
    cast = data.cast_column("ecg", ECG(sampling_rate=125, lead_names=["V1", "aVF"]))
    DatasetDict(train=cast).save_to_disk(str(tmp_path / "saved"))
    loaded = load_from_disk(str(tmp_path / "saved"))["train"]
    assert loaded.features == cast.features
    assert loaded[0]["ecg"].lead_names == ("V1", "aVF")
    assert loaded[0]["ecg"].signal.shape == (2, 250)


def test_cast_column_resamples_and_selects(data, records):
    cast = data.cast_column("ecg", ECG(sampling_rate=100, lead_names=["III", "V1"]))
    record = cast[0]["ecg"]
    assert (record.sampling_rate, record.lead_names, record.signal.shape) == (100, ("III", "V1"), (2, 200))
    times = np.arange(200) / 100
    third = 2 * np.sin(2 * np.pi * 3 * times) - np.sin(2 * np.pi * 2 * times)
    np.testing.assert_allclose(record.signal[0, 20:-20], third[20:-20], atol=0.01)
    assert_same(cast.cast_column("ecg", ECG())[0]["ecg"], records[0])
    with pytest.raises(ValueError, match="r0.*V6.*lead_names"):
        data.cast_column("ecg", ECG(lead_names=["V6"]))[0]
    assert data.cast_column("ecg", ECG(decode=False))[0]["ecg"]["bytes"] is None


def test_a_resampled_record_from_map_is_stored_as_it_was_read(data):
    cast = data.cast_column("ecg", ECG(sampling_rate=100))
    copied = cast.map(lambda row: {"copy": row["ecg"]}).cast_column("copy", ECG())
    assert copied[0]["copy"].sampling_rate == 100


@pytest.mark.parametrize(
    "options", [{"sampling_rate": 0}, {"file_sampling_rate": -1}, {"lead_names": "II"}, {"lead_names": []}]
)
def test_refuses_impossible_options(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ECG(**options)


def test_embeds_for_parquet(data, records, paths, tmp_path):
    from datasets.table import embed_table_storage

    hea = wfdb_file(tmp_path)
    mixed = concatenate_datasets(
        [data, Dataset.from_dict({"ecg": [str(hea), None], "n": [3, 4]}, features=data.features)]
    )
    # What push_to_hub does before it uploads.
    embed = partial(embed_table_storage, token_per_repo_id={})
    pushed = mixed.with_format("arrow").map(embed, batched=True, batch_size=2)
    assert pushed.features == mixed.features
    embedded = pushed.data.table.column("ecg").to_pylist()
    assert [value and value["path"] for value in embedded] == ["r0.npz", "r1.npz", "r2.npz", "w1.hea", None]
    original = mixed[3]["ecg"]

    save_parquet(DatasetDict(train=mixed), tmp_path / "parquet")
    for path in (*paths, hea, hea.with_suffix(".dat")):
        (tmp_path / path).unlink()
    loaded = Dataset.from_parquet(str(tmp_path / "parquet" / "train.parquet"), cache_dir=str(tmp_path / "cache"))
    assert loaded.features == mixed.features
    assert_same(loaded[0]["ecg"], records[0])
    assert_same(loaded[3]["ecg"], original)
    assert loaded[4]["ecg"] is None


def test_embedding_can_be_restricted(data):
    storage = data.data.table.column("ecg").combine_chunks()
    assert ECG().embed_storage(storage, None, local_files=False).to_pylist() == storage.to_pylist()


def test_streams(data, records, tmp_path):
    (file,) = save_parquet(DatasetDict(train=data), tmp_path / "parquet")
    stream = load_dataset("parquet", data_files=str(file), split="train", streaming=True)
    assert [row["ecg"].metadata["record_id"] for row in stream] == ["r0", "r1", "r2"]
    cast = stream.cast_column("ecg", ECG(sampling_rate=125))
    assert next(iter(cast))["ecg"].signal.shape == (3, 250)
    mapped = data.to_iterable_dataset().map(lambda row: {**row, "peak": row["ecg"].signal.max()}, features=None)
    assert_same(next(iter(mapped))["ecg"], records[0])

    def generate():
        yield from ({"ecg": record} for record in records)

    generated = IterableDataset.from_generator(generate, features=Features({"ecg": ECG()}))
    assert_same(next(iter(generated))["ecg"], records[0])


def test_survives_pickling_and_workers(data, records):
    from torch.utils.data import DataLoader

    assert_same(pickle.loads(pickle.dumps(data))[2]["ecg"], records[2])
    loader = DataLoader(data, batch_size=3, num_workers=1, collate_fn=list)
    assert_same(next(iter(loader))[1]["ecg"], records[1])


def test_from_generator_takes_records(records, tmp_path):
    def generate(numbers):
        for number in numbers:
            yield {"ecg": make_record(number)}

    built = Dataset.from_generator(
        generate, features=Features({"ecg": ECG()}), gen_kwargs={"numbers": [0, 1]}, cache_dir=str(tmp_path)
    )
    assert_same(built[1]["ecg"], records[1])


def test_features_travel_as_json_and_as_card():
    features = Features({"ecg": ECG(sampling_rate=250, lead_names=("avr", "v1"), file_units="uV"), "n": Value("int8")})
    assert Features.from_dict(features.to_dict()) == features
    assert Features.from_arrow_schema(features.arrow_schema) == features
    # The card of a data set on the Hub.
    assert Features._from_yaml_list(features._to_yaml_list()) == features
    plain = Features({"ecg": ECG(), "labels": {"AF": Value("float32"), "age": Value("float32", id="regression")}})
    assert Features._from_yaml_list(plain._to_yaml_list()) == plain
    assert features["ecg"].lead_names == ["aVR", "V1"]


def test_files_that_do_not_tell_their_rate(tmp_path, records):
    np.save(tmp_path / "a.npy", records[0].signal * 1000)
    feature = ECG(file_sampling_rate=250, file_lead_names=["I", "II", "V1"], file_units="uV")
    data = Dataset.from_dict(
        {"ecg": [str(tmp_path / "a.npy"), str(wfdb_file(tmp_path))]}, features=Features(ecg=feature)
    )
    np.testing.assert_allclose(data[0]["ecg"].signal, records[0].signal, atol=1e-6)
    # The WFDB record tells its own rate and leads, which come first.
    assert (data[1]["ecg"].sampling_rate, data[1]["ecg"].lead_names) == (500, ("I", "II"))
    (file,) = save_parquet(DatasetDict(train=data), tmp_path / "parquet")
    embedded = Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
    assert embedded.cast_column("ecg", ECG())[0]["ecg"].sampling_rate == 250


def test_reads_embedded_files_of_other_formats(shared_data):
    path = shared_data / "cpsc2018-mat" / "A1980.mat"
    record = ECG().decode_example({"bytes": path.read_bytes(), "path": path.name})
    assert (record.sampling_rate, record.num_leads) == (500, 12)


def test_damaged_bytes_are_named():
    with pytest.raises(ValueError):
        ECG().decode_example({"bytes": b"PK\x03\x04nonsense", "path": None})
    with pytest.raises(ValueError, match="missing"):
        ECG().decode_example({"bytes": None, "path": None})


class TestResample:
    @pytest.mark.parametrize(("source", "target"), [(500, 100), (257, 500), (360, 250), (400, 500), (1000, 250.5)])
    def test_keeps_a_slow_wave(self, source, target):
        times = np.arange(int(10 * source)) / source
        wave = (0.3 + np.sin(2 * np.pi * 5 * times))[None].astype(np.float32)
        result = resample(wave, source, target)
        expected = 0.3 + np.sin(2 * np.pi * 5 * np.arange(result.shape[1]) / target)
        assert abs(result.shape[1] - 10 * target) <= 1
        np.testing.assert_allclose(result[0, 50:-50], expected[50:-50], atol=0.01)

    def test_removes_what_the_new_rate_cannot_hold(self):
        wave = np.sin(2 * np.pi * 90 * np.arange(5000) / 500)[None].astype(np.float32)
        assert np.abs(resample(wave, 500, 100)[0, 50:-50]).max() < 0.01

    def test_gaps_do_not_spread(self):
        times = np.arange(5000) / 500
        wave = np.stack([np.sin(2 * np.pi * 2 * times)] * 2).astype(np.float32)
        wave[0, 1000:1100] = np.nan
        wave[1] = np.nan
        result = resample(wave, 500, 100)
        assert np.isnan(result[0]).sum() == 20
        assert np.isnan(result[0, 200:220]).all()
        assert np.isnan(result[1]).all()
        assert np.isfinite(result[0, 230:]).all()


def test_leads_under_another_name(tmp_path):
    record = ECGRecord(np.arange(20.0).reshape(2, 10), 100, ("MLII", "V5"))
    feature = ECG(lead_aliases=["mlii = II", "V5=V6"], lead_names=["II", "V6"])
    assert feature.lead_aliases == ["MLII=II", "V5=V6"]
    assert Features.from_dict(Features({"ecg": feature}).to_dict())["ecg"] == feature
    found = feature.decode_example({"bytes": None, "path": str(record.save(tmp_path / "r.npz"))})
    assert found.lead_names == ("II", "V6")
    np.testing.assert_array_equal(found.signal, record.signal)
    # A record that has the lead keeps it.
    both = ECGRecord(record.signal, 100, ("MLII", "II"))
    kept = ECG(lead_aliases=["MLII=II"]).decode_example({"bytes": None, "path": str(both.save(tmp_path / "b.npz"))})
    assert kept.lead_names == ("MLII", "II")
    for wrong in ("MLII", "=II", "a=b=c"):
        with pytest.raises(ValueError, match="NAME=LEAD"):
            ECG(lead_aliases=[wrong])
