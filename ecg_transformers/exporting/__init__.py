"""Models as ONNX files or `torch.export` programs, which run without this package.

Names are loaded on first use, so importing the package stays cheap.
"""

from ..lazy_names import lazy_names

# public name -> module that defines it
_PUBLIC_NAMES = {
    "export_onnx": ".onnx_export",
    "export_program": ".program_export",
    "ExportError": ".checking",
    "ExportReport": ".report",
    "OutputDifference": ".measuring",
    "describe_export": ".metadata",
    "read_export_metadata": ".metadata",
}

__all__ = sorted(_PUBLIC_NAMES)

__getattr__, __dir__ = lazy_names(__name__, _PUBLIC_NAMES)
