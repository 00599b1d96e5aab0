"""lava_model: pre-trains and evaluates LAVA, joint language, audio and vision representations.

``from lava_model import Lava, LavaConfig, Embeddings`` needs the extra ``train``; ``import lava_model`` alone does
not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lava_model.errors import MissingExtraError

if TYPE_CHECKING:
    from lava_model.config import LavaConfig as LavaConfig
    from lava_model.model import Embeddings as Embeddings
    from lava_model.model import Lava as Lava

__version__ = "0.1.0"
__all__ = ["Embeddings", "Lava", "LavaConfig", "__version__"]

_LAZY = {
    "Embeddings": "lava_model.model",
    "Lava": "lava_model.model",
    "LavaConfig": "lava_model.config",
}
_EXTRA = frozenset({"torch", "tokenizers", "torchvision", "safetensors"})
"""What the extra ``train`` brings and these names import."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'lava_model' has no attribute {name!r}")
    try:
        module = importlib.import_module(_LAZY[name])
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        raise MissingExtraError(
            f"lava_model.{name} needs {package}, which is not installed: pip install 'k700-text[train]'"
        ) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
