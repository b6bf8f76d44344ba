"""Pretraining in two processes equals pretraining of the joined batch in one."""

import subprocess
import sys

import torch

from ecg_transformers import HubertECGConfig, HubertECGForPreTraining

_PROCESS = """
import datetime, sys
import torch
from torch.nn.parallel import DistributedDataParallel
from ecg_transformers import HubertECGForPreTraining

folder, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=120)
)
model = HubertECGForPreTraining.from_pretrained(folder + "/model").train()
parallel = DistributedDataParallel(model)
output = parallel(**torch.load(f"{folder}/batch-{rank}.pt"))
output.loss.backward()
gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
torch.save(({name: output[name].detach() for name in ("loss", "masked_loss", "unmasked_loss")}, gradients),
           f"{folder}/result-{rank}.pt")
torch.distributed.destroy_process_group()
"""


def build():
    torch.manual_seed(0)
    dropouts = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout")
    config = HubertECGConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        classifier_proj_size=8,
        conv_dim=[8, 8],
        conv_kernel=[8, 4],
        conv_stride=[8, 4],
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        vocab_sizes=[5, 7],
        alpha=0.8,
        layerdrop=0.0,
        **dict.fromkeys(dropouts, 0.0),
    )
    return HubertECGForPreTraining(config)


def batch():
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 5, (5, 2, 10), generator=generator)
    # The records differ in how many tokens are known and masked
    labels[3, :, 4:] = -100
    masked = torch.rand(5, 10, generator=generator) < torch.linspace(0.1, 0.9, 5)[:, None]
    return {
        "input_values": torch.randn(5, 320, generator=generator),
        "mask_time_indices": masked,
        "labels": labels,
    }


def test_two_processes_equal_one(tmp_path):
    model, whole = build(), batch()
    model.save_pretrained(tmp_path / "model")
    for rank, rows in enumerate((slice(0, 2), slice(2, None))):
        torch.save({name: value[rows] for name, value in whole.items()}, tmp_path / f"batch-{rank}.pt")
    processes = [
        subprocess.Popen([sys.executable, "-c", _PROCESS, tmp_path, str(rank)], stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors

    model = HubertECGForPreTraining.from_pretrained(tmp_path / "model").train()
    expected = model(**whole)
    expected.loss.backward()
    for rank in (0, 1):
        values, gradients = torch.load(tmp_path / f"result-{rank}.pt")
        for name, value in values.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                gradients[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: n + m
            )
    # The parts on their own would have given something else
    parts = [model(**torch.load(tmp_path / f"batch-{rank}.pt")).loss for rank in (0, 1)]
    assert (sum(parts) / 2 - expected.loss).abs() > 1e-3
