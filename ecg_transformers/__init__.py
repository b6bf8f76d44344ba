"""ECG foundation models behind the Hugging Face interfaces.

Importing the package registers its models, heads and feature extractor with the Auto classes of transformers, and the
`ECG` feature with `datasets`. Everything else is loaded on first use, so the import stays cheap.
"""

from . import registration
from .lazy_names import lazy_names

__version__ = "0.1.0"

# public name -> module that defines it
_PUBLIC_NAMES = {
    "ECGRecord": ".record",
    "STANDARD_LEADS": ".feature_extraction.ecg_leads",
    "canonical_lead_name": ".feature_extraction.ecg_leads",
    "ECGFeatureExtractor": ".feature_extraction.feature_extraction_ecg",
    "estimate_amplitude_factor": ".feature_extraction.amplitude_factor",
    "read_ecg": ".readers",
    "find_ecg_files": ".readers",
    "register_reader": ".readers",
    "ECGReadError": ".readers",
    "ECGQuality": ".quality",
    "QualityLimits": ".quality",
    "assess_quality": ".quality",
    "ECG": ".corpora",
    "load_corpus": ".corpora",
    "list_corpora": ".corpora",
    "register_corpus": ".corpora",
    "add_quality": ".corpora",
    "filter_by_quality": ".corpora",
    "pack_records": ".corpora",
    "check_leakage": ".corpora",
    "LeakageReport": ".corpora",
    "label_names": ".corpora",
    "problem_type": ".corpora",
    "convert_checkpoint": ".conversion",
    "export_onnx": ".exporting",
    "export_program": ".exporting",
    "plot_ecg": ".visualization",
    "plot_recipe": ".recipe_visualization",
    "trace_recipe": ".recipe_visualization",
    "ECGInference": ".inference",
    "pipeline": ".pipelines",
    "DeepECGSLConfig": ".models.deepecg_sl.configuration_deepecg_sl",
    "DeepECGSLModel": ".models.deepecg_sl.modeling_deepecg_sl",
    "DeepECGSLForSequenceClassification": ".models.deepecg_sl.modeling_deepecg_sl",
    "HybridECGConfig": ".models.hybrid_ecg.configuration_hybrid_ecg",
    "HybridECGModel": ".models.hybrid_ecg.modeling_hybrid_ecg",
    "HybridECGForPreTraining": ".models.hybrid_ecg.modeling_hybrid_ecg",
    "HybridECGForSequenceClassification": ".models.hybrid_ecg.modeling_hybrid_ecg",
    "HubertECGConfig": ".models.hubert_ecg.configuration_hubert_ecg",
    "HubertECGModel": ".models.hubert_ecg.modeling_hubert_ecg",
    "HubertECGForPreTraining": ".models.hubert_ecg.modeling_hubert_ecg",
    "HubertECGForSequenceClassification": ".models.hubert_ecg.modeling_hubert_ecg",
    "DBetaConfig": ".models.dbeta.configuration_dbeta",
    "DBetaModel": ".models.dbeta.modeling_dbeta",
    "DBetaForPreTraining": ".models.dbeta.modeling_dbeta",
    "DBetaForSequenceClassification": ".models.dbeta.modeling_dbeta",
    "DBetaProcessor": ".models.dbeta.processing_dbeta",
    "DeepECGSSLConfig": ".models.deepecg_ssl.configuration_deepecg_ssl",
    "DeepECGSSLModel": ".models.deepecg_ssl.modeling_deepecg_ssl",
    "DeepECGSSLForPreTraining": ".models.deepecg_ssl.modeling_deepecg_ssl",
    "DeepECGSSLForSequenceClassification": ".models.deepecg_ssl.modeling_deepecg_ssl",
}

__all__ = ["__version__", *sorted(_PUBLIC_NAMES)]

registration.register_all()

__getattr__, __dir__ = lazy_names(__name__, _PUBLIC_NAMES)
