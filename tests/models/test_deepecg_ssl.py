"""What is particular to DeepECG-SSL: geometries, token masks, heads, and the losses of its pretraining."""

import json

import deepecg_ssl_reference as reference
import pytest
import torch
from tiny_deepecg_ssl import SAMPLES, SETTINGS, TOKENS
from tiny_deepecg_ssl import config as tiny_config
from tiny_deepecg_ssl import inputs as tiny_inputs
from torch.nn import functional as F

from ecg_transformers import (
    DeepECGSSLConfig,
    DeepECGSSLForPreTraining,
    DeepECGSSLForSequenceClassification,
    DeepECGSSLModel,
)
from ecg_transformers.models.deepecg_ssl.modeling_deepecg_ssl import draw_negatives, draw_span_mask

QUIET = SETTINGS["deterministic"]
GEOMETRIES = {
    "tiny": {},
    "no_projection": {"hidden_size": 8, "num_conv_pos_embeddings": 5},
    "other_convolutions": {
        "conv_dim": [6, 10, 4],
        "conv_kernel": [5, 3, 2],
        "conv_stride": [3, 2, 2],
        "conv_bias": True,
        "num_conv_pos_embeddings": 7,
    },
    "one_convolution": {"conv_dim": [12], "conv_kernel": [16], "conv_stride": [16], "num_conv_pos_embeddings": 1},
    "layer_norms": {"feat_extract_norm": "layer", "conv_bias": True, "num_conv_pos_embedding_groups": 4},
    "norms_first": {"do_stable_layer_norm": True, "num_attention_heads": 4, "num_conv_pos_embeddings": 3},
    "one_head_eight_leads": {"num_attention_heads": 1, "num_leads": 8, "num_hidden_layers": 1},
    "everything": {
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "hidden_size": 24,
        "conv_dim": [8, 8, 24],
        "conv_kernel": [3, 2, 2],
        "conv_stride": [2, 2, 2],
        "num_conv_pos_embedding_groups": 3,
        "num_attention_heads": 3,
        "num_hidden_layers": 3,
        "num_conv_pos_embeddings": 16,
    },
}
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES.keys())


def build(model_class, seed=0, **overrides):
    torch.manual_seed(seed)
    model = model_class(tiny_config(**overrides)).eval()
    # Gains and offsets of new norms are 1 and 0, which would hide errors
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1 or parameter.numel() == parameter.shape[-1]:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def weights_of(module):
    return {name: value for name, value in module.state_dict(keep_vars=True).items()}


def records(count, leads=12, samples=SAMPLES, seed=3):
    return torch.randn(count, leads, samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Sizes


def test_full_size():
    with torch.device("meta"):
        encoder = DeepECGSSLModel(DeepECGSSLConfig.from_size("base"))
        pretraining = DeepECGSSLForPreTraining(DeepECGSSLConfig())
        classifier = DeepECGSSLForSequenceClassification(DeepECGSSLConfig(num_labels=77, mask_time_prob=0))
        features = encoder(torch.empty(1, 12, 2500)).last_hidden_state
    count = {
        model: sum(parameter.numel() for parameter in model.parameters())
        for model in (encoder, pretraining, classifier)
    }
    assert count[encoder] == 90_374_016
    assert count[pretraining] == 90_883_072
    assert count[classifier] == 90_374_016 - 768 + 77 * 769
    assert features.shape == (1, 156, 768)
    with pytest.raises(ValueError, match="base"):
        DeepECGSSLConfig.from_size("tiny")
    assert DeepECGSSLConfig.from_size("base", layerdrop=0.2).layerdrop == 0.2


# The encoder


@every_geometry
@pytest.mark.parametrize("seed", [0, 1])
def test_encoder_against_the_reference(geometry, seed):
    model = build(DeepECGSSLModel, seed, **geometry).double()
    config = model.config
    values = records(3, config.num_leads)
    lengths = [SAMPLES, SAMPLES // 2 + 5, config.receptive_field]
    mask = torch.zeros(3, SAMPLES)
    for row, length in enumerate(lengths):
        values[row, :, length:] = 0
        mask[row, :length] = 1
    with torch.no_grad():
        plain, padded = model(values), model(values, attention_mask=mask)
        pooled = model.get_ecg_features(values, mask)
        for row, length in enumerate(lengths):
            x, features, states = reference.encode(values[row], config, weights_of(model))
            torch.testing.assert_close(plain.last_hidden_state[row], x)
            torch.testing.assert_close(plain.extract_features[row], features)
            torch.testing.assert_close(plain.conv_states[row], states)
            x, _, _ = reference.encode(values[row], config, weights_of(model), length)
            assert model.get_token_mask(mask)[row].sum() == reference.token_count(length, config) > 0
            torch.testing.assert_close(padded.last_hidden_state[row], x)
            torch.testing.assert_close(pooled[row], reference.pool(x, config, length))
    assert (model.feature_projection.projection is None) == (config.conv_dim[-1] == config.hidden_size)


@pytest.mark.parametrize("head", ["linear", "mlp", "attentive"])
@pytest.mark.parametrize("size", [None, 6])
def test_heads_against_the_reference(head, size):
    model = build(DeepECGSSLForSequenceClassification, classifier_head=head, classifier_hidden_size=size).double()
    config = model.config
    values = records(2)
    values[1, :, 100:] = 0
    mask = torch.ones(2, SAMPLES)
    mask[1, 100:] = 0
    base = weights_of(model.deepecg_ssl)
    with torch.no_grad():
        logits = model(values, attention_mask=mask).logits
        for row, length in enumerate((SAMPLES, 100)):
            x, _, _ = reference.encode(values[row], config, base, length)
            if head == "attentive":
                expected = reference.attentive_head(x, config, weights_of(model.classifier), length)
            else:
                expected = reference.pool(x, config, length)
                if head == "mlp":
                    inner = torch.tanh(reference.linear(expected, weights_of(model.classifier), "0"))
                    assert inner.shape == (size or 16,)
                    expected = reference.linear(inner, weights_of(model.classifier), "2")
                else:
                    expected = reference.linear(expected, weights_of(model), "classifier")
            torch.testing.assert_close(logits[row], expected)


def test_pooling_divides_by_what_is_not_zero():
    model = build(DeepECGSSLModel)
    states = torch.tensor([[1.0, 0.0, -2.0], [3.0, 0.0, 0.0], [5.0, 0.0, 4.0]])[None]
    torch.testing.assert_close(model.pool_tokens(states), torch.tensor([[3.0, 0.0, 1.0]]))


def test_a_blank_record_is_safe():
    for head in ("linear", "mlp", "attentive"):
        model = build(DeepECGSSLForSequenceClassification, classifier_head=head)
        values = tiny_inputs(2)["input_values"]
        mask = torch.ones(2, SAMPLES)
        mask[0] = 0
        with torch.no_grad():
            first = model(values, attention_mask=mask).logits
            second = model(values.flip(1), attention_mask=mask).logits
            alone = model(values[1:]).logits
        assert first.isfinite().all()
        assert torch.equal(first[0], second[0])
        assert not torch.equal(first[1], second[1])
        torch.testing.assert_close(first[1:], alone, atol=1e-5, rtol=0)
        if head == "linear":
            torch.testing.assert_close(first[0], model.classifier.bias)


@pytest.mark.parametrize("head", ["linear", "attentive"])
def test_a_padded_record_alone_and_in_company(head):
    model = build(DeepECGSSLForSequenceClassification, classifier_head=head)
    values = tiny_inputs(4)["input_values"]
    mask = torch.ones(4, SAMPLES, dtype=torch.long)
    mask[1, 90:] = mask[3, 40:] = 0
    with torch.no_grad():
        together = model(values, attention_mask=mask).logits.sigmoid()
        for row in range(4):
            alone = model(values[row : row + 1], attention_mask=mask[row : row + 1]).logits.sigmoid()
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)
        # Whatever stands where nothing was recorded
        for filling in (0.0, 1e6, torch.nan):
            filled = values.masked_fill(mask[:, None] == 0, filling)
            torch.testing.assert_close(model(filled, attention_mask=mask).logits.sigmoid(), together)
        unmasked = model(values[:1]).logits.sigmoid()
    torch.testing.assert_close(together[:1], unmasked, atol=1e-5, rtol=0)


def test_token_masks_are_positional():
    for geometry in GEOMETRIES.values():
        model = build(DeepECGSSLModel, **geometry)
        generator = torch.Generator().manual_seed(0)
        masks = torch.ones(5, SAMPLES, dtype=torch.long)
        masks[1, 70:] = 0
        masks[2, :30] = 0
        masks[3] = (torch.rand(SAMPLES, generator=generator) > 0.03).long()
        masks[4] = 0
        field, step = model.config.receptive_field, int(torch.tensor(model.config.conv_stride).prod())
        tokens = reference.token_count(SAMPLES, model.config)
        expected = torch.tensor(
            [[bool(row[step * token : step * token + field].all()) for token in range(tokens)] for row in masks]
        )
        for dtype in (torch.long, torch.bool, torch.float32):
            assert torch.equal(model.get_token_mask(masks.to(dtype)), expected)


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"input_values": torch.zeros(1, 144)}, r"\(records, 12 leads, samples\).*\(1, 144\)"),
        ({"input_values": torch.zeros(1, 8, 144)}, r"12 leads.*\(1, 8, 144\)"),
        ({"input_values": torch.zeros(1, 12, 15)}, "15 samples; one token needs 16"),
        ({"input_values": torch.zeros(2, 12, 144), "attention_mask": torch.ones(2, 9)}, "attention_mask"),
        ({"input_values": torch.zeros(2, 12, 144), "attention_mask": torch.ones(1, 144)}, "attention_mask"),
        ({"input_values": torch.zeros(1, 12, 144), "mask_time_indices": torch.ones(1, 8)}, "mask_time_indices"),
    ],
)
def test_inputs_of_the_wrong_shape(inputs, message):
    for model_class in (DeepECGSSLModel, DeepECGSSLForPreTraining, DeepECGSSLForSequenceClassification):
        with pytest.raises(ValueError, match=message):
            build(model_class)(**inputs)


def test_when_tokens_are_masked():
    chosen = torch.zeros(2, TOKENS, dtype=torch.bool)
    chosen[:, 3] = True
    values = tiny_inputs(2)["input_values"]
    for model_class in (DeepECGSSLModel, DeepECGSSLForSequenceClassification):
        model = build(model_class, **QUIET | {"mask_time_prob": 0.5})
        with torch.no_grad():
            plain = model(values)[0]
            explicit = model(values, mask_time_indices=chosen)[0]
            assert not torch.equal(plain, explicit)
            # Only pretraining masks by itself
            assert torch.equal(model.train()(values)[0], plain)
            model.config.apply_spec_augment = True
            assert not torch.equal(model(values)[0], plain)
            assert torch.equal(model(values, mask_time_indices=chosen.long())[0], explicit)
        with pytest.raises(ValueError, match="mask_time_prob"):
            build(model_class, mask_time_prob=0.0)(values, mask_time_indices=chosen)


def test_layerdrop_skips_layers():
    model = build(DeepECGSSLModel, **QUIET | {"layerdrop": 1.0}).train()
    values = tiny_inputs(1)["input_values"]
    dropped = model(values).last_hidden_state
    expected = model.eval()(values, output_hidden_states=True).hidden_states[0]
    torch.testing.assert_close(dropped, expected)


# Drawn masks and negatives


def runs(row):
    """Lengths of the masked stretches of a row."""
    edges = F.pad(row.int(), (1, 1)).diff()
    return ((edges == -1).nonzero() - (edges == 1).nonzero()).flatten()


def test_drawn_spans():
    torch.manual_seed(0)
    real = torch.ones(400, 156, dtype=torch.bool)
    mask = draw_span_mask(real, 0.65)
    counts = mask.sum(dim=1)
    assert counts.unique().numel() == 1
    # 10 or 11 spans of 10 that overlap at random cover a little less than half; the smallest of 400 is below that
    assert 40 <= counts[0] <= 75
    share = mask.float().mean(dim=0)
    assert share[20:130].std() < 0.05 and share[0] > 0 and share[-1] > 0

    one = draw_span_mask(real[:1], 0.65)
    assert runs(one[0]).min() >= 10
    assert not torch.equal(one, draw_span_mask(real[:1], 0.65))
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    first, second = (draw_span_mask(real[:4], 0.3, 4, generator=generator) for generator in generators)
    assert torch.equal(first, second)
    # The global random numbers were left alone
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    draw_span_mask(real[:2], 0.3, generator=torch.Generator())
    assert torch.equal(torch.rand(3), expected)


def test_drawn_spans_stay_on_real_tokens():
    torch.manual_seed(0)
    real = torch.ones(6, 60, dtype=torch.bool)
    real[1, 40:] = False
    real[2, :25] = False
    real[3, 5:] = False
    real[4] = False
    real[5] = False
    real[5, 7] = True
    for _ in range(20):
        mask = draw_span_mask(real, 0.5, 8)
        assert not (mask & ~real).any()
        counts = mask.sum(dim=1).tolist()
        # The record of five tokens decides; those with nothing to contrast are left out
        assert counts[0] == counts[1] == counts[2] == counts[3] <= 5 and counts[3] >= 2
        assert counts[4] == counts[5] == 0
    # At least two spans, however small the share
    assert draw_span_mask(real[:1], 0.0, 5).sum() >= 6
    assert not draw_span_mask(real[4:], 0.5).any()


@pytest.mark.parametrize("min_spans", [1, 3])
def test_number_of_spans(min_spans):
    # Spans of one token do not overlap, so their number is seen
    torch.manual_seed(0)
    real = torch.ones(3, 50, dtype=torch.bool)
    real[1:, 20:] = False
    counts = {draw_span_mask(real, 0.07, 1, min_spans).sum(dim=1)[0].item() for _ in range(50)}
    assert counts == ({1, 2} if min_spans == 1 else {3})
    whole = {draw_span_mask(real[:1], 0.07, 1, min_spans).sum().item() for _ in range(50)}
    assert whole == {3, 4}


def test_drawn_negatives():
    torch.manual_seed(0)
    drawn = draw_negatives(torch.tensor([6, 3, 1, 0]), 4000)
    assert drawn.shape == (4, 6, 4000)
    for row, count in enumerate((6, 3)):
        for place in range(count):
            shares = torch.bincount(drawn[row, place], minlength=count) / 4000
            expected = torch.full((count,), 1 / (count - 1))
            expected[place] = 0
            torch.testing.assert_close(shares, expected, atol=0.05, rtol=0)
            assert shares[place] == 0
    assert (drawn[1, 3:] == -1).all() and (drawn[2:] == -1).all()
    assert draw_negatives(torch.zeros(2, dtype=torch.long), 5).shape == (2, 0, 5)


# Losses of the pretraining


def pretraining_batch(model, seed=0):
    """Records of three patients, one of them with three, padded, with as many masked tokens each."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    values = records(7, config.num_leads, seed=seed + 10)
    lengths = [SAMPLES] * 5 + [110, 100]
    attention_mask = torch.ones(7, SAMPLES)
    for row, length in enumerate(lengths):
        attention_mask[row, length:] = 0
        values[row, :, length:] = 0
    token_mask = model.get_token_mask(attention_mask)
    masks = draw_span_mask(token_mask, 0.6, 2, generator=generator)
    negatives = draw_negatives(masks.sum(dim=1), 3, generator)
    arguments = {
        "input_values": values,
        "attention_mask": attention_mask,
        "mask_time_indices": masks,
        "negative_indices": negatives,
        "patient_ids": torch.tensor([5, 5, 9, 9, 5, 2, 2]),
        "segments": torch.tensor([0, 1, 0, 1, 1, 0, 1]),
    }
    return arguments, lengths


CODEBOOKS = {
    "two": {},
    "one": {"num_codevector_groups": 1, "num_codevectors_per_group": 3},
    "four": {"num_codevector_groups": 4, "num_codevectors_per_group": 2, "proj_codevector_dim": 5},
    "weights": {
        "diversity_loss_weight": 3.0,
        "feature_penalty_weight": 0.5,
        "cmsc_loss_weight": 0.25,
        "cmsc_temperature": 0.7,
        "contrastive_logits_temperature": 0.3,
        "feature_grad_mult": 0.6,
    },
    "frozen_convolutions": {"feature_grad_mult": 0.0},
    "full_gradients": {"feature_grad_mult": 1.0},
}


@pytest.mark.parametrize("overrides", [*CODEBOOKS.values(), *GEOMETRIES.values()], ids=[*CODEBOOKS, *GEOMETRIES])
@pytest.mark.parametrize("seed", [0, 1])
def test_pretraining_against_the_reference(overrides, seed):
    model = build(DeepECGSSLForPreTraining, seed, **overrides).double()
    arguments, lengths = pretraining_batch(model, seed)
    output = model(**arguments)
    output.loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    lists = [arguments[name] for name in ("mask_time_indices", "negative_indices")]
    expected, count = reference.pretraining(
        arguments["input_values"],
        lengths,
        *lists,
        arguments["patient_ids"].tolist(),
        arguments["segments"].tolist(),
        model.config,
        weights_of(model),
    )
    assert output.num_masked == count > 7
    for name, value in expected.items():
        torch.testing.assert_close(output[name], value, rtol=1e-6, atol=1e-9, check_dtype=False)
    expected["loss"].backward()
    for name, parameter in model.named_parameters():
        wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradients[name], wanted, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: n + text)


def test_masked_tokens_of_different_numbers():
    model = build(DeepECGSSLForPreTraining).double()
    arguments, lengths = pretraining_batch(model)
    masks = arguments["mask_time_indices"]
    masks[0] = False
    masks[0, [1, 4]] = True
    masks[2] = True
    arguments["negative_indices"] = draw_negatives(masks.sum(dim=1), 5)
    output = model(**arguments)
    expected, count = reference.pretraining(
        arguments["input_values"],
        lengths,
        masks,
        arguments["negative_indices"],
        arguments["patient_ids"].tolist(),
        arguments["segments"].tolist(),
        model.config,
        weights_of(model),
    )
    assert output.num_masked == count == masks.sum()
    for name, value in expected.items():
        torch.testing.assert_close(output[name], value, rtol=1e-6, atol=1e-9, check_dtype=False)


def test_masked_tokens_that_are_not_real_do_not_count():
    model = build(DeepECGSSLForPreTraining)
    arguments, _ = pretraining_batch(model)
    arguments["input_values"] = arguments["input_values"].float()
    blank = {name: value.clone() for name, value in arguments.items()}
    blank["attention_mask"][0] = 0
    blank["patient_ids"][0] = 77
    output = model(**blank)
    assert output.num_masked == arguments["mask_time_indices"][1:].sum()
    others = {name: value[1:] for name, value in arguments.items()}
    torch.testing.assert_close(output.contrastive_loss, model(**others).contrastive_loss)
    torch.testing.assert_close(output.code_perplexity, model(**others).code_perplexity)


def test_one_masked_token_has_nothing_to_contrast_with():
    model = build(DeepECGSSLForPreTraining).train()
    values = tiny_inputs(2)["input_values"]
    for masked in (0, 1):
        masks = torch.zeros(2, TOKENS, dtype=torch.bool)
        masks[:, :masked] = True
        output = model(values, mask_time_indices=masks)
        assert output.contrastive_loss == 0 and output.loss.isfinite() and output.num_masked == 2 * masked
        output.loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_pretraining_draws_in_training_only():
    model = build(DeepECGSSLForPreTraining, mask_time_prob=0.5)
    inputs = tiny_inputs(3, padded=True)
    with torch.no_grad():
        first, second = model(**inputs), model(**inputs)
    assert first.loss is None and torch.equal(first.projected_states, second.projected_states)
    assert first.projected_states.shape == first.projected_quantized_states.shape == (3, TOKENS, 8)
    seen = []
    model.deepecg_ssl.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["mask_time_indices"]), with_kwargs=True
    )
    model.train()
    output = model(**inputs)
    assert output.loss is not None and output.cmsc_loss is None
    assert output.contrastive_logits.shape == (3, int(seen[0][0].sum()), 5)
    assert seen[0].any() and not (seen[0] & ~model.get_token_mask(inputs["attention_mask"])).any()
    torch.manual_seed(3)
    first = model(**inputs).loss
    torch.manual_seed(3)
    assert torch.equal(model(**inputs).loss, first)
    with pytest.raises(ValueError, match="mask_time_prob"):
        build(DeepECGSSLForPreTraining, mask_time_prob=0.0).train()(**inputs)


def test_gumbel_softmax():
    model = build(DeepECGSSLForPreTraining, **QUIET | {"mask_time_prob": 0.5}).train()
    quantizer = model.quantizer
    assert quantizer.temperature == 2.0
    model.set_gumbel_temperature(0.7)
    assert quantizer.temperature == 0.7
    features = torch.randn(4000, 8)
    vectors, codes, probabilities, best = quantizer(features)
    # Chosen codes follow the probabilities, each vector is that of its codes, and the choice passes gradients on
    book = quantizer.codevectors.view(2, 6, 4)
    torch.testing.assert_close(vectors, torch.cat([book[group][codes[:, group]] for group in (0, 1)], dim=1))
    shares = torch.stack([torch.bincount(codes[:, group], minlength=6) / 4000 for group in (0, 1)])
    torch.testing.assert_close(shares, probabilities.mean(dim=0), atol=0.03, rtol=0)
    assert not torch.equal(codes, best.argmax(dim=-1))
    vectors.sum().backward()
    assert quantizer.weight_proj.weight.grad.abs().max() > 0
    model.eval()
    assert torch.equal(quantizer(features)[1], best.argmax(dim=-1))


def test_pairs_without_a_match():
    model = build(DeepECGSSLForPreTraining)
    arguments, _ = pretraining_batch(model)
    arguments["input_values"] = arguments["input_values"].float()
    for ids, segments in (([0, 1, 2, 3, 4, 5, 6], [0, 1, 0, 1, 0, 1, 0]), ([0] * 7, [0] * 7)):
        output = model(**arguments | {"patient_ids": torch.tensor(ids), "segments": torch.tensor(segments)})
        assert output.cmsc_loss == 0
        output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"segments": None}, "come together"),
        ({"patient_ids": None}, "come together"),
        ({"segments": torch.tensor([0, 1, 2, 1, 0, 0, 1])}, r"0 or 1.*\[0, 1, 2\]"),
        ({"patient_ids": torch.arange(6)}, "patient_ids.*7 records.*6"),
        ({"negative_indices": torch.zeros(7, 3, dtype=torch.long)}, "negative_indices.*masked tokens"),
        ({"negative_indices": torch.full((7, 2, 3), 9)}, "negative_indices"),
    ],
)
def test_pretraining_arguments_that_do_not_fit(changes, message):
    model = build(DeepECGSSLForPreTraining)
    arguments, _ = pretraining_batch(model)
    arguments["input_values"] = arguments["input_values"].float()
    with pytest.raises(ValueError, match=message):
        model(**arguments | changes)


def test_the_loss_under_autocast_is_that_of_single_precision():
    model = build(DeepECGSSLForPreTraining)
    arguments, _ = pretraining_batch(model)
    arguments["input_values"] = arguments["input_values"].float()
    with torch.no_grad():
        expected = model(**arguments)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(**arguments)
    assert output.loss.dtype == torch.float32
    for name in ("feature_penalty", "cmsc_loss", "diversity_loss"):
        torch.testing.assert_close(output[name], expected[name], rtol=0.02, atol=0.01)


# Classification


def classifier(**overrides):
    return build(DeepECGSSLForSequenceClassification, **overrides)


def test_multi_label_loss_with_unknown_labels():
    weights = [1.0, 2.0, 5.0]
    model = classifier(pos_weight=weights)
    inputs = tiny_inputs(4)
    labels = torch.tensor([[0.0, 1, 0], [1, 1, 1], [0, 0, 0], [0, 1, 1]])
    each = F.binary_cross_entropy_with_logits(
        model(**inputs).logits, labels, pos_weight=torch.tensor(weights), reduction="none"
    )
    for dtype in (torch.float32, torch.float64, torch.long, torch.bool):
        torch.testing.assert_close(model(**inputs, labels=labels.to(dtype)).loss, each.mean())
    unknown = labels.clone()
    unknown[0, 1] = unknown[2] = torch.nan
    loss = model(**inputs, labels=unknown).loss
    torch.testing.assert_close(loss, each[~unknown.isnan()].mean())
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model(**inputs, labels=torch.full((4, 3), torch.nan)).loss == 0


def test_single_label_and_regression_losses():
    model = classifier(problem_type="single_label_classification")
    inputs = tiny_inputs(4)
    labels = torch.tensor([2, -100, 0, 1])
    expected = F.cross_entropy(model(**inputs).logits, labels)
    torch.testing.assert_close(model(**inputs, labels=labels).loss, expected)
    as_numbers = torch.where(labels == -100, torch.nan, labels.float())
    torch.testing.assert_close(model(**inputs, labels=as_numbers).loss, expected)
    model = classifier(problem_type="regression", num_labels=1)
    targets = torch.tensor([0.5, torch.nan, -1.0, 2.0])
    known = ~targets.isnan()
    expected = F.mse_loss(model(**inputs).logits[known, 0], targets[known])
    torch.testing.assert_close(model(**inputs, labels=targets).loss, expected)


@pytest.mark.parametrize(
    "num_labels, labels, inferred",
    [
        (1, torch.zeros(2), "regression"),
        (3, torch.zeros(2, dtype=torch.long), "single_label_classification"),
        (3, torch.zeros(2, 3), "multi_label_classification"),
    ],
)
def test_the_problem_type_follows_from_the_labels(num_labels, labels, inferred):
    model = classifier(problem_type=None, num_labels=num_labels)
    model(**tiny_inputs(2), labels=labels)
    assert model.config.problem_type == inferred


def test_labels_that_do_not_fit():
    for problem_type, labels in (
        ("multi_label_classification", torch.zeros(2, 4)),
        ("single_label_classification", torch.zeros(2, 3, dtype=torch.long)),
        ("regression", torch.zeros(2)),
    ):
        with pytest.raises(ValueError, match=problem_type):
            classifier(problem_type=problem_type)(**tiny_inputs(2), labels=labels)
    with pytest.raises(ValueError, match="pos_weight.*3 labels.*2"):
        classifier(pos_weight=[1.0, 2.0])


@pytest.mark.parametrize("head", ["linear", "mlp", "attentive"])
def test_freezing(head):
    model = classifier(**QUIET, classifier_head=head).train()
    model.freeze_feature_encoder()
    model(**tiny_inputs(2), labels=torch.zeros(2, 3)).loss.backward()
    assert all(p.grad is None for p in model.deepecg_ssl.feature_extractor.parameters())
    assert all(p.grad is not None for p in model.deepecg_ssl.encoder.layers.parameters())
    model = classifier(**QUIET, classifier_head=head).train()
    model.freeze_base_model()
    model(**tiny_inputs(2), labels=torch.zeros(2, 3)).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained and all(name.startswith("classifier.") for name in trained)
    pretraining = build(DeepECGSSLForPreTraining)
    pretraining.freeze_base_model()
    assert {name.split(".")[0] for name, p in pretraining.named_parameters() if p.requires_grad} == {
        "quantizer",
        "project_q",
        "project_hid",
    }


def test_code_files_named_in_a_configuration_are_forgotten(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({**tiny_config().to_dict(), "auto_map": {"AutoConfig": "x.Config"}})
    )
    assert not hasattr(DeepECGSSLConfig.from_pretrained(tmp_path), "auto_map")
