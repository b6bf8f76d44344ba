"""What the training scripts share: arguments, collator, layer groups, callbacks, and the run itself.

Names are loaded on first use, so importing the package stays cheap.
"""

from ..lazy_names import lazy_names

# public name -> module that defines it
_PUBLIC_NAMES = {
    "ModelArguments": ".arguments",
    "DataArguments": ".arguments",
    "EvaluationArguments": ".arguments",
    "FinetuningArguments": ".arguments",
    "parse_finetuning_arguments": ".arguments",
    "ECGCollator": ".data",
    "CorpusSplit": ".data",
    "label_matrix": ".data",
    "positive_weights": ".data",
    "ECGTrainer": ".trainer",
    "aggregate_logits": ".trainer",
    "DynamicRegularizerCallback": ".callbacks",
    "CropEpochCallback": ".callbacks",
    "GracefulStopCallback": ".callbacks",
    "ReadableProgressCallback": ".callbacks",
    "train_report_tokenizer": ".report_tokenizer",
    "freeze_layers": ".layer_groups",
    "layer_names": ".layer_groups",
    "parameter_groups": ".layer_groups",
    "FineTuneResult": ".finetuning",
    "TrainingInterrupted": ".run_control",
    "run_script": ".run_control",
    "finetune": ".finetuning",
    "CorpusArguments": ".arguments",
    "PretrainingModelArguments": ".pretraining_arguments",
    "ReportArguments": ".pretraining_arguments",
    "PretrainingArguments": ".pretraining_arguments",
    "parse_dbeta_pretraining_arguments": ".pretraining_arguments",
    "PretrainingTrainer": ".pretraining_trainer",
    "DBetaPretrainingCollator": ".dbeta_collator",
    "NegativeReports": ".negative_sampling",
    "TfidfEmbedder": ".negative_sampling",
    "T5Embedder": ".negative_sampling",
    "ReportMasker": ".text_masking",
    "mask_leads": ".lead_masking",
    "clean_report": ".reports",
    "PretrainingResult": ".pretraining_run",
    "pretrain_dbeta": ".dbeta_pretraining",
    "SSLModelArguments": ".pretraining_arguments",
    "SegmentArguments": ".pretraining_arguments",
    "SSLPretrainingArguments": ".pretraining_arguments",
    "parse_deepecg_ssl_pretraining_arguments": ".pretraining_arguments",
    "SegmentPairs": ".segment_pairs",
    "SegmentPairCollator": ".segment_pairs",
    "GumbelTemperatureCallback": ".deepecg_ssl_pretraining",
    "pretrain_deepecg_ssl": ".deepecg_ssl_pretraining",
    "describe_shards": ".shard_descriptors",
    "cut_shards": ".shard_descriptors",
    "time_frequency_descriptors": ".shard_descriptors",
    "mfcc_descriptors": ".shard_descriptors",
    "DEMO_SETTINGS": ".presets",
    "demo_arguments": ".presets",
    "DBETA_DEMO_SETTINGS": ".presets",
    "dbeta_demo_arguments": ".presets",
}

__all__ = sorted(_PUBLIC_NAMES)

__getattr__, __dir__ = lazy_names(__name__, _PUBLIC_NAMES)
