"""What is used of PyTorch Geometric, imported without the deprecation warnings that it raises on newer versions of torch."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # torch >= 2.9 deprecates torch.jit.script, which PyTorch Geometric 2.6 to 2.8 calls while it is imported
    warnings.filterwarnings("ignore", message=r".*torch\.jit\.", category=DeprecationWarning)
    from torch_geometric.data import HeteroData
    from torch_geometric.data.storage import EdgeStorage
    from torch_geometric.nn import MessagePassing

__all__ = ["EdgeStorage", "HeteroData", "MessagePassing"]
