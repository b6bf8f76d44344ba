import os
import signal

import pytest

from ecg_transformers.training import parse_hubert_ecg_demo_arguments, run_hubert_ecg_command, run_hubert_ecg_demo
from ecg_transformers.training.callbacks import GracefulStopCallback


@pytest.fixture
def arguments(tmp_path):
    return ["--preset", "demo", "--output", str(tmp_path / "demo"), "--short", "true", "--disable_tqdm", "true"]


def test_the_demonstration_shows_its_commands_and_goes_on_where_it_stopped(arguments, monkeypatch, capsys):
    original = GracefulStopCallback.on_step_end

    def stop(self, args, state, control, **kwargs):
        if "iteration-2" in args.output_dir and state.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(GracefulStopCallback, "on_step_end", stop)
        assert run_hubert_ecg_command(arguments) == 128 + signal.SIGINT
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("$ ")]
    assert [line.split()[3] for line in commands] == ["cluster", "train", "cluster", "train"]
    report = run_hubert_ecg_demo(*parse_hubert_ecg_demo_arguments(arguments[2:]))
    said = capsys.readouterr().out
    assert said.count("is there and kept") == 3 and "--init" in said and "Macro AUROC" in said
    assert list(report["models"]) == ["iteration-1", "iteration-2"]
    assert {"above_untrained", "above_first"} <= report["models"]["iteration-2"].keys()

    assert run_hubert_ecg_command([*arguments, "--seed", "3"]) == 2
    assert "Choose another --output, or start over" in capsys.readouterr().err


def test_what_is_no_preset_is_told(capsys):
    for arguments in (["--preset", "x"], ["--preset"]):
        assert run_hubert_ecg_command(arguments) == 2
        assert "there is demo" in capsys.readouterr().err
    assert run_hubert_ecg_command(["--preset", "demo"]) == 2
    assert "--output is required" in capsys.readouterr().err
