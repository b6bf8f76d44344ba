"""A tiny configuration and inputs for every row of the registration table."""

from collections.abc import Callable
from dataclasses import dataclass, field

import tiny_dbeta
import tiny_deepecg_sl
import tiny_deepecg_ssl
import tiny_hybrid_ecg
import torch

from ecg_transformers import HubertECGConfig
from ecg_transformers.registration import MODELS, ModelEntry


@dataclass
class TinyModel:
    """What the checks of every model need to know about one model."""

    # keyword overrides -> configuration of under 100 k parameters
    config: Callable
    # number of records, padded -> arguments of forward without labels; padded, the second half of a row is padding
    inputs: Callable
    # auto class, number of records -> labels that fit the head, or all the arguments that the head's loss needs
    labels: Callable
    # fields of the configuration that switch off everything random in training
    deterministic: dict = field(default_factory=dict)
    # fields with which padding cannot reach real tokens; None where it cannot for any configuration
    padding_proof: dict | None = field(default_factory=dict)
    # wrong fields -> field that the error must name
    wrong: list = field(default_factory=list)
    # every name in config.json
    fields: frozenset = frozenset()
    # whether there are layers of attention, in more than one implementation
    has_attention: bool = True
    # dimension of the tokens in outputs of three dimensions
    token_dim: int = 1
    # prepares a model for checks that split a batch: what depends on the whole batch in training is held
    hold_batch_statistics: Callable = lambda model: None
    # auto class -> fields with which a batch's loss in training is the mean over its records
    additive: dict = field(default_factory=dict)
    # outputs in which minus infinity stands for what is left out
    excluding: frozenset = frozenset()
    # outputs that depend on more than one record of a batch
    joint_outputs: tuple = ()
    # beginnings of the parameters of the base model that the classifier does without
    base_only: tuple = ()


SAMPLES = 640
TOKENS = 9


def hubert_ecg_config(**overrides):
    settings = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "classifier_proj_size": 8,
        "conv_dim": [8, 8, 8, 8, 8],
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "vocab_sizes": [5, 7],
        "num_labels": 3,
        "problem_type": "multi_label_classification",
    }
    return HubertECGConfig(**{**settings, **overrides})


def hubert_ecg_inputs(records, padded=False):
    generator = torch.Generator().manual_seed(1)
    inputs = {"input_values": torch.randn(records, SAMPLES, generator=generator)}
    if padded:
        mask = torch.ones(records, SAMPLES, dtype=torch.long)
        mask[:, SAMPLES // 2 :] = 0
        inputs["attention_mask"] = mask
    return inputs


def hubert_ecg_labels(auto_class, records):
    generator = torch.Generator().manual_seed(2)
    if auto_class == "AutoModelForPreTraining":
        return torch.randint(0, 5, (records, 2, TOKENS), generator=generator)
    return torch.randint(0, 2, (records, 3), generator=generator).float()


TINY_MODELS = {
    "hubert_ecg": TinyModel(
        config=hubert_ecg_config,
        inputs=hubert_ecg_inputs,
        labels=hubert_ecg_labels,
        deterministic={
            "hidden_dropout": 0.0,
            "activation_dropout": 0.0,
            "attention_dropout": 0.0,
            "classifier_dropout": 0.0,
            "layerdrop": 0.0,
            "mask_time_prob": 0.0,
        },
        additive={"AutoModelForPreTraining": {"mask_time_prob": 0.1}},
        # The group norm of the published models takes its statistics over the padding too
        padding_proof={"feat_extract_norm": "layer"},
        wrong=[
            ({"hidden_size": 0}, "hidden_size"),
            ({"hidden_size": "16"}, "hidden_size"),
            ({"num_attention_heads": 3}, "num_attention_heads"),
            ({"num_conv_pos_embedding_groups": 5}, "num_conv_pos_embedding_groups"),
            ({"conv_kernel": [10, 3]}, "conv_kernel"),
            ({"conv_stride": [4, 2, 2, 2, 0]}, "conv_stride"),
            ({"conv_dim": []}, "conv_dim"),
            ({"vocab_sizes": [5, 0]}, "vocab_sizes"),
            ({"vocab_sizes": 5}, "vocab_sizes"),
            ({"ensemble_length": 3}, "ensemble_length"),
            ({"alpha": 1.5}, "alpha"),
            ({"layerdrop": -0.1}, "layerdrop"),
            ({"mask_time_prob": 2}, "mask_time_prob"),
            ({"mask_time_length": 0}, "mask_time_length"),
            ({"classifier_head": "quadratic"}, "classifier_head"),
            ({"classifier_hidden_size": 0}, "classifier_hidden_size"),
            ({"classifier_dropout": 1.1}, "classifier_dropout"),
            ({"pos_weight": [1.0, -1.0, 1.0]}, "pos_weight"),
            ({"feat_extract_norm": "batch"}, "feat_extract_norm"),
            ({"hidden_act": "rectangle"}, "hidden_act"),
            ({"feat_extract_activation": "rectangle"}, "feat_extract_activation"),
            ({"use_weighted_layer_sum": True}, "use_weighted_layer_sum"),
        ],
        fields=frozenset(
            """activation_dropout alpha apply_spec_augment attention_dropout bos_token_id classifier_dropout
            classifier_head classifier_hidden_size classifier_proj_size conv_bias conv_dim conv_kernel
            conv_pos_batch_norm conv_stride ctc_loss_reduction ctc_zero_infinity do_stable_layer_norm ensemble_length
            eos_token_id feat_extract_activation feat_extract_norm feat_proj_dropout feat_proj_layer_norm final_dropout
            hidden_act hidden_dropout hidden_size id2label initializer_range intermediate_size label2id layer_norm_eps
            layerdrop mask_feature_length mask_feature_min_masks mask_feature_prob mask_time_length mask_time_min_masks
            mask_time_prob model_type num_attention_heads num_conv_pos_embedding_groups num_conv_pos_embeddings
            num_feat_extract_layers num_hidden_layers pad_token_id pos_weight problem_type transformers_version
            use_weighted_layer_sum vocab_size vocab_sizes""".split()
        ),
    ),
    "dbeta": TinyModel(**tiny_dbeta.SETTINGS),
    "deepecg_ssl": TinyModel(**tiny_deepecg_ssl.SETTINGS),
    "deepecg_sl": TinyModel(**tiny_deepecg_sl.SETTINGS),
    "hybrid_ecg": TinyModel(**tiny_hybrid_ecg.SETTINGS),
}


def targets(entry: ModelEntry, auto_class: str, records: int) -> dict:
    """Return the arguments with which a head gives a loss."""
    labels = TINY_MODELS[entry.model_type].labels(auto_class, records)
    return labels if isinstance(labels, dict) else {"labels": labels}


def heads() -> list[tuple[ModelEntry, str]]:
    return [(entry, auto_class) for entry in MODELS for auto_class in entry.model_classes]


def build(entry: ModelEntry, auto_class: str, *, eager=False, **overrides):
    torch.manual_seed(0)
    config = TINY_MODELS[entry.model_type].config(**overrides)
    if eager:
        config._attn_implementation = "eager"
    return entry.get_model_class(auto_class)(config).eval()
