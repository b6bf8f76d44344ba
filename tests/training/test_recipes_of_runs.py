"""The input recipe of a run fits its model, however it was chosen."""

import pytest

from ecg_transformers import ECGFeatureExtractor, HubertECGModel
from ecg_transformers.conversion import convert_checkpoint
from ecg_transformers.training.arguments import ModelArguments
from ecg_transformers.training.building import build_model

STRIDE_OF_50_HZ = "conv_stride=[4,2,2,2,1]"


@pytest.mark.parametrize("recipe, first_step", [(None, "resample"), ("hubert_ecg_filter_first", "bandpass_fir")])
def test_from_scratch_and_by_name(tiny_overrides, tmp_path, recipe, first_step):
    arguments = ModelArguments(config_overrides=f"{tiny_overrides},{STRIDE_OF_50_HZ}", recipe=recipe)
    built = build_model(arguments, ["AF", "SR"], "multi_label_classification")
    assert built.extractor.sampling_rate == 50 and built.extractor.recipe[0]["step"] == first_step
    # From a folder that says nothing of its recipe, by the command that asks for one, and by the converter
    HubertECGModel(built.model.config).save_pretrained(tmp_path / "model")
    again = build_model(
        ModelArguments(model_name_or_path=str(tmp_path / "model"), recipe=recipe), ["AF"], "multi_label_classification"
    )
    assert again.extractor.to_dict() == built.extractor.to_dict()
    converted = convert_checkpoint(tmp_path / "model", tmp_path / "converted", recipe=recipe)
    assert ECGFeatureExtractor.from_pretrained(converted).to_dict() == built.extractor.to_dict()


def test_a_stride_of_no_known_rate(tiny_overrides):
    arguments = ModelArguments(config_overrides=f"{tiny_overrides},conv_stride=[4,2,2,2,3]")
    with pytest.raises(ValueError, match="belongs to no sampling rate"):
        build_model(arguments, ["AF"], "multi_label_classification")
