"""Faster replacements for modules of `modeling_clipvip.py`, put in their place from outside.

`optimize_for_inference` and `optimize_for_training` are the two entry points; the model file knows neither.
`compile_blocks` is for either.
"""

from clipvip.model.kernels.inference import compute_dtype, optimize_for_inference
from clipvip.model.kernels.training import compile_blocks, optimize_for_training

__all__ = ["compile_blocks", "compute_dtype", "optimize_for_inference", "optimize_for_training"]
