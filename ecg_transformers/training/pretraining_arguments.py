"""Arguments of the pretraining scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .arguments import CorpusArguments
from .augmentation_settings import AugmentationArguments
from .negative_sampling import KINDS
from .presets import DBETA_PRESETS
from .run_arguments import RunArguments, parse_arguments
from .segment_pairs import KINDS as PAIRS
from .text_masking import MASK_TOKEN


@dataclass
class PretrainingModelArguments:
    """Which model."""

    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint to go on from: a folder or a Hub id. Pretraining heads that it lacks start anew. "
            "Without it the model starts from scratch."
        },
    )
    size: str | None = field(
        default=None, metadata={"help": "Named size for training from scratch: 'tiny' or 'base' (default)."}
    )
    config_overrides: str | None = field(
        default=None,
        metadata={
            "help": "Changes to the configuration, for example "
            "'hidden_size=96,ecg_config.num_hidden_layers=4,mlm_loss_weight=0.5,decoder_config.mask_ratio=0.5'. From "
            "a checkpoint only settings that keep the shapes of the weights make sense."
        },
    )
    recipe: str | None = field(
        default=None,
        metadata={
            "help": "Named preprocessing recipe of the model type. Default: the one stored with the checkpoint, else "
            "the model type's."
        },
    )
    attn_implementation: str | None = field(
        default=None, metadata={"help": "'sdpa' (default of most models), 'eager' or 'flash_attention_2'."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub checkpoint."})

    @property
    def from_scratch(self) -> bool:
        """Whether no checkpoint is given."""
        return self.model_name_or_path is None


@dataclass
class SSLModelArguments(PretrainingModelArguments):
    """Which model."""

    config_overrides: str | None = field(
        default=None,
        metadata={
            "help": "Changes to the configuration, for example "
            "'num_hidden_layers=4,mask_time_prob=0.5,num_negatives=50,gumbel_temperature_decay=0.999,"
            "cmsc_loss_weight=0.5'. From a checkpoint only settings that keep the shapes of the weights make sense."
        },
    )


@dataclass
class SegmentArguments:
    """What makes a pair of segments, and what is hidden from the model."""

    pairs: str = field(
        default="halves",
        metadata={
            "help": "Pairs of segments that belong together: 'halves' of a recording, one after the other, or "
            "'records', two recordings of a patient (another two every epoch; patients with one are left out).",
            "choices": list(PAIRS),
        },
    )
    segment_seconds: float = field(
        default=5.0, metadata={"help": "Length of a half; pairs of recordings have the recipe's window."}
    )
    lead_mask_probability: float = field(
        default=0.5, metadata={"help": "Probability of zeroing each lead of each segment, in training."}
    )
    keep_one_lead: bool = field(
        default=False, metadata={"help": "Never zero all leads of a segment; the original can (once in 4096)."}
    )

    def __post_init__(self):
        if self.pairs not in PAIRS:
            raise ValueError(f"--pairs is one of {', '.join(PAIRS)}; got {self.pairs!r}.")
        if not self.segment_seconds > 0:
            raise ValueError(f"--segment_seconds must be positive; got {self.segment_seconds}.")
        if not 0 <= self.lead_mask_probability <= 1:
            raise ValueError(f"--lead_mask_probability is a probability in [0, 1]; got {self.lead_mask_probability}.")


@dataclass
class ReportArguments:
    """The text side, and what is hidden from the model."""

    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a T5 tokenizer. Default: the checkpoint's or --text_encoder's; from scratch "
            "without one a tokenizer is learnt from the training reports."
        },
    )
    vocab_size: int = field(
        default=4096, metadata={"help": "Largest vocabulary of a tokenizer that is learnt from the reports."}
    )
    text_encoder: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of a pretrained T5, such as google/flan-t5-base (D-BETA's): the text encoder "
            "starts from its weights, and takes its size and tokenizer from it. From scratch only."
        },
    )
    statements: str = field(
        default="all",
        metadata={
            "help": "'all': the model reads whole reports, as D-BETA does; 'one': one statement of each, another one "
            "every epoch, so that it learns what a finding means by itself, as labels are asked for in zero-shot "
            "diagnosis.",
            "choices": ["all", "one"],
        },
    )
    max_text_size: int = field(
        default=256, metadata={"help": "Reports are cut to two tokens fewer than this, as D-BETA does."}
    )
    mlm_probability: float = field(
        default=0.25, metadata={"help": "Share of the report's tokens to be restored (80 %% hidden, 10 %% replaced)."}
    )
    mask_token: str = field(
        default=MASK_TOKEN,
        metadata={"help": "Token in place of hidden ones; T5 has no mask token of its own, so a sentinel is taken."},
    )
    lead_mask_probability: float = field(
        default=0.5, metadata={"help": "Probability of zeroing each lead of each record, in training."}
    )
    keep_one_lead: bool = field(
        default=False, metadata={"help": "Never zero all leads of a record; D-BETA can (once in 4096 records)."}
    )
    negative_share: float = field(
        default=0.5,
        metadata={"help": "Share of records that get another record's report, for the matching task; 0 swaps none."},
    )
    negative_candidates: int = field(
        default=64, metadata={"help": "A mismatched report is drawn from this many candidates (k of N3S)."}
    )
    negatives: str = field(
        default="dissimilar",
        metadata={
            "help": "Candidates are the reports least similar to the record's own ('dissimilar', as D-BETA does) or "
            "most similar ('similar': hard negatives).",
            "choices": list(KINDS),
        },
    )
    negative_embedder: str = field(
        default="tfidf",
        metadata={
            "help": "What tells how similar reports are: 'tfidf' (words; needs no download) or the folder or Hub id "
            "of a T5 encoder (D-BETA: google/flan-t5-small)."
        },
    )

    def __post_init__(self):
        for name in ("mlm_probability", "lead_mask_probability", "negative_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} is a probability in [0, 1]; got {getattr(self, name)}.")
        if self.negative_candidates < 1:
            raise ValueError(f"--negative_candidates must be at least 1; got {self.negative_candidates}.")
        if self.max_text_size < 4:
            raise ValueError(f"--max_text_size must be at least 4; got {self.max_text_size}.")
        if self.negatives not in KINDS:
            raise ValueError(f"--negatives is one of {', '.join(KINDS)}; got {self.negatives!r}.")


@dataclass
class PretrainingArguments(RunArguments):
    """How to optimise.

    D-BETA's settings are not published. The defaults are those with which fairseq-signals pretrains the model that it
    builds on (`examples/m3ae`): Adam with betas 0.9 and 0.98, epsilon 1e-6, weight decay 0.01, learning rate 5e-5,
    tri-stage schedule. The number of epochs is ours (there: 60,000 updates of 256 records).
    """

    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for the pretrained model, its card, run.json and checkpoints. Required."},
    )
    learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate."})
    adam_beta2: float = field(default=0.98, metadata={"help": "Second beta of AdamW."})
    adam_epsilon: float = field(default=1e-6, metadata={"help": "Epsilon of AdamW."})
    schedule: str = field(
        default="tri_stage",
        metadata={
            "help": "'tri_stage': up over 10 %% of the steps, held for 40 %%, exponentially down to 5 %% of the rate; "
            "'trainer': as --lr_scheduler_type and --warmup_steps say.",
            "choices": ["tri_stage", "trainer"],
        },
    )
    per_device_train_batch_size: int = field(
        default=32,
        metadata={
            "help": "Training records per process and step. Records of one step, of all processes, are each other's "
            "negatives; accumulated steps are not."
        },
    )
    per_device_eval_batch_size: int = field(default=32, metadata={"help": "Records per process in evaluation."})
    num_train_epochs: float = field(default=20.0, metadata={"help": "Passes over the training records."})
    metric_for_best_model: str | None = field(
        default="loss", metadata={"help": "Validation metric that picks the best checkpoint, such as ets_loss."}
    )
    probe: bool = field(
        default=False,
        metadata={
            "help": "After training, fit a linear classifier on the frozen features with the labels of the corpus, "
            "and score it on its test records beside untrained encoders (AUROC)."
        },
    )
    probe_untrained: int = field(
        default=3, metadata={"help": "Untrained encoders of the same configuration beside --probe; 0: none."}
    )

    def __post_init__(self):
        if self.probe_untrained < 0:
            raise ValueError(f"--probe_untrained must be 0 or more; got {self.probe_untrained}.")
        if self.schedule not in ("tri_stage", "trainer"):
            raise ValueError(f"--schedule is 'tri_stage' or 'trainer'; got {self.schedule!r}.")
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = self.metric_for_best_model.endswith("_accuracy")
        super().__post_init__()


@dataclass
class SSLPretrainingArguments(PretrainingArguments):
    """How to optimise.

    The defaults are those of DeepECG-SSL's own pretraining: Adam with betas 0.9 and 0.98, epsilon 1e-6, weight decay
    0.01, learning rate 5e-5 throughout (there: 342 x 3 x 2 segments a step, at most 1,000 epochs).
    """

    schedule: str = field(
        default="trainer",
        metadata={
            "help": "'trainer': as --lr_scheduler_type and --warmup_steps say; 'tri_stage': up over 10 %% of the "
            "steps, held for 40 %%, exponentially down to 5 %% of the rate.",
            "choices": ["trainer", "tri_stage"],
        },
    )
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Schedule of the learning rate."})
    per_device_train_batch_size: int = field(
        default=32,
        metadata={
            "help": "Pairs of segments per process and step. Pairs of one step, of all processes, are told from each "
            "other; accumulated steps are not."
        },
    )
    per_device_eval_batch_size: int = field(
        default=32, metadata={"help": "Pairs of segments per process in evaluation."}
    )
    num_train_epochs: float = field(default=20.0, metadata={"help": "Passes over the training pairs."})
    metric_for_best_model: str | None = field(
        default="loss", metadata={"help": "Validation metric that picks the best checkpoint, such as cmsc_loss."}
    )


def parse_deepecg_ssl_pretraining_arguments(
    arguments: Sequence[str] | None = None,
) -> tuple[SSLModelArguments, CorpusArguments, SegmentArguments, SSLPretrainingArguments, AugmentationArguments]:
    """Read the arguments of a DeepECG-SSL pretraining run.

    Args:
        arguments (sequence of `str`, *optional*): see `parse_arguments`.

    Returns:
        `tuple` of `SSLModelArguments`, `CorpusArguments`, `SegmentArguments`, `SSLPretrainingArguments` and
        `AugmentationArguments`.

    Raises:
        ValueError: if the file cannot be read, names unknown arguments, or a value is out of range.

    Example:
        >>> parse_deepecg_ssl_pretraining_arguments(["--corpus", "ptbxl", "--data_dir", "ptb-xl", "--output_dir", "x"])
    """
    return parse_arguments(
        (SSLModelArguments, CorpusArguments, SegmentArguments, SSLPretrainingArguments, AugmentationArguments),
        arguments,
        "Pretrain DeepECG-SSL on ECGs without labels: masked prediction of quantized features, and a contrast between "
        "segments of patients. The first argument may be a .json or .yaml file with the same names.",
    )


def parse_dbeta_pretraining_arguments(
    arguments: Sequence[str] | None = None,
) -> tuple[PretrainingModelArguments, CorpusArguments, ReportArguments, PretrainingArguments, AugmentationArguments]:
    """Read the arguments of a D-BETA pretraining run.

    Args:
        arguments (sequence of `str`, *optional*): see `parse_arguments`.

    Returns:
        `tuple` of `PretrainingModelArguments`, `CorpusArguments`, `ReportArguments`, `PretrainingArguments` and
        `AugmentationArguments`.

    Raises:
        ValueError: if the file cannot be read, names unknown arguments, or a value is out of range.

    Example:
        >>> parse_dbeta_pretraining_arguments(["--corpus", "ptbxl", "--data_dir", "ptb-xl", "--output_dir", "run"])
    """
    return parse_arguments(
        (PretrainingModelArguments, CorpusArguments, ReportArguments, PretrainingArguments, AugmentationArguments),
        arguments,
        "Pretrain D-BETA on ECGs and their reports: masked language modelling, masked ECG modelling, ECG-text "
        "matching and a contrastive loss. The first argument may be a .json or .yaml file with the same names. "
        "--preset demo trains a small model on the synthetic corpus in minutes.",
        usage="%(prog)s [run.yaml] [--preset demo] --output_dir FOLDER [options]",
        presets=DBETA_PRESETS,
    )
