"""Folders that bring their code: every model and every head, opened where the package cannot be imported."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file, save_file
from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports

from ecg_transformers import DBetaProcessor, ECGFeatureExtractor
from ecg_transformers.publishing.custom_code import auto_maps, code_files, include_code
from ecg_transformers.publishing.folder_check import FolderCheckError, FolderToCheck, check_folders
from ecg_transformers.registration import MODELS

sys.path.append(str(Path(__file__).resolve().parent.parent / "models"))
from tiny_models import build, heads


@pytest.fixture(scope="module")
def folders(tmp_path_factory, dbeta_folder):
    """For every head a saved model with recipe (and tokenizer), and the same with its code."""
    place = tmp_path_factory.mktemp("heads")
    tokenizer = transformers.AutoTokenizer.from_pretrained(dbeta_folder)
    made = {}
    for entry, auto_class in heads():
        overrides = {}
        if entry.processor_class is not None:
            overrides = {"text_config": {"vocab_size": len(tokenizer)}}
        model = build(entry, auto_class, **overrides)
        extractor = ECGFeatureExtractor.for_model_type(entry.model_type, config=model.config)
        takes_text = entry.processor_class and not getattr(model.config, "ecg_only", False)
        processor = DBetaProcessor(extractor, tokenizer) if takes_text else extractor
        source, published = (place / f"{entry.model_type}-{auto_class}-{kind}" for kind in ("source", "published"))
        for folder in (source, published):
            model.save_pretrained(folder)
            processor.save_pretrained(folder)
        include_code(published, entry)
        made[entry.model_type, auto_class] = FolderToCheck(
            source, published, list(dict.fromkeys([auto_class, "AutoModel"]))
        )
    return made


def test_every_head_of_every_model_opens_without_the_package_and_gives_the_same(folders, monkeypatch):
    """In the same breath: where the package is imported, its own classes are taken although code lies beside."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    assert {model_type for model_type, _ in folders} == {entry.model_type for entry in MODELS}
    assert len(folders) == len(heads())
    assert check_folders(list(folders.values()), without_package=True) > 10_000
    assert not asked


def test_local_classes_are_saved_again_without_reference_to_code(folders, tmp_path):
    for (model_type, auto_class), folder in folders.items():
        if auto_class == "AutoModel":
            model = transformers.AutoModel.from_pretrained(folder.published)
            assert type(model).__module__ == f"ecg_transformers.models.{model_type}.modeling_{model_type}"
            model.save_pretrained(tmp_path / model_type)
            assert "auto_map" not in json.loads((tmp_path / model_type / "config.json").read_text())


def copy_of(folder, place):
    shutil.copytree(folder.published, place)
    return replace(folder, published=place)


def test_changed_weights_are_noticed(folders, tmp_path):
    folder = copy_of(folders["deepecg_sl", "AutoModelForSequenceClassification"], tmp_path / "changed")
    weights = load_file(folder.published / "model.safetensors")
    weights["classifier.bias"] += 0.01
    save_file(weights, folder.published / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FolderCheckError, match="another `AutoModelForSequenceClassification.logits`.* 0.01"):
        check_folders([folder], without_package=True)


def test_a_lacking_code_file_is_noticed(folders, tmp_path):
    folder = copy_of(folders["deepecg_sl", "AutoModel"], tmp_path / "lacking")
    (folder.published / "signal_steps.py").unlink()
    with pytest.raises(FolderCheckError, match="in a process without ecg_transformers: .*signal_steps"):
        check_folders([folder], without_package=True)


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.model_type)
def test_every_registered_class_is_named_and_defined(entry):
    files = {file.stem: file.read_text() for file in code_files(entry)}
    maps = auto_maps(entry)
    assert {"AutoConfig", *entry.model_classes} == set(maps["config.json"])
    assert {"AutoFeatureExtractor", "AutoProcessor"} == set(maps["preprocessor_config.json"])
    for reference in [reference for classes in maps.values() for reference in classes.values()]:
        module, name = reference.split(".")
        assert f"\nclass {name}(" in files[module]


def test_code_files_of_all_models_fit_into_one_folder_and_name_their_imports_themselves():
    """Of a local folder, transformers 5.8 fetches the files that a file imports, not those that these import."""
    places = {}
    for entry in MODELS:
        for file in code_files(entry):
            assert places.setdefault(file.name, file) == file
        starts = [reference.split(".")[0] for classes in auto_maps(entry).values() for reference in classes.values()]
        for start in set(starts):
            direct = {f"{name}.py" for name in get_relative_imports(places[f"{start}.py"])}
            assert {Path(name).name for name in get_relative_import_files(places[f"{start}.py"])} == direct
    assert len(places) >= 20
