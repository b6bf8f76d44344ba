import pytest

TINY = (
    "hidden_size=16,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32,classifier_proj_size=8,"
    "conv_dim=[8,8,8,8,8],num_conv_pos_embeddings=8,num_conv_pos_embedding_groups=2"
)


@pytest.fixture(scope="session")
def tiny_overrides():
    return TINY


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory):
    """A small synthetic corpus on disk, so that runs do not generate it again."""
    from ecg_transformers import load_corpus

    folder = tmp_path_factory.mktemp("corpus") / "synthetic"
    corpus = load_corpus("synthetic", num_patients=50, records_per_patient=1, seed=1)
    corpus.save_to_disk(str(folder))
    return folder


@pytest.fixture
def make_arguments(corpus_folder, tmp_path):
    """Arguments of a run of a few steps with a model of a few thousand parameters."""
    from ecg_transformers.training import parse_finetuning_arguments

    def make(*extra, output="run"):
        settings = {
            "corpus": corpus_folder,
            "config_overrides": TINY,
            "output_dir": tmp_path / output,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 10,
            "bootstrap_resamples": 20,
            "use_cpu": True,
            "disable_tqdm": True,
        }
        given = {extra[index].lstrip("-") for index in range(0, len(extra), 2)}
        arguments = []
        for name, value in settings.items():
            if name not in given:
                arguments += [f"--{name}", str(value)]
        return parse_finetuning_arguments([*arguments, *map(str, extra)])

    return make
