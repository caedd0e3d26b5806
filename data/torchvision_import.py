"""torchvision, also beside a CPU-only torch, where its wheel's compiled operators cannot be loaded."""

import importlib
import sys
from types import ModuleType

# torchvision registers shape functions for these two operators whether or not its compiled library was loaded.
_BOX_OPERATORS = ("nms", "qnms")
_BOX_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_torchvision() -> ModuleType:
    """Return the torchvision package; afterwards every `import torchvision...` of this process works too.

    With matching builds this is a plain import. torchvision's Linux wheel on PyPI is a CUDA build, whose compiled library does not load
    beside a CPU-only torch; torchvision allows for that except for the operators `nms` and `qnms`, so their schemas are declared here and the
    import is repeated. Networks and tensor transforms then work; compiled operators (`torchvision.ops.nms`, image decoding) raise torchvision's own error.

    Raises ImportError if torchvision is not installed, and any other failure of its import as it is.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error) or "does not exist" not in str(error):
            raise
    import torch

    for name in [name for name in list(sys.modules) if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    for operator in _BOX_OPERATORS:
        if not hasattr(torch.ops.torchvision, operator):
            torch.library.define(f"torchvision::{operator}", _BOX_SCHEMA)
    return importlib.import_module("torchvision")
