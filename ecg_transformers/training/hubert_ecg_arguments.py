"""Arguments of HuBERT-ECG's pretraining: clustering descriptors, and training on the codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .arguments import CorpusArguments
from .augmentation_settings import AugmentationArguments
from .pretraining_arguments import PretrainingArguments, PretrainingModelArguments
from .run_arguments import parse_arguments
from .shard_descriptors import DESCRIPTORS

COMMANDS = ("cluster", "train")

_USAGE = """%(prog)s cluster [run.yaml] --corpus NAME --descriptors mfcc --clusters 100 --output FOLDER [options]
       %(prog)s train [run.yaml] --corpus NAME --codebooks FOLDER --output FOLDER [options]"""


@dataclass
class ClusterArguments:
    """What is clustered, and into how many codes."""

    output_dir: str | None = field(
        default=None,
        metadata={"aliases": ["--output"], "help": "Folder for the codebooks. Required."},
    )
    descriptors: str = field(
        default="mfcc",
        metadata={
            "help": f"What describes the pieces of a record: {', '.join(DESCRIPTORS)} (of shards of 64 samples at "
            "100 Hz, for the first iteration), or the folder or Hub id of a HuBERT-ECG, whose hidden states do."
        },
    )
    layer: int = field(
        default=8,
        metadata={
            "help": "Encoder layer of that model, from 0, whose output is taken (HuBERT-ECG: 8 of 12 in its scripts)."
        },
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of that model on the Hub."})
    clusters: list[int] = field(
        default_factory=lambda: [100],
        metadata={
            "help": "Codes of the codebook; several numbers make an ensemble (HuBERT-ECG: 100, later 500 to 1000)."
        },
    )
    import_kmeans: list[str] | None = field(
        default=None,
        metadata={
            "help": "Take the codebooks from k-means files of the original (joblib) instead of fitting them; nothing "
            "in them is run. --descriptors says what they are over; neither corpus nor --clusters matter."
        },
    )
    normalize_targets: bool = field(
        default=True,
        metadata={
            "help": "Scale descriptors to unit length when codes are assigned, as they are when the clusters are "
            "found. False is what HuBERT-ECG's code does, whose targets are therefore not those of its clusters."
        },
    )
    windows: str = field(
        default="first",
        metadata={"help": "Which 5 s of a longer record: 'first', or 'all' of them.", "choices": ["first", "all"]},
    )
    max_records: int | None = field(
        default=None, metadata={"help": "Take that many training records: at random, of a stream the first."}
    )
    epochs: int = field(default=1, metadata={"help": "Passes over the records."})
    batch_size: int = field(default=100, metadata={"help": "Records read at a time."})
    num_workers: int = field(default=0, metadata={"help": "Processes that read and describe records."})
    descriptor_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder in which descriptors are kept (Arrow), for those who cluster the same ones several times. "
            "15 kB a record (mfcc), 290 kB with the hidden states of the base size; by default nothing is kept."
        },
    )
    recipe: str | None = field(
        default=None, metadata={"help": "Preprocessing recipe for shards. Default: that of the published models."}
    )
    like: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a HuBERT-ECG whose preprocessing, and so whose rate (50, 100 or 500 Hz), "
            "shards shall have."
        },
    )
    device: str | None = field(
        default=None, metadata={"help": "Where a model runs: cpu, cuda. Default: an accelerator if there is one."}
    )
    seed: int = field(default=0, metadata={"help": "Of the first centres, and of --max_records."})
    report: bool = field(
        default=True,
        metadata={
            "help": "Measure the clusters on a sample (silhouette, Davies-Bouldin, Calinski-Harabasz, usage), and how "
            "pure they are where the corpus has marked waves or beats; write report.json and a picture."
        },
    )
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace codebooks that are there."})

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("--output is required: the folder for the codebooks.")
        if not self.clusters or min(self.clusters) < 2:
            raise ValueError(f"--clusters takes numbers of 2 or more; got {self.clusters}.")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1; got {getattr(self, name)}.")
        for name in ("num_workers", "layer", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must be 0 or more; got {getattr(self, name)}.")
        if self.max_records is not None and self.max_records < 1:
            raise ValueError(f"--max_records must be at least 1; got {self.max_records}.")
        if self.like is not None and self.recipe is not None:
            raise ValueError("--like and --recipe both say how records are preprocessed; give one.")
        if self.windows not in ("first", "all"):
            raise ValueError(f"--windows is 'first' or 'all'; got {self.windows!r}.")


@dataclass
class StreamCorpusArguments(CorpusArguments):
    """Which recordings."""

    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read records one after the other instead of by index, as corpora that fit no disk are read. "
            "Training then needs --max_steps."
        },
    )
    shuffle_buffer: int = field(
        default=1000,
        metadata={
            "help": "With --streaming: training draws the next record at random from this many; 0 keeps the order."
        },
    )

    def __post_init__(self):
        if self.shuffle_buffer < 0:
            raise ValueError(f"--shuffle_buffer must be 0 or more; got {self.shuffle_buffer}.")
        super().__post_init__()

    def options(self) -> dict[str, Any]:
        """Return the options of the corpus; see `CorpusArguments.options`."""
        return {**super().options(), **({"streaming": True} if self.streaming else {})}


@dataclass
class HubertECGModelArguments(PretrainingModelArguments):
    """Which model."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "aliases": ["--init"],
            "help": "Checkpoint to go on from, such as that of the iteration before: a folder or a Hub id. Its "
            "encoder is kept; codebook heads start anew and dropout is that of pretraining again. Without it the "
            "model starts from scratch.",
        },
    )
    size: str | None = field(
        default=None,
        metadata={"help": "Named size for training from scratch: demo, tiny, small, base (default) or large."},
    )
    config_overrides: str | None = field(
        default=None,
        metadata={
            "help": "Changes to the configuration, for example 'num_hidden_layers=4,mask_time_prob=0.5,alpha=0.8'. "
            "From a checkpoint only settings that keep the shapes of the weights make sense."
        },
    )


@dataclass
class TargetArguments:
    """What is to be predicted."""

    codebooks: str | None = field(
        default=None,
        metadata={
            "help": "Folder of codebooks, as `cluster` writes it: targets are computed as batches pass. Required."
        },
    )
    target_cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder in which the codes of all records are kept (Arrow): they are then computed once instead "
            "of whenever a record passes, by the first process alone. Needs --train_windows first, since codes belong "
            "to a window."
        },
    )
    keep_heads: bool = field(
        default=False,
        metadata={"help": "With --init: keep its codebook heads, to go on with the codebooks it was trained on."},
    )

    def __post_init__(self):
        if self.codebooks is None:
            raise ValueError("--codebooks is required: a folder that `pretrain_hubert_ecg.py cluster` wrote.")


@dataclass
class HubertECGPretrainingArguments(PretrainingArguments):
    """How to optimise.

    Defaults of HuBERT-ECG (medRxiv 10.1101/2024.11.14.24317328): AdamW with betas 0.9 and 0.98, epsilon 1e-9, weight
    decay 0.01, 8 % warm-up, linear decay (there: 448 records a step, 80,000 steps for the first iteration, 400,000 to
    800,000 for later ones). The learning rate is not published; 5e-4 is HuBERT's (arXiv 2106.07447).
    """

    output_dir: str | None = field(
        default=None,
        metadata={
            "aliases": ["--output"],
            "help": "Folder for the pretrained model, its card, run.json and checkpoints. Required.",
        },
    )
    learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate."})
    adam_epsilon: float = field(default=1e-9, metadata={"help": "Epsilon of AdamW."})
    schedule: str = field(
        default="trainer",
        metadata={
            "help": "'trainer': as --lr_scheduler_type and --warmup_steps say; 'tri_stage': up over 10 %% of the "
            "steps, held for 40 %%, exponentially down to 5 %% of the rate.",
            "choices": ["trainer", "tri_stage"],
        },
    )
    warmup_steps: float = field(default=0.08, metadata={"help": "Warm-up: steps, or a share of all steps if below 1."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Training records per process and step."})
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Stop after this many evaluations without a better metric; 0 never stops early."}
    )
    early_stopping_threshold: float = field(
        default=1e-3, metadata={"help": "How much better the metric has to be to count."}
    )
    dynamic_regularizer: bool = field(
        default=False,
        metadata={
            "help": "Raise weight decay and dropout while validation stagnates, lower them while it improves, as "
            "HuBERT-ECG's pretraining does."
        },
    )

    def __post_init__(self):
        if self.early_stopping_patience and (self.eval_strategy == "no" or not self.load_best_model_at_end):
            raise ValueError(
                "--early_stopping_patience needs evaluation (--eval_strategy) and --load_best_model_at_end true."
            )
        super().__post_init__()


def parse_cluster_arguments(arguments: Sequence[str] | None = None) -> tuple[ClusterArguments, StreamCorpusArguments]:
    """Read the arguments of `pretrain_hubert_ecg.py cluster`; see `parse_arguments`."""
    return parse_arguments(
        (ClusterArguments, StreamCorpusArguments),
        arguments,
        "Cluster descriptors of a corpus without labels into codebooks, the targets of HuBERT-ECG's pretraining. The "
        "first argument may be a .json or .yaml file with the same names.",
        usage=_USAGE,
    )


def parse_hubert_ecg_pretraining_arguments(
    arguments: Sequence[str] | None = None,
) -> tuple[
    HubertECGModelArguments,
    StreamCorpusArguments,
    TargetArguments,
    HubertECGPretrainingArguments,
    AugmentationArguments,
]:
    """Read the arguments of `pretrain_hubert_ecg.py train`; see `parse_arguments`."""
    return parse_arguments(
        (
            HubertECGModelArguments,
            StreamCorpusArguments,
            TargetArguments,
            HubertECGPretrainingArguments,
            AugmentationArguments,
        ),
        arguments,
        "Pretrain HuBERT-ECG to find the codes of hidden tokens. The first argument may be a .json or .yaml file with "
        "the same names.",
        usage=_USAGE,
    )
