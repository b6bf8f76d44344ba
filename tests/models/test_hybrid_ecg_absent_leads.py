"""Hybrid ECG on leads that are absent, records without signal, and values that are not finite."""

import pytest
import torch
from tiny_hybrid_ecg import PATCH, SAMPLES, batch, build, every_layout, every_pooling

from ecg_transformers import HybridECGModel


@every_layout
@every_pooling
def test_any_subset_of_leads(layout, pooling):
    model = build(HybridECGModel, patch_layout=layout, pooling=pooling)
    generator = torch.Generator().manual_seed(4)
    signal = torch.randn(1, 12, SAMPLES, generator=generator)
    whole = model.get_ecg_features(signal)
    for count in range(1, 13):
        chosen = torch.zeros(12, dtype=torch.bool)
        chosen[torch.randperm(12, generator=generator)[:count]] = True
        mask = chosen[None].long()
        features = model.get_ecg_features(signal, lead_mask=mask)
        assert features.isfinite().all()
        # What the other rows hold does not matter, and without the mask they are found where they are constant
        for filling in (float("nan"), 1e6, -3.0):
            other = signal.masked_fill(~chosen[None, :, None], filling)
            assert torch.equal(model.get_ecg_features(other, lead_mask=mask), features)
            if filling == filling:
                assert torch.equal(model.get_ecg_features(other), features)
        if count == 12:
            assert torch.equal(features, whole)
        else:
            assert (features - whole).abs().max() > 1e-3


def test_per_lead_tokens_of_absent_leads_are_as_if_they_were_not_there():
    # A model of fewer leads with the same weights gives the same
    model = build(HybridECGModel, patch_layout="per_lead", pooling="mean")
    leads = [0, 1, 7]
    few = build(HybridECGModel, patch_layout="per_lead", pooling="mean", num_leads=3)
    weights = model.state_dict()
    weights["embeddings.lead_embedding"] = weights["embeddings.lead_embedding"][leads]
    few.load_state_dict(weights)
    signal = batch(2)["input_values"]
    mask = torch.zeros(2, 12).index_fill(1, torch.tensor(leads), 1)
    expected = few.get_ecg_features(signal[:, leads])
    torch.testing.assert_close(model.get_ecg_features(signal, lead_mask=mask), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@every_layout
@every_pooling
def test_values_that_are_not_finite_show(layout, pooling, value):
    model = build(HybridECGModel, patch_layout=layout, pooling=pooling)
    values = batch(3, absent=[(1, 0), (1, 5)])["input_values"]
    clean = model.get_ecg_features(values)
    values[1, 3, 20] = value
    # The lead counts as present, and the others as they did
    assert model.prepare(values)[1][1].tolist() == [lead not in (0, 5) for lead in range(12)]
    features = model.get_ecg_features(values)
    assert features[1].isnan().all()
    torch.testing.assert_close(features[[0, 2]], clean[[0, 2]], atol=1e-6, rtol=0)
    # In padding they mean nothing
    mask = torch.ones(3, SAMPLES, dtype=torch.long)
    mask[1, 16:] = 0
    assert model.get_ecg_features(values, mask).isfinite().all()


def test_values_that_are_not_finite_show_in_the_loss():
    values = batch(3)
    values["input_values"][1, 3] = float("nan")
    assert build()(**values).loss.isnan()


@every_layout
@every_pooling
def test_a_record_without_signal_is_its_class_token_in_any_company(layout, pooling):
    model = build(HybridECGModel, patch_layout=layout, pooling=pooling)
    values = batch(3, padded=True)
    flat = torch.full((1, 12, SAMPLES), 0.7)
    alone = model.get_ecg_features(flat)
    signals = torch.cat([values["input_values"], flat])
    masks = torch.cat([values["attention_mask"], torch.ones(1, SAMPLES, dtype=torch.long)])
    for company in (model.get_ecg_features(signals), model.get_ecg_features(signals, masks)):
        torch.testing.assert_close(company[3:], alone, atol=1e-6, rtol=0)
    # Shorter or longer, there is nothing else in it
    torch.testing.assert_close(model.get_ecg_features(flat[..., :PATCH]), alone, atol=1e-6, rtol=0)
    assert not alone.any() if pooling == "mean" else alone.any()


def test_a_lead_that_an_absent_one_rounds_to_is_absent():
    model = build(HybridECGModel)
    signal = batch(1)["input_values"]
    signal[0, 5] = 1e-6 * signal[0, 5]
    signal[0, 6] *= 1e-3
    assert model.prepare(signal)[1][0].tolist() == [lead != 5 for lead in range(12)]
    # Padding does not tell a lead from a constant
    padded = signal.clone()
    padded[0, 7], padded[0, 7, 100:] = 1.0, 5.0
    mask = (torch.arange(SAMPLES) < 100)[None].long()
    assert model.prepare(padded, mask)[1][0].tolist() == [lead not in (5, 7) for lead in range(12)]


def test_absent_leads_of_a_record_are_absent_in_its_views():
    model = build(patch_layout="per_lead")
    values = batch(2)
    mask = torch.ones(2, 12)
    mask[0, 4] = 0
    before = model(**values, lead_mask=mask)
    values["view_values"][0, :, 4] = torch.randn(2, SAMPLES)
    values["input_values"][0, 4] = torch.randn(SAMPLES)
    after = model(**values, lead_mask=mask)
    for name in ("loss", "view_embeds", "reconstruction"):
        assert torch.equal(after[name], before[name])
    assert model(**values).loss != before.loss


@pytest.mark.parametrize("weight", [0, 1])
@every_layout
def test_leads_that_are_constant_in_a_record_are_absent_in_its_views(layout, weight):
    model = build(patch_layout=layout, reconstruction_loss_weight=weight)
    values = batch(2, absent=[(0, 4)])
    before = model(**values)
    values["view_values"][0, :, 4] = torch.randn(2, SAMPLES)
    assert torch.equal(model(**values).view_embeds, before.view_embeds)
    # Without records the views are all that is known
    if not weight:
        assert not torch.equal(model(view_values=values["view_values"]).view_embeds, before.view_embeds)


def test_a_mask_of_leads_fits_the_views():
    model = build(reconstruction_loss_weight=0)
    with pytest.raises(ValueError, match="`lead_mask` has shape .records, leads., here .2, 12.; got .1, 12."):
        model(view_values=batch(2)["view_values"], lead_mask=torch.ones(1, 12))
