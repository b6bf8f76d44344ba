"""HuBERT-ECG: masked prediction of codebook entries over the twelve leads laid end to end."""
