"""Checks of the model: it can be built, and the channels of its parts match."""
import copy
from typing import Iterator

from mmengine.model import BaseModel
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.structures import BaseDataElement

from mmrev.analysis.agreement import disagreements
from mmrev.analysis.channels import SIZES, find_misfit, image_channels
from mmrev.analysis.initialization import check_layers
from mmrev.hooks import check_activations
from mmrev.layers import ABN
from mmrev.problems import Problem
from mmrev.registry import find

from .config import misused
from .plan import Plan, building


def build(plan: Plan) -> Iterator[Problem]:
    """The model can be built, no activation follows a norm that includes one, and initializers name layers."""
    config = copy.deepcopy(plan.cfg.model)  # some models change their config
    if plan.cfg.get('data_preprocessor'):
        config.setdefault('data_preprocessor', copy.deepcopy(plan.cfg.data_preprocessor))  # as the runner does
    plan.model = yield from building(plan, 'model', MODELS.build, config)
    if plan.model is not None:
        for check in (check_activations, check_layers):
            yield from building(plan, 'model', check, plan.model)
        yield from misused(plan, type(getattr(plan.model, 'data_preprocessor', None)),  # it may have no type
                           plan.cfg.model.get('data_preprocessor') or {}, 'model.data_preprocessor', False)


def norm_decay(plan: Plan) -> Iterator[Problem]:
    """`norm_decay_mult` applies to norms that include their activation, which mmengine does not recognize as norms."""
    wrapper = plan.cfg.get('optim_wrapper') or {}
    constructor = find(wrapper.get('constructor', 'DefaultOptimWrapperConstructor'), OPTIM_WRAPPER_CONSTRUCTORS)
    if plan.model is not None and (wrapper.get('paramwise_cfg') or {}).get('norm_decay_mult') is not None:
        if constructor is DefaultOptimWrapperConstructor and any(isinstance(m, ABN) for m in plan.model.modules()):
            yield Problem('optim_wrapper.paramwise_cfg.norm_decay_mult has no effect on the InPlaceABN of this model',
                          plan.fix('optim_wrapper.constructor', 'mmrev.OptimWrapperConstructor'))


def channels(plan: Plan) -> Iterator[Problem]:
    """Every layer gets as many channels as it takes, as far as the model runs with a blank image."""
    model, given = plan.model, {}
    if not isinstance(model, BaseModel):
        return
    takes, gives = image_channels(model)
    if gives == 3 and takes not in (None, 3):  # a mean of one value applies to all channels
        yield Problem(f'model.backbone takes images of {takes} channels, and model.data_preprocessor gives 3',
                      f'Make model.backbone.in_channels and model.data_preprocessor.mean agree in {plan.cfg.filename}')
        return
    shapes = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    misfit = find_misfit(model, {size: BaseDataElement(metainfo=dict(dict.fromkeys(shapes, (size, size)), scale_factor=(
        1., 1.))) for size in SIZES}, given)
    if misfit is not None:
        part = misfit.layer.split('.')[0]
        before = [f'; model.{name} gives {[shape[0] for shape in levels]}' for name, levels in given.items()
                  if name != part]
        yield Problem(f'model.{misfit.layer} takes {misfit.takes} channels and gets {misfit.gets}'
                      f'{"".join(before[-1:])}',
                      f'Make the channels that model.{part} takes in {plan.cfg.filename} agree')
    wanted, levels = getattr(getattr(model, 'neck', None), 'in_channels', None), given.get('backbone')
    if isinstance(wanted, (list, tuple)) and levels and len(wanted) != len(levels) and 'neck' not in given:
        yield Problem(f'model.neck takes {len(wanted)} levels, of {list(wanted)} channels, and model.backbone gives '
                      f'{len(levels)}, of {[shape[0] for shape in levels]}',
                      f'Make model.neck.in_channels agree in {plan.cfg.filename}')
    for what, path in disagreements(model, given, SIZES[-1]):
        yield Problem(what, plan.fix(path))
