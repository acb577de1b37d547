"""Registries of mmrev: children of mmengine's root registries, scope ``mmrev``.

A config says ``type='mmrev.RevBiFPN'``; mmengine finds the class here after ``import mmrev`` and imports the package
that holds it only then (``locations``). Importing this module also makes mmengine read ``mmrev::path/to/config.py``.
"""
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='mmrev', locations=['mmrev.models'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='mmrev', locations=['mmrev.hooks'])
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope='mmrev', locations=['mmrev.datasets'])
TRANSFORMS = Registry('transform', parent=MMENGINE_TRANSFORMS, scope='mmrev', locations=['mmrev.datasets'])

# mmengine looks for `mmrev::...` in the folder of the distribution that this names. An editable install has none there,
# so we name a module: for a name that is no distribution mmengine takes the folder that the module is imported from.
MODULE2PACKAGE.setdefault('mmrev', __name__)
