import pytest

from ecg_transformers.files import written_atomically


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    with written_atomically(path) as file:
        file.write("first µV")
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "first µV"
    with pytest.raises(RuntimeError), written_atomically(path) as file:
        file.write("second")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "first µV"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]
    with written_atomically(tmp_path / "b", mode="wb") as file:
        file.write(b"\0")
    assert (tmp_path / "b").read_bytes() == b"\0"
    assert (tmp_path / "b").stat().st_mode & 0o777 == path.stat().st_mode & 0o777
