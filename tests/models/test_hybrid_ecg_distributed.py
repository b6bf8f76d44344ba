"""Losses and gradients of two processes are those of one process with the joined batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_hybrid_ecg
import torch

from ecg_transformers import HybridECGForPreTraining

LOSSES = ("loss", "reconstruction_loss", "contrastive_loss")
# Records of each process; both differ in real samples, hence in masked tokens, and in missing leads
PARTS = {0: slice(0, 2), 1: slice(2, 5)}
LAYOUTS = ("all_leads", "per_lead")


def build(layout):
    torch.manual_seed(0)
    config = tiny_hybrid_ecg.config(patch_layout=layout, contrastive_loss_weight=2.0, pooling="mean")
    return HybridECGForPreTraining(config)


def batch(layout):
    values = tiny_hybrid_ecg.inputs(5, padded=True)
    values["attention_mask"][2:4] = 1
    values["input_values"][3, 5] = 0
    tokens = build(layout).config.count_tokens(tiny_hybrid_ecg.SAMPLES)
    values["noise"] = torch.rand(5, tokens, generator=torch.Generator().manual_seed(3))
    return values


def worker(folder, rank):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=len(PARTS)
    )
    for layout in LAYOUTS:
        model = build(layout)
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        part = {name: value[PARTS[rank]] for name, value in batch(layout).items()}
        result = parallel.train()(**part)
        result.loss.backward()
        with torch.no_grad():
            alone = model.eval()(**part)
        torch.save(
            {
                "losses": {name: result[name].detach() for name in LOSSES},
                "gradients": {name: parameter.grad for name, parameter in model.named_parameters()},
                "alone": {name: alone[name] for name in LOSSES},
            },
            f"{folder}/{layout}-{rank}.pt",
        )
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one_with_the_joined_batch(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    root = Path(__file__).resolve().parents[2]
    places = [str(root), str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(places)
    processes = [
        subprocess.Popen([sys.executable, __file__, str(tmp_path), str(rank)], env=environment, stderr=subprocess.PIPE)
        for rank in PARTS
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()

    for layout in LAYOUTS:
        model, inputs = build(layout).train(), batch(layout)
        joined = model(**inputs)
        joined.loss.backward()
        masked = joined.mask.sum(dim=1)
        assert masked[PARTS[0]].sum() / 2 != masked[PARTS[1]].sum() / 3
        for rank in PARTS:
            result = torch.load(tmp_path / f"{layout}-{rank}.pt")
            for name in LOSSES:
                torch.testing.assert_close(result["losses"][name], joined[name].detach(), rtol=1e-5, atol=1e-6)
            for name, parameter in model.named_parameters():
                torch.testing.assert_close(result["gradients"][name], parameter.grad, rtol=1e-4, atol=1e-6)
            # Outside training a process speaks of its own records
            with torch.no_grad():
                alone = build(layout).eval()(**{name: value[PARTS[rank]] for name, value in inputs.items()})
            for name in LOSSES:
                assert result["alone"][name].item() == pytest.approx(alone[name].item(), rel=1e-5)
                # The comparison above tells
                assert alone[name].item() != pytest.approx(joined[name].item(), rel=1e-4), name


if __name__ == "__main__":
    worker(sys.argv[1], int(sys.argv[2]))
