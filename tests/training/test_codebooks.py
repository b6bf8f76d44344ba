import io
import json
import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans

from ecg_transformers.joblib_files import load_joblib_without_running
from ecg_transformers.restricted_unpickling import UnsafePickleError
from ecg_transformers.training import Codebook, CodebookSet, import_codebook


@pytest.fixture(scope="module")
def case(golden):
    folder = golden / "hubert_ecg" / "kmeans_targets"
    return folder, np.load(folder / "inputs.npz")["features"], np.load(folder / "outputs.npz")


@pytest.mark.parametrize("codes", [8, 12])
def test_recorded_targets(case, codes):
    folder, features, outputs = case
    (path,) = folder.glob(f"k_means_{codes}_*.pkl")
    imported = import_codebook(path)
    np.testing.assert_array_equal(imported.centers.numpy(), outputs[f"centers_{codes}"])
    features = torch.from_numpy(features)
    np.testing.assert_array_equal(imported.assign(features).numpy(), outputs[f"labels_raw_{codes}"])
    normalized = import_codebook(path, normalize=True).assign(features).numpy()
    np.testing.assert_array_equal(normalized, outputs[f"labels_normalized_{codes}"])
    assert (normalized != outputs[f"labels_raw_{codes}"]).any()


def test_recorded_ensemble(case):
    folder, features, outputs = case
    books = {len(book): book for book in map(import_codebook, folder.glob("*.pkl"))}
    targets = outputs["dataset_targets"]
    first = 8 if (targets[:, 0] == outputs["labels_raw_8"]).all() else 12
    books = CodebookSet([books[first], books[20 - first]], {"kind": "time_frequency"})
    np.testing.assert_array_equal(books.assign(torch.from_numpy(features)).numpy(), targets)


@pytest.fixture
def books():
    random = torch.Generator().manual_seed(0)
    books = [Codebook(torch.randn(codes, 5, generator=random), codes == 3, 0.5) for codes in (3, 7)]
    return CodebookSet(books, {"kind": "mfcc", "sampling_rate": 100}, {"seed": 3})


def test_codes_are_those_of_the_nearest_centres(books):
    rows = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(1)) * 100
    found = books.assign(rows)
    assert found.shape == (4, 2, 6) and found.dtype == torch.int64
    unit = rows / rows.norm(dim=-1, keepdim=True)
    for place, seen in enumerate((unit, rows)):
        distances = (seen[..., None, :] - books.codebooks[place].centers).square().sum(-1)
        assert torch.equal(found[:, place], distances.argmin(-1))


def test_of_equal_centres_the_first_is_taken_and_nan_is_zero():
    book = Codebook(torch.tensor([[5.0, 5.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), normalize=False)
    assert book.assign(torch.tensor([[0.0, 1.0], [torch.nan, 1.0], [1.0, torch.nan]])).tolist() == [1, 1, 3]


def test_saved_and_opened_again(books, tmp_path):
    books.save(tmp_path / "books")
    assert sorted(path.name for path in (tmp_path / "books").iterdir()) == ["codebooks.json", "codebooks.safetensors"]
    opened = CodebookSet.load(tmp_path / "books")
    assert opened.sizes == [3, 7] and opened.descriptors == books.descriptors and opened.facts == {"seed": 3}
    for one, other in zip(opened.codebooks, books.codebooks, strict=True):
        assert torch.equal(one.centers, other.centers)
        assert (one.normalize, one.inertia) == (other.normalize, other.inertia)


def test_folders_without_codebooks_are_refused(books, tmp_path):
    with pytest.raises(ValueError, match="holds no codebooks"):
        CodebookSet.load(tmp_path)
    books.save(tmp_path)
    whole = json.loads((tmp_path / "codebooks.json").read_text())
    for wrong in ({"descriptors": None}, {"descriptors": {}}, {"codebooks": []}, {"codebooks": None}):
        (tmp_path / "codebooks.json").write_text(json.dumps({**whole, **wrong}))
        with pytest.raises(ValueError, match="holds no codebooks"):
            CodebookSet.load(tmp_path)
    books.save(tmp_path)
    (tmp_path / "codebooks.safetensors").write_bytes(b"{}")
    with pytest.raises(ValueError, match="holds no codebooks"):
        CodebookSet.load(tmp_path)


def test_descriptors_of_another_kind_are_refused(books):
    with pytest.raises(ValueError, match="over 5 values, the descriptors have 39"):
        books.assign(torch.zeros(1, 93, 39))


class TestJoblibFiles:
    def test_fitted_model(self, tmp_path):
        rows = np.random.default_rng(0).normal(size=(50, 4))
        model = MiniBatchKMeans(3, random_state=0, n_init=1).fit(rows)
        joblib.dump(model, tmp_path / "model.pkl")
        book = import_codebook(tmp_path / "model.pkl")
        np.testing.assert_allclose(book.centers.numpy(), model.cluster_centers_, rtol=1e-6)
        np.testing.assert_array_equal(book.assign(torch.from_numpy(rows)), model.predict(rows))
        assert book.inertia == pytest.approx(model.inertia_ / 50)

    @pytest.mark.parametrize(
        "array", [np.arange(6).reshape(2, 3), np.asfortranarray(np.eye(3)[:2]), np.zeros((0, 4)), np.array([True])]
    )
    def test_arrays(self, array, tmp_path):
        joblib.dump({"a": array, "b": [array, "text"]}, tmp_path / "file")
        found = load_joblib_without_running(tmp_path / "file")
        for each in (found["a"], found["b"][0]):
            np.testing.assert_array_equal(each, array)
            assert each.dtype == array.dtype
        assert found["b"][1] == "text"

    def test_nothing_is_run(self, tmp_path):
        class Touch:
            def __reduce__(self):
                return (open, (str(tmp_path / "touched"), "w"))

        joblib.dump({"array": np.zeros(3), "trap": Touch()}, tmp_path / "file")
        with pytest.raises(UnsafePickleError, match=r"calls `\S*open`"):
            load_joblib_without_running(tmp_path / "file")
        assert not (tmp_path / "touched").exists()

    def test_arrays_of_objects_are_refused(self, tmp_path):
        joblib.dump(np.array([{}, []], dtype=object), tmp_path / "file")
        with pytest.raises(ValueError, match="not plain numbers"):
            load_joblib_without_running(tmp_path / "file")

    def test_other_files_are_refused(self, tmp_path):
        path = tmp_path / "file"
        joblib.dump(np.zeros(100), path, compress=3)
        with pytest.raises(ValueError, match="no uncompressed joblib file"):
            load_joblib_without_running(path)
        joblib.dump(np.zeros(100), path)
        whole = path.read_bytes()
        for data in (whole[:300], whole[:50], b"\x80", whole.replace(b"Kd", b"K\xff"), pickle.dumps(io.BytesIO())):
            path.write_bytes(data)
            with pytest.raises(ValueError, match="file"):
                load_joblib_without_running(path)
        joblib.dump({"cluster_centers_": 1}, path)
        with pytest.raises(ValueError, match="holds dict, not a k-means model"):
            import_codebook(path)
        with pytest.raises(FileNotFoundError):
            import_codebook(tmp_path / "none")
