import pytest

TINY = (
    "hidden_size=16,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32,classifier_proj_size=8,"
    "conv_dim=[8,8,8,8,8],num_conv_pos_embeddings=8,num_conv_pos_embedding_groups=2"
)

# D-BETA with about 20,000 parameters
TINY_DBETA = (
    "hidden_size=16,ecg_config.hidden_size=16,ecg_config.num_hidden_layers=1,ecg_config.num_attention_heads=2,"
    "ecg_config.intermediate_size=32,ecg_config.conv_dim=[8,8,8,8],ecg_config.num_conv_pos_embeddings=8,"
    "ecg_config.num_conv_pos_embedding_groups=2,text_config.d_model=16,text_config.d_kv=8,text_config.num_heads=2,"
    "text_config.d_ff=32,text_config.num_layers=1,cross_modal_config.num_hidden_layers=1,"
    "cross_modal_config.num_attention_heads=2,decoder_config.hidden_size=8,decoder_config.num_hidden_layers=1,"
    "decoder_config.num_attention_heads=2,decoder_config.fusion_layer=0"
)


# DeepECG-SSL with about 5,000 parameters
TINY_SSL = (
    "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32,conv_dim=[8,8,8,8],"
    "num_conv_pos_embeddings=8,num_conv_pos_embedding_groups=2,num_codevectors_per_group=8,codevector_dim=8,"
    "proj_codevector_dim=8,num_negatives=10,classifier_num_heads=2"
)

# Hybrid ECG with about 35,000 parameters, most of them those of a patch
TINY_HYBRID = (
    "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32,decoder_hidden_size=16,"
    "decoder_num_hidden_layers=1,decoder_num_attention_heads=2,decoder_intermediate_size=32,projection_size=8"
)


@pytest.fixture(scope="session")
def tiny_overrides():
    return TINY


@pytest.fixture(scope="session")
def tiny_dbeta_overrides():
    return TINY_DBETA


@pytest.fixture(scope="session")
def tiny_ssl_overrides():
    return TINY_SSL


@pytest.fixture(scope="session")
def tiny_hybrid_overrides():
    return TINY_HYBRID


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory):
    """A small synthetic corpus on disk, so that runs do not generate it again."""
    from ecg_transformers import load_corpus

    folder = tmp_path_factory.mktemp("corpus") / "synthetic"
    corpus = load_corpus("synthetic", num_patients=50, records_per_patient=1, seed=1)
    corpus.save_to_disk(str(folder))
    return folder


def arguments_maker(parse, output_dir, **settings):
    """Return a function from extra arguments to the parsed arguments of a run of a few steps on a CPU."""
    settings = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 10,
        "use_cpu": True,
        "disable_tqdm": True,
        **settings,
    }

    def make(*extra, output="run"):
        given = {extra[index].lstrip("-") for index in range(0, len(extra), 2)}
        arguments = []
        for name, value in {**settings, "output_dir": output_dir / output}.items():
            if name not in given:
                arguments += [f"--{name}", str(value)]
        return parse([*arguments, *map(str, extra)])

    return make


@pytest.fixture
def make_arguments(corpus_folder, tmp_path):
    """Arguments of a fine-tuning with a model of a few thousand parameters."""
    from ecg_transformers.training import parse_finetuning_arguments

    return arguments_maker(
        parse_finetuning_arguments,
        tmp_path,
        corpus=corpus_folder,
        config_overrides=TINY,
        bootstrap_resamples=20,
    )


@pytest.fixture
def make_pretraining_arguments(corpus_folder, tmp_path):
    """Arguments of a D-BETA pretraining."""
    from ecg_transformers.training import parse_dbeta_pretraining_arguments

    return arguments_maker(
        parse_dbeta_pretraining_arguments,
        tmp_path,
        corpus=corpus_folder,
        config_overrides=TINY_DBETA,
        vocab_size=300,
        learning_rate=1e-3,
    )


@pytest.fixture
def make_ssl_arguments(corpus_folder, tmp_path):
    """Arguments of a DeepECG-SSL pretraining."""
    from ecg_transformers.training import parse_deepecg_ssl_pretraining_arguments

    return arguments_maker(
        parse_deepecg_ssl_pretraining_arguments,
        tmp_path,
        corpus=corpus_folder,
        config_overrides=TINY_SSL,
        learning_rate=1e-3,
    )


@pytest.fixture
def make_hybrid_arguments(corpus_folder, tmp_path):
    """Arguments of a Hybrid ECG pretraining."""
    from ecg_transformers.training import parse_hybrid_ecg_pretraining_arguments

    return arguments_maker(
        parse_hybrid_ecg_pretraining_arguments,
        tmp_path,
        corpus=corpus_folder,
        config_overrides=TINY_HYBRID,
        learning_rate=1e-3,
    )
