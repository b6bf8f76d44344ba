import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import metadata_load

from ecg_transformers import ECGFeatureExtractor, HubertECGConfig, HubertECGModel, convert_checkpoint
from ecg_transformers.publishing.licences import describe_licence, licence_of, licence_of_folder


def run_from(base_model, is_local, licence=None, model_type="hubert_ecg"):
    facts = {"base_model": base_model, "base_model_is_local": is_local, "base_model_licence": licence}
    return {"model": {"model_type": model_type, **facts}}


@pytest.mark.parametrize(
    ("run", "licence", "words"),
    [
        (run_from(None, False), "unknown", "Whoever trained these weights decides"),
        (run_from("mine", True), "unknown", "(`mine`, a folder whose card names no licence)"),
        (run_from("mine", True, "mit"), "mit", "under mit, as the card of `mine` says, so these are too"),
        (run_from("Edoardo-BS/hubert-ecg-base", False), "cc-by-nc-4.0", "under cc-by-nc-4.0, so these are too"),
        (run_from("x/y", False, model_type="deepecg_ssl"), "unknown", "(`x/y`, whose licence is not known)"),
        ({"model": {"model_type": "dbeta", "base_model": "old", "base_model_is_local": True}}, "unknown", "`old`"),
    ],
)
def test_what_a_run_started_from_decides(run, licence, words):
    assert licence_of(run, None) == licence and words in describe_licence(run, None)
    assert licence_of(run, "apache-2.0") == "apache-2.0" and describe_licence(run, "apache-2.0") == (
        "Weights: apache-2.0."
    )


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (None, None),
        ("---\nlicense: cc-by-nc-4.0\n---\n# x\n", "cc-by-nc-4.0"),
        ("---\nlicense: unknown\n---\n# x\n", None),
        ("---\ntags: [ecg]\n---\n# x\n", None),
        ("# no metadata\n", None),
        ("---\n- a list\n---\n", None),
        ("---\nlicense: [a: b: c\n---\n", None),
    ],
)
def test_the_licence_of_a_folder_is_what_its_card_says(tmp_path, card, licence):
    (tmp_path / "run" / "checkpoint-3").mkdir(parents=True)
    if card is not None:
        (tmp_path / "run" / "README.md").write_text(card)
    assert licence_of_folder(tmp_path / "run") == licence
    assert licence_of_folder(tmp_path / "run" / "checkpoint-3") == licence
    assert licence_of_folder(tmp_path) is None and licence_of_folder("Edoardo-BS/hubert-ecg-base") is None


def test_conversion_of_ones_own_folder_keeps_its_licence_and_adds_none(tmp_path):
    torch.manual_seed(0)
    config = HubertECGConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=[8] * 5,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    own = tmp_path / "own"
    HubertECGModel(config).save_pretrained(own)
    ECGFeatureExtractor.for_model_type("hubert_ecg").save_pretrained(own)
    assert not (convert_checkpoint(own, tmp_path / "a") / "README.md").exists()
    (own / "README.md").write_text("---\nlicense: mit\n---\n")
    assert licence_of_folder(convert_checkpoint(own, tmp_path / "b")) == "mit"


def test_a_converted_original_says_its_licence(golden, tmp_path):
    source = golden / "hubert_ecg" / "hub_checkpoint" / "checkpoint"
    plain = Path(shutil.copytree(source, tmp_path / "original", ignore=shutil.ignore_patterns("README.md")))
    folder = convert_checkpoint(plain, tmp_path / "converted")
    assert metadata_load(folder / "README.md")["license"] == "cc-by-nc-4.0"
    (folder / "README.md").write_text("mine")
    convert_checkpoint(plain, folder, overwrite=True)
    assert (folder / "README.md").read_text() == "mine"
