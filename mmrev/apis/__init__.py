"""Functions for your own programs with mmengine's `Runner`, and models of mmrev by name in mmpretrain and mmdet.

After ``import mmrev.apis`` mmpretrain's `get_model`, `list_models` and `inference_model` know the classifiers.
`DetInferencer`, which needs mmdet and is imported on first use, knows the detectors.
"""
from typing import Any

from mmrev._after_import import after_import
from mmrev.checkpoints import allow_mmengine_checkpoints

from .distributed import adopt_launcher, prepare_cpu_processes
from .model_hub import add_classifiers

__all__ = ['adopt_launcher', 'allow_mmengine_checkpoints', 'prepare_cpu_processes']

after_import('mmpretrain.apis.model', add_classifiers)


def __getattr__(name: str) -> Any:
    if name == 'DetInferencer':
        from .det_inferencer import DetInferencer
        return DetInferencer
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
