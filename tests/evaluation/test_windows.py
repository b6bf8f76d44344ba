import numpy as np
import pytest
import torch

from ecg_transformers.evaluation import aggregate_windows


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("method", ["mean", "max"])
def test_golden_crops(golden, method, kind):
    expected = np.load(golden / "hubert_ecg" / "tta" / "outputs.npz")
    crops = expected["probabilities_per_crop"]
    values = crops.reshape(-1, crops.shape[-1])
    index = np.tile(np.arange(crops.shape[1]), crops.shape[0])
    if kind == "torch":
        result = aggregate_windows(torch.tensor(values), torch.tensor(index), method).numpy()
    else:
        result = aggregate_windows(values, index, method)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected[f"probabilities_{method}"], atol=2e-5)


@pytest.mark.parametrize("shape", [(), (3,), (3, 2)])
@pytest.mark.parametrize("method", ["mean", "max"])
def test_uneven_windows_in_any_order(method, shape):
    rng = np.random.default_rng(0)
    index = rng.permutation(np.repeat(np.arange(5), [1, 4, 2, 3, 1]))
    values = rng.random((len(index), *shape))
    expected = np.stack([getattr(values[index == record], method)(axis=0) for record in range(5)])
    np.testing.assert_allclose(aggregate_windows(values, index, method), expected)
    np.testing.assert_allclose(aggregate_windows(torch.tensor(values), index.tolist(), method).numpy(), expected)


def test_tensors_keep_dtype_and_gradient():
    values = torch.tensor([[1.0], [3.0], [5.0]], dtype=torch.bfloat16, requires_grad=True)
    result = aggregate_windows(values, torch.tensor([0, 0, 1]))
    assert result.dtype == torch.bfloat16
    result.sum().backward()
    assert values.grad.flatten().tolist() == [0.5, 0.5, 1.0]


def test_mean_of_whole_numbers_is_no_whole_number():
    assert aggregate_windows(np.array([1, 2]), [0, 0]).tolist() == [1.5]
    assert aggregate_windows(torch.tensor([1, 2]), [0, 0]).tolist() == [1.5]


@pytest.mark.parametrize(
    ("index", "method", "message"),
    [
        ([0, 0, 1], "median", "'mean' or 'max'"),
        ([0, 1], "mean", "one recording per row"),
        ([0, 2, 2], "mean", "some have no window"),
        ([-1, 0, 0], "mean", "whole numbers"),
        ([0.0, 0.0, 1.0], "mean", "whole numbers"),
        ([0, 1, 10**15], "mean", "some have no window"),
    ],
)
def test_bad_input_is_explained(index, method, message):
    with pytest.raises(ValueError, match=message):
        aggregate_windows(np.zeros((3, 2)), index, method)
