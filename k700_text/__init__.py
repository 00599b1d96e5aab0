"""k700_text: web titles and audio availability of Kinetics-700, and the loader that serves them.

``from k700_text import KineticsAVT, BatchLoader, Sample, Batch, collate`` needs the extra ``data``; plain
``import k700_text`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from k700_text.errors import MissingExtraError

if TYPE_CHECKING:
    from k700_text.data.dataset import KineticsAVT as KineticsAVT
    from k700_text.data.loader import BatchLoader as BatchLoader
    from k700_text.data.sample import Batch as Batch
    from k700_text.data.sample import Sample as Sample
    from k700_text.data.sample import collate as collate

__version__ = "0.1.0"
__all__ = ["Batch", "BatchLoader", "KineticsAVT", "Sample", "__version__", "collate"]

_LAZY = {
    "KineticsAVT": "k700_text.data.dataset",
    "Sample": "k700_text.data.sample",
    "Batch": "k700_text.data.sample",
    "BatchLoader": "k700_text.data.loader",
    "collate": "k700_text.data.sample",
}
_EXTRA = frozenset({"torch", "tokenizers", "threadpoolctl"})
"""What the extra ``data`` brings and these names import."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'k700_text' has no attribute {name!r}")
    try:
        module = importlib.import_module(_LAZY[name])
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        raise MissingExtraError(
            f"k700_text.{name} needs {package}, which is not installed: pip install 'k700-text[data]'"
        ) from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
