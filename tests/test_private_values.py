"""Paths and secrets do not get into records that are published."""

import dataclasses

import pytest

from ecg_transformers.private_values import absolute_paths, without_private_values
from ecg_transformers.training.run_record import describe_arguments


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/alice/labels.csv", "labels.csv"),
        ("/home/alice/my data, old/labels.csv", "labels.csv"),
        ("~/ecg/", "ecg"),
        (r"C:\Users\alice\labels.csv", "labels.csv"),
        ("labels_csv=/home/alice/labels.csv", "labels_csv=labels.csv"),
        ("files=/home/alice/a.csv,/home/alice/b.csv", "files=a.csv,b.csv"),
        ('{"csv": "/home/alice/a.csv", "token": "abc"}', '{"csv": "a.csv", <secret>}'),
        ("read `/home/alice/x.csv`: 3 rows", "read `x.csv`: 3 rows"),
        ("It is in /home/alice/x.csv.", "It is in x.csv."),
        ("key hf_abcdefghijkl", "key <secret>"),
        ("file:///home/alice/x.csv", "x.csv"),
    ],
)
def test_paths_and_secrets_in_text(value, expected):
    assert without_private_values(value) == expected
    assert "alice" not in repr(without_private_values({"a": [{"b": value}]}))


@pytest.mark.parametrize(
    "value",
    [
        "Edoardo-BS/hubert-ecg-base",
        "https://example.org/a/b",
        "data/labels.csv",
        "1/2 mV / s",
        '{"0": "male"}',
        3,
        None,
    ]
    + ["</s>", "column=sex"],
)
def test_other_values_stay(value):
    assert without_private_values(value) == value
    assert absolute_paths(str(value)) == []


def test_secrets_are_left_out_by_name():
    values = {"token": "x", "hub_token": "y", "text_tokens": 9, "class_token": True, "options": ["token=x", "seed=3"]}
    assert without_private_values(values) == {"text_tokens": 9, "class_token": True, "options": ["seed=3"]}


def test_arguments_of_a_run_are_recorded_without_paths():
    @dataclasses.dataclass
    class Arguments:
        corpus: str = "synthetic"
        corpus_options: list[str] = dataclasses.field(default_factory=list)
        codebooks: str | None = None
        deepspeed: dict | str | None = None
        model_name_or_path: str | None = None

    given = Arguments(
        corpus="/data/alice/labels.csv",
        corpus_options=["labels_csv=/data/alice/labels.csv", "token=geheim", "seed=4"],
        codebooks="/data/alice/books",
        deepspeed={"offload": {"nvme_path": "/scratch/alice"}},
        model_name_or_path="/moved/alice/model",
    )
    assert describe_arguments(given) == {
        "Arguments": {
            "corpus": "labels.csv",
            "corpus_options": ["labels_csv=labels.csv", "seed=4"],
            "codebooks": "books",
            "deepspeed": {"offload": {"nvme_path": "alice"}},
            "model_name_or_path": "model",
        }
    }
