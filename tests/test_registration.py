import subprocess
import sys

import pytest
import transformers
from transformers import AutoConfig, AutoFeatureExtractor

import ecg_transformers
from ecg_transformers.registration import MODELS, find_model, register_all


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.model_type)
def test_a_row_of_the_table_is_whole(entry):
    config_class = entry.get_config_class()
    assert config_class.model_type == entry.model_type
    assert config_class.__name__ == entry.config_class
    assert {"AutoModel", "AutoModelForSequenceClassification"} <= set(entry.model_classes)
    for auto_class, name in entry.model_classes.items():
        model_class = entry.get_model_class(auto_class)
        assert model_class.config_class is config_class
        assert model_class.__name__ == name
        assert getattr(transformers, auto_class)._model_mapping[config_class] is model_class
    for part in ("configuration", "modeling", *(["convert"] if entry.has_originals else [])):
        entry.import_part(part)
    assert type(AutoConfig.for_model(entry.model_type)) is config_class
    processor_class = entry.get_processor_class()
    if processor_class is not None:
        assert processor_class.__name__ == entry.processor_class
        assert transformers.models.auto.processing_auto.PROCESSOR_MAPPING[config_class] is processor_class
    extractor = ecg_transformers.ECGFeatureExtractor.for_model_type(entry.model_type)
    assert type(extractor) is ecg_transformers.ECGFeatureExtractor


@pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.model_type)
def test_the_extractor_is_found_beside_the_model(entry, tmp_path):
    ecg_transformers.ECGFeatureExtractor.for_model_type(entry.model_type).save_pretrained(tmp_path)
    assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is ecg_transformers.ECGFeatureExtractor


def test_registering_again_changes_nothing():
    register_all()
    register_all()


def test_unknown_model_type():
    with pytest.raises(ValueError, match="'bert'.*hubert_ecg"):
        find_model("bert")


def test_importing_the_package_loads_nothing_heavy():
    heavy = ["datasets", "pandas", "scipy.signal", "sklearn", "wfdb", "matplotlib", "h5py", "evaluate", "accelerate"]
    code = (
        "import sys; from transformers import HubertModel; before = set(sys.modules); import ecg_transformers; "
        f"print([name for name in {heavy} if name in sys.modules and name not in before])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
