"""Inference speed: records per second of every model size, against the plain fp32 eager model in the same run.

Run `python benchmarks/inference.py` (all sizes, several minutes on a CPU) or `--sizes small --batch_size 8`. A GPU is
used when there is one. Every variant runs the same random weights on the same input; the largest difference to the
reference is printed too.
"""

import argparse
import time
import warnings

import torch

from ecg_transformers import HubertECGConfig, HubertECGModel

# name, attention, dtype, compiled. The first one is what all others are compared with.
VARIANTS = (
    ("fp32 eager", "eager", torch.float32, False),
    ("fp32 SDPA", "sdpa", torch.float32, False),
    ("bf16 SDPA", "sdpa", torch.bfloat16, False),
    ("fp32 compile", "sdpa", torch.float32, True),
    ("bf16 compile", "sdpa", torch.bfloat16, True),
)


def records_per_second(run, batch_size: int, seconds: float, device: torch.device) -> float:
    """Return the throughput of `run` over at least `seconds`, after one warm-up call."""

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    run()
    wait()
    start, calls = time.perf_counter(), 0
    while calls < 2 or time.perf_counter() - start < seconds:
        run()
        wait()
        calls += 1
    return calls * batch_size / (time.perf_counter() - start)


@torch.inference_mode()
def measure_size(size: str, arguments: argparse.Namespace, device: torch.device) -> None:
    """Measure all variants of one size and print a row each."""
    torch.manual_seed(0)
    config = HubertECGConfig.from_size(size)
    weights = HubertECGModel(config).state_dict()
    values = torch.randn(arguments.batch_size, 6000).clamp(-1, 1).to(device)
    expected, reference = None, None
    for name, attention, dtype, compiled in VARIANTS:
        if any(word in name for word in arguments.skip):
            continue
        config._attn_implementation = attention
        model = HubertECGModel(config).eval()
        model.load_state_dict(weights)
        model = model.to(device=device, dtype=dtype)
        run = torch.compile(model) if compiled else model
        inputs = values.to(dtype)
        try:
            rate = records_per_second(lambda: run(inputs), arguments.batch_size, arguments.seconds, device)  # noqa: B023
        except Exception as error:
            if not compiled:
                raise
            # torch.compile needs a C++ compiler on a CPU; the other figures stand without it.
            print(f"{size:6} {name:13} not measured: {str(error).strip().splitlines()[0][:70]}", flush=True)
            continue
        output = run(inputs).last_hidden_state.float()
        expected = output if expected is None else expected
        reference = rate if reference is None else reference
        difference = float((output - expected).abs().max())
        print(f"{size:6} {name:13} {rate:10.1f} {rate / reference:8.2f} x {difference:14.1e}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["small", "base", "large"])
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0, help="least duration of a measurement")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--skip", nargs="*", default=[], help="leave out variants whose name holds a word (compile)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", module="torch")
    device = torch.device(arguments.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {arguments.threads} thread(s)"
    print(f"HuBERT-ECG backbone, batch {arguments.batch_size} of 5 s (6000 samples), {name}")
    print(f"{'size':6} {'variant':13} {'records/s':>10} {'ratio':>10} {'max difference':>14}")
    for size in arguments.sizes:
        measure_size(size, arguments, device)


if __name__ == "__main__":
    main()
