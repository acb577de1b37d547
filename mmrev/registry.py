"""Registries of mmrev: children of mmengine's root registries, scope ``mmrev``.

A config says ``type='mmrev.RevBiFPN'``; mmengine finds the class here after ``import mmrev`` and imports the package
that holds it only then (``locations``). Importing this module also makes mmengine read ``mmrev::path/to/config.py``.
"""
import contextlib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Optional, Set

from mmengine import registry as roots
from mmengine.config.utils import MODULE2PACKAGE


class _Registry(roots.Registry):
    """A registry that looks up names without a scope as if the config did not inherit from ``mmrev::``.

    mmengine builds what is inherited in the scope mmrev, and finds our classes and its own there. The other classes of
    such a config are those of its ``default_scope``.
    """

    def get(self, key: str) -> Any:
        self.import_from_location()
        if isinstance(key, str) and '.' not in key and key not in self.module_dict:
            scopes = [instance.scope_name for instance in roots.DefaultScope._instance_dict.values()]
            host = next((scope for scope in reversed(scopes) if scope != self.scope), None)
            if host in self.root.children:
                return self.root.children[host].get(key)
        return super().get(key)


def _child(root: roots.Registry, location: str) -> roots.Registry:
    """A child of one of mmengine's registries; `location` is imported on the first lookup."""
    return _Registry(root.name, parent=root, scope='mmrev', locations=[location])


MODELS = _child(roots.MODELS, 'mmrev.models')
HOOKS = _child(roots.HOOKS, 'mmrev.hooks')
DATASETS = _child(roots.DATASETS, 'mmrev.datasets')
TRANSFORMS = _child(roots.TRANSFORMS, 'mmrev.datasets.transforms')
STRATEGIES = _child(roots.STRATEGIES, 'mmrev.strategies')
OPTIM_WRAPPERS = _child(roots.OPTIM_WRAPPERS, 'mmrev.optim')
OPTIM_WRAPPER_CONSTRUCTORS = _child(roots.OPTIM_WRAPPER_CONSTRUCTORS, 'mmrev.optim')
WEIGHT_INITIALIZERS = _child(roots.WEIGHT_INITIALIZERS, 'mmrev.models.pretrained')

# These are empty. mmengine looks up entries inherited from `mmrev::` in them before its own registries, warns if they
# do not exist, and imports only the location of the first one.
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

# mmengine looks for `mmrev::...` in the folder of the distribution named here. An editable install has no such folder,
# so this names a module, for which mmengine takes the folder that the module is imported from.
MODULE2PACKAGE.setdefault('mmrev', __name__)
# Likewise for `mmseg::...` where the package comes from OneDL, whose distribution has another name than the one there.
try:
    version('mmsegmentation')
except PackageNotFoundError:
    if find_spec('mmseg'):
        MODULE2PACKAGE['mmseg'] = 'mmseg'


def find(name: Any, *among: roots.Registry, scope: Optional[str] = None) -> Any:
    """Return the class or function of that name from the first registry that has it, or None.

    Args:
        name: Name of a class or function. A class itself, as in pure Python configs, is returned.
        among: Root registries of mmengine, such as ``MODELS``.
        scope: Scope to search first; the current one by default.
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
    """All names by which a config can refer to a class of a root registry or its children."""
    found = {*registry.module_dict, *registry.root.module_dict}
    for scope, child in registry.root.children.items():
        found.update(f'{scope}.{key}' for key in child.module_dict)
    return found
