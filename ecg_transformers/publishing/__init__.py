"""Publishing: cards rendered from what a run recorded, folders for the Hub, their check, and their upload."""

from ..lazy_names import lazy_names

# public name -> module that defines it
_PUBLIC_NAMES = {
    "render_card": ".model_card",
    "write_card": ".model_card",
    "assemble_folder": ".folder_assembly",
    "AssembledFolder": ".folder_assembly",
    "PublishingError": ".folder_assembly",
    "include_code": ".custom_code",
    "check_folders": ".folder_check",
    "FolderToCheck": ".folder_check",
    "FolderCheckError": ".folder_check",
    "find_target": ".hub_repository",
    "upload": ".hub_repository",
    "HubError": ".hub_repository",
    "publish": ".publication",
    "parse_publish_arguments": ".publication",
}

__all__ = sorted(_PUBLIC_NAMES)

__getattr__, __dir__ = lazy_names(__name__, _PUBLIC_NAMES)
