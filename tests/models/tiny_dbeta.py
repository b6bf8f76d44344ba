"""The tiny D-BETA of the checks that every model goes through."""

import torch

from ecg_transformers import DBetaConfig

SAMPLES = 320
TOKENS = 20
TEXT_TOKENS = 6
VOCABULARY = 24

PARTS = {
    "ecg_config": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": [8, 8, 8, 8],
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
    },
    "text_config": {
        "vocab_size": VOCABULARY,
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 24,
        "num_layers": 2,
        "num_heads": 2,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 20,
        "feed_forward_proj": "gated-gelu",
    },
    "cross_modal_config": {"num_hidden_layers": 2, "num_attention_heads": 2},
    "decoder_config": {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "fusion_layer": 1},
}
WITHOUT_DROPOUT = {
    "ecg_config": {"hidden_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0},
    "text_config": {"dropout_rate": 0.0},
    "cross_modal_config": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "classifier_dropout": 0.0,
}


def config(**overrides):
    """Parts given as dictionaries change single fields of the tiny ones."""
    settings = {"hidden_size": 12, "num_labels": 3, "problem_type": "multi_label_classification", **PARTS}
    for name, value in overrides.items():
        settings[name] = {**PARTS[name], **value} if name in PARTS and isinstance(value, dict) else value
    return DBetaConfig(**settings)


def inputs(records, padded=False):
    generator = torch.Generator().manual_seed(1)
    values = {
        "input_values": torch.randn(records, 12, SAMPLES, generator=generator),
        "input_ids": torch.randint(2, VOCABULARY, (records, TEXT_TOKENS), generator=generator),
    }
    if padded:
        mask = torch.ones(records, SAMPLES, dtype=torch.long)
        mask[:, SAMPLES // 2 :] = 0
        values["attention_mask"] = mask
        mask = torch.ones(records, TEXT_TOKENS, dtype=torch.long)
        mask[::2, TEXT_TOKENS // 2 :] = 0
        values["text_attention_mask"] = mask
    return values


def labels(auto_class, records):
    generator = torch.Generator().manual_seed(2)
    if auto_class == "AutoModelForPreTraining":
        # As many masked tokens in each report, so that means over a part of a batch and over all of it agree
        tokens = torch.randint(2, VOCABULARY, (records, TEXT_TOKENS), generator=generator)
        tokens[:, 2:] = -100
        return {
            "labels": tokens,
            "is_aligned": torch.arange(records) % 3 != 1,
            "noise": torch.rand(records, TOKENS, generator=generator),
        }
    return torch.randint(0, 2, (records, 3), generator=generator).float()


SETTINGS = {
    "config": config,
    "inputs": inputs,
    "labels": labels,
    "deterministic": WITHOUT_DROPOUT,
    # Pairs are made within a batch, so parts of it have other ones
    "additive": {"AutoModelForPreTraining": {"ets_loss_weight": 0.0}},
    # The group norm of the published model takes its statistics over the padding too
    "padding_proof": {"ecg_config": {"feat_extract_norm": "layer"}},
    "joint_outputs": ("logits_per_ecg", "logits_per_text"),
    "base_only": ("text_encoder.", "text_projection.", "text_pooler.", "fusion."),
    "wrong": [
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": "16"}, "hidden_size"),
        ({"hidden_size": 15}, "num_attention_heads"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"ecg_config": 3}, "ecg_config"),
        ({"ecg_config": {"num_leads": 0}}, "num_leads"),
        ({"ecg_config": {"num_attention_heads": 3}}, "num_attention_heads"),
        ({"ecg_config": {"num_conv_pos_embedding_groups": 5}}, "num_conv_pos_embedding_groups"),
        ({"ecg_config": {"conv_kernel": [10, 3]}}, "conv_kernel"),
        ({"ecg_config": {"conv_stride": [4, 2, 2, 0]}}, "conv_stride"),
        ({"ecg_config": {"conv_dim": [], "conv_kernel": [], "conv_stride": []}}, "conv_dim"),
        ({"ecg_config": {"feat_extract_norm": "batch"}}, "feat_extract_norm"),
        ({"ecg_config": {"hidden_act": "rectangle"}}, "hidden_act"),
        ({"ecg_config": {"feat_extract_activation": "rectangle"}}, "feat_extract_activation"),
        ({"cross_modal_config": {"hidden_act": "rectangle"}}, "hidden_act"),
        ({"decoder_config": {"hidden_act": "rectangle"}}, "hidden_act"),
        ({"ecg_config": {"hidden_dropout": 1.5}}, "hidden_dropout"),
        ({"ecg_config": {"layerdrop": -0.1}}, "layerdrop"),
        ({"text_config": {"num_layers": "2"}}, "num_layers"),
        ({"text_config": {"feed_forward_proj": "a-b-c"}}, "feed_forward_proj"),
        ({"cross_modal_config": {"hidden_size": 8}}, "hidden_size"),
        ({"cross_modal_config": {"num_attention_heads": 5}}, "num_attention_heads"),
        ({"decoder_config": {"fusion_layer": 2}}, "fusion_layer"),
        ({"decoder_config": {"fusion_layer": -2}}, "fusion_layer"),
        ({"decoder_config": {"mask_ratio": 1.1}}, "mask_ratio"),
        ({"decoder_config": {"patch_size": 0}}, "patch_size"),
        ({"mem_loss_weight": -1.0}, "mem_loss_weight"),
        ({"text_encoder_uses_mask": "yes"}, "text_encoder_uses_mask"),
        ({"classifier_head": "label_embedding"}, "classifier_head"),
        ({"classifier_hidden_size": 0}, "classifier_hidden_size"),
        ({"classifier_dropout": 1.1}, "classifier_dropout"),
        ({"pos_weight": [1.0, -1.0, 1.0]}, "pos_weight"),
    ],
    "fields": frozenset(
        """classifier_dropout classifier_head classifier_hidden_size cross_modal_config decoder_config ecg_config
        ecg_only etm_loss_weight ets_loss_weight hidden_size id2label initializer_range label2id mem_loss_weight
        mlm_loss_weight model_type pos_weight problem_type text_config text_encoder_uses_mask transformers_version
        vocab_size""".split()
    ),
}
