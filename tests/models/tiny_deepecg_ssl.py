"""The tiny DeepECG-SSL of the checks that every model goes through."""

import torch

from ecg_transformers import DeepECGSSLConfig

SAMPLES = 144
TOKENS = 9


def config(**overrides):
    settings = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": [8, 8, 8, 8],
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 2,
        "mask_time_length": 2,
        "num_codevectors_per_group": 6,
        "codevector_dim": 8,
        "proj_codevector_dim": 8,
        "num_negatives": 4,
        "classifier_num_heads": 2,
        "num_labels": 3,
        "problem_type": "multi_label_classification",
    }
    return DeepECGSSLConfig(**{**settings, **overrides})


def inputs(records, padded=False):
    generator = torch.Generator().manual_seed(1)
    values = {"input_values": torch.randn(records, 12, SAMPLES, generator=generator)}
    if padded:
        mask = torch.ones(records, SAMPLES, dtype=torch.long)
        mask[:, SAMPLES // 2 :] = 0
        values["attention_mask"] = mask
    return values


def labels(auto_class, records):
    generator = torch.Generator().manual_seed(2)
    if auto_class == "AutoModelForPreTraining":
        # The first, the third and the fourth token; for each the other two, one of them twice
        masked = torch.zeros(records, TOKENS, dtype=torch.bool)
        masked[:, [0, 2, 3]] = True
        return {
            "mask_time_indices": masked,
            "negative_indices": torch.tensor([[1, 2, 1], [0, 2, 2], [1, 0, 0]]).expand(records, 3, 3),
            "patient_ids": torch.arange(records) // 2,
            "segments": torch.arange(records) % 2,
        }
    return torch.randint(0, 2, (records, 3), generator=generator).float()


def hold_batch_statistics(model):
    # Gumbel noise depends on the batch that it is drawn for; against logits as large as these it chooses nothing
    if hasattr(model, "quantizer"):
        with torch.no_grad():
            model.quantizer.weight_proj.weight.mul_(1e4)


SETTINGS = {
    "config": config,
    "inputs": inputs,
    "labels": labels,
    "deterministic": {
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "feat_proj_dropout": 0.0,
        "feat_quantizer_dropout": 0.0,
        "classifier_dropout": 0.0,
        "mask_time_prob": 0.0,
    },
    "excluding": frozenset({"contrastive_logits"}),
    "hold_batch_statistics": hold_batch_statistics,
    # Diversity and the contrast of segments are of the batch as a whole
    "additive": {
        "AutoModelForPreTraining": {"mask_time_prob": 0.3, "diversity_loss_weight": 0.0, "cmsc_loss_weight": 0.0}
    },
    # The group norm of the published models takes its statistics over the padding too, and the positional convolution
    # sees it
    "padding_proof": {
        "feat_extract_norm": "layer",
        "num_conv_pos_embeddings": 1,
        "num_conv_pos_embedding_groups": 1,
    },
    "wrong": [
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": "16"}, "hidden_size"),
        ({"num_leads": 0}, "num_leads"),
        ({"num_attention_heads": 3}, "num_attention_heads"),
        ({"num_conv_pos_embedding_groups": 5}, "num_conv_pos_embedding_groups"),
        ({"conv_kernel": [2, 2]}, "conv_kernel"),
        ({"conv_stride": [2, 2, 2, 0]}, "conv_stride"),
        ({"conv_dim": []}, "conv_dim"),
        ({"feat_extract_norm": "batch"}, "feat_extract_norm"),
        ({"hidden_act": "rectangle"}, "hidden_act"),
        ({"feat_extract_activation": "rectangle"}, "feat_extract_activation"),
        ({"layerdrop": -0.1}, "layerdrop"),
        ({"mask_time_prob": 2}, "mask_time_prob"),
        ({"mask_time_length": 0}, "mask_time_length"),
        ({"codevector_dim": 7}, "codevector_dim"),
        ({"num_codevectors_per_group": 0}, "num_codevectors_per_group"),
        ({"num_negatives": 0}, "num_negatives"),
        ({"contrastive_logits_temperature": 0.0}, "contrastive_logits_temperature"),
        ({"cmsc_temperature": -1.0}, "cmsc_temperature"),
        ({"min_gumbel_temperature": 0}, "min_gumbel_temperature"),
        ({"gumbel_temperature_decay": 1.1}, "gumbel_temperature_decay"),
        ({"feature_grad_mult": -0.1}, "feature_grad_mult"),
        ({"diversity_loss_weight": -1.0}, "diversity_loss_weight"),
        ({"feature_penalty_weight": -1.0}, "feature_penalty_weight"),
        ({"cmsc_loss_weight": "1"}, "cmsc_loss_weight"),
        ({"classifier_head": "quadratic"}, "classifier_head"),
        ({"classifier_head": "attentive", "classifier_num_heads": 3}, "classifier_num_heads"),
        ({"classifier_hidden_size": 0}, "classifier_hidden_size"),
        ({"classifier_dropout": 1.1}, "classifier_dropout"),
        ({"pos_weight": [1.0, -1.0, 1.0]}, "pos_weight"),
    ],
    "fields": frozenset(
        """activation_dropout apply_spec_augment attention_dropout classifier_dropout classifier_head
        classifier_hidden_size classifier_num_heads cmsc_loss_weight cmsc_temperature codevector_dim
        contrastive_logits_temperature conv_bias conv_dim conv_kernel conv_stride diversity_loss_weight
        do_stable_layer_norm feat_extract_activation feat_extract_norm feat_proj_dropout feat_quantizer_dropout
        feature_grad_mult feature_penalty_weight gumbel_temperature_decay hidden_act hidden_dropout hidden_size
        id2label initializer_range intermediate_size label2id layer_norm_eps layerdrop mask_time_length
        mask_time_min_masks mask_time_prob max_gumbel_temperature min_gumbel_temperature model_type
        num_attention_heads num_codevector_groups num_codevectors_per_group num_conv_pos_embedding_groups
        num_conv_pos_embeddings num_hidden_layers num_leads num_negatives pos_weight problem_type proj_codevector_dim
        transformers_version""".split()
    ),
}
