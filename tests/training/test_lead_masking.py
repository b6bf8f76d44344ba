import math

import pytest
import torch

from ecg_transformers.training.lead_masking import mask_leads
from ecg_transformers.training.row_randomness import row_uniforms


def test_whole_leads_go_as_the_numbers_say():
    values = torch.randn(3, 12, 40)
    uniforms = torch.rand(3, 12)
    masked = mask_leads(values, 0.5, uniforms=uniforms)
    expected = values * (uniforms >= 0.5)[..., None]
    assert torch.equal(masked, expected) and not torch.equal(masked, values)
    assert (uniforms < 0.5).any() and masked is not values


def test_share_of_masked_leads():
    generator = torch.Generator().manual_seed(0)
    masked = mask_leads(torch.ones(2000, 12, 1), 0.3, generator=generator)
    assert (masked == 0).float().mean() == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / 24000))
    again = mask_leads(torch.ones(2000, 12, 1), 0.3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(masked, again)


def test_all_leads_can_go_unless_one_is_kept():
    values = torch.ones(2, 12, 5)
    uniforms = torch.full((2, 12), 0.1)
    uniforms[0, 7] = 0.2
    uniforms[1, 3] = 0.9
    assert mask_leads(values, uniforms=uniforms)[0].sum() == 0
    kept = mask_leads(values, uniforms=uniforms, keep_one=True)
    assert kept[0].sum(-1).nonzero().flatten().tolist() == [7]
    assert kept[1].sum(-1).nonzero().flatten().tolist() == [3]


def test_limits():
    values = torch.randn(2, 12, 5)
    assert torch.equal(mask_leads(values, 0.0), values)
    assert mask_leads(values, 1.0).abs().sum() == 0
    values[0, 2, 1] = math.nan
    assert not mask_leads(values, 1.0).isnan().any()
    with pytest.raises(ValueError, match="lies in"):
        mask_leads(values, 1.5)
    with pytest.raises(ValueError, match="records, leads, samples"):
        mask_leads(torch.randn(2, 60))
    with pytest.raises(ValueError, match="shape"):
        mask_leads(values, uniforms=torch.rand(3, 12))


def test_numbers_of_a_row_belong_to_its_seed():
    together = row_uniforms([3, 4, 5], "leads", 12)
    assert together.shape == (3, 12) and together.dtype == torch.float32
    assert torch.equal(row_uniforms([4], "leads", 12)[0], together[1])
    assert not torch.equal(row_uniforms([4], "tokens", 12)[0], together[1])
    longer = row_uniforms([4], "leads", 30)
    assert torch.equal(longer[0, :12], together[1])
    assert torch.equal(row_uniforms([9], "tokens", 20, 3)[:, :7], row_uniforms([9], "tokens", 7, 3))
    assert row_uniforms([1, 2], "swap").shape == (2,)
    assert row_uniforms([], "swap").shape == (0,)
    assert 0.45 < row_uniforms(range(100), "x", 100).mean() < 0.55
