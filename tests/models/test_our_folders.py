"""Every model that this package saves goes through the converter unchanged, by its folder and by its weights alone."""

import json

import pytest
import torch
from tiny_models import build, heads

from ecg_transformers import ECGFeatureExtractor
from ecg_transformers.conversion import convert_checkpoint


@pytest.mark.parametrize("entry, auto_class", heads(), ids=lambda value: getattr(value, "model_type", value))
def test_our_own_folders(entry, auto_class, tmp_path):
    model = build(entry, auto_class)
    model.config.remark = {"from": "a run"}
    model.save_pretrained(tmp_path / "saved")
    extractor = ECGFeatureExtractor.for_model_type(entry.model_type, config=model.config)
    extractor.save_pretrained(tmp_path / "saved")
    for name, source in (("folder", "saved"), ("file", "saved/model.safetensors")):
        folder = convert_checkpoint(tmp_path / source, tmp_path / name)
        again, info = type(model).from_pretrained(folder, output_loading_info=True)
        assert not any(info.values())
        assert again.state_dict().keys() == model.state_dict().keys()
        assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())
        before, after = (json.loads((path / "config.json").read_text()) for path in (tmp_path / "saved", folder))
        assert before == after and after["remark"] == {"from": "a run"}
        assert ECGFeatureExtractor.from_pretrained(folder).to_dict() == extractor.to_dict()
