import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent


def shared_folder() -> Path:
    return Path(os.environ.get("ECG_TRANSFORMERS_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = shared_folder() / "data"
    if not folder.is_dir():
        pytest.skip("the corpus of real ECG files (shared/data) is not on this machine")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    folder = shared_folder() / "golden"
    if not folder.is_dir():
        pytest.skip("the recorded reference numbers (shared/golden) are not on this machine")
    return folder


@pytest.fixture(scope="session")
def dbeta_folder(tmp_path_factory) -> Path:
    """A tiny D-BETA with recipe and tokenizer whose scores differ, untrained."""
    import torch

    from ecg_transformers import DBetaConfig, DBetaModel, DBetaProcessor, ECGFeatureExtractor
    from ecg_transformers.evaluation import label_descriptions
    from ecg_transformers.training.report_tokenizer import train_report_tokenizer

    texts = [text.lower() for texts in label_descriptions("ptbxl").values() for text in texts]
    tokenizer = train_report_tokenizer(texts, 400, num_sentinels=4)
    config = DBetaConfig(
        hidden_size=12,
        ecg_config={
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "conv_dim": [8, 8, 8, 8],
            "num_conv_pos_embeddings": 8,
            "num_conv_pos_embedding_groups": 2,
        },
        text_config={"vocab_size": len(tokenizer), "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2}
        | {"num_heads": 2},
        cross_modal_config={"num_hidden_layers": 1, "num_attention_heads": 2},
        decoder_config={"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "fusion_layer": 0},
    )
    torch.manual_seed(3)
    model = DBetaModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4)
    folder = tmp_path_factory.mktemp("zero_shot") / "dbeta"
    model.save_pretrained(folder)
    DBetaProcessor(ECGFeatureExtractor.for_model_type("dbeta"), tokenizer).save_pretrained(folder)
    return folder
