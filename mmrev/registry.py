"""Registries of mmrev: children of mmengine's root registries, scope ``mmrev``.

A config says ``type='mmrev.RevBiFPN'``; mmengine finds the class here after ``import mmrev`` and imports the package
that holds it only then (``locations``). Importing this module also makes mmengine read ``mmrev::path/to/config.py``.
"""
import contextlib
from typing import Any, Optional, Set

from mmengine import registry as roots
from mmengine.config.utils import MODULE2PACKAGE


def _child(root: roots.Registry, location: str) -> roots.Registry:
    """A registry of this package below one of mmengine's; `location` is imported at the first look-up."""
    return roots.Registry(root.name, parent=root, scope='mmrev', locations=[location])


MODELS = _child(roots.MODELS, 'mmrev.models')
HOOKS = _child(roots.HOOKS, 'mmrev.hooks')
DATASETS = _child(roots.DATASETS, 'mmrev.datasets')
TRANSFORMS = _child(roots.TRANSFORMS, 'mmrev.datasets.transforms')
OPTIM_WRAPPERS = _child(roots.OPTIM_WRAPPERS, 'mmrev.optim')
OPTIM_WRAPPER_CONSTRUCTORS = _child(roots.OPTIM_WRAPPER_CONSTRUCTORS, 'mmrev.optim')
WEIGHT_INITIALIZERS = _child(roots.WEIGHT_INITIALIZERS, 'mmrev.models.pretrained')

# Nothing of ours is in these yet. mmengine looks the entries of a config inherited from `mmrev::` up in them before it
# looks in its own, warns where there are none, and imports the location of the first alone.
DATA_SAMPLERS = _child(roots.DATA_SAMPLERS, 'mmengine.dataset')
EVALUATOR = _child(roots.EVALUATOR, 'mmengine.evaluator')
LOG_PROCESSORS = _child(roots.LOG_PROCESSORS, 'mmengine.runner')
LOOPS = _child(roots.LOOPS, 'mmengine.runner')
METRICS = _child(roots.METRICS, 'mmengine.evaluator')
MODEL_WRAPPERS = _child(roots.MODEL_WRAPPERS, 'mmengine.model')
OPTIMIZERS = _child(roots.OPTIMIZERS, 'mmengine.optim')
PARAM_SCHEDULERS = _child(roots.PARAM_SCHEDULERS, 'mmengine.optim')
VISBACKENDS = _child(roots.VISBACKENDS, 'mmengine.visualization')
VISUALIZERS = _child(roots.VISUALIZERS, 'mmengine.visualization')

# mmengine looks for `mmrev::...` in the folder of the distribution that this names. An editable install has none there,
# so we name a module: for a name that is no distribution mmengine takes the folder that the module is imported from.
MODULE2PACKAGE.setdefault('mmrev', __name__)


def find(name: Any, *among: roots.Registry, scope: Optional[str] = None) -> Any:
    """The class or function of that name in one of these registries; None if there is none.

    Args:
        name: Of a class; a class itself, as configs in Python name it, is returned.
        among: mmengine's root registries, for example ``MODELS``.
        scope: Where to look first; by default in the current scope.
    """
    if not isinstance(name, str):
        return name
    for registry in among:
        with registry.switch_scope_and_registry(scope) as scoped, contextlib.suppress(RuntimeError):
            found = scoped.get(name)
            if found is not None:
                return found
    return None


def names(registry: roots.Registry) -> Set[str]:
    """All names that a config can give for a class in one of mmengine's registries and those below it."""
    found = {*registry.module_dict, *registry.root.module_dict}
    for scope, child in registry.root.children.items():
        found.update(f'{scope}.{key}' for key in child.module_dict)
    return found
