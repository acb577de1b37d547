"""Checks of the checkpoints that a run starts from: they can be read, and belong to the model."""
from typing import Any, Dict, Iterator

from mmengine.model import BaseModule

from mmrev.checkpoints import load_local, mismatch, not_resumable
from mmrev.checkpoints.reading import holds_numbers, no_numbers
from mmrev.models.backbone import Backbone
from mmrev.models.pretrained import load_weights, starts_from_weights
from mmrev.problems import Problem, ProblemError

from .plan import Plan


def start(plan: Plan) -> Iterator[Problem]:
    """The checkpoint that the command starts from holds this model; mmengine would continue with random weights."""
    file = plan.cfg.get('load_from')
    if not file or '://' in file:
        return
    checkpoint = load_local(file)
    missing = not_resumable(checkpoint) if plan.cfg.get('resume') else ''
    if missing:
        yield Problem(f'checkpoint `{file}` cannot be resumed: it has no {missing}, or nothing valid there',
                      f'To start from its weights: --cfg-options load_from={file}')
    elif plan.model is not None:
        yield from unfit(plan, checkpoint, file)


def unfit(plan: Plan, checkpoint: Dict[str, Any], file: str) -> Iterator[Problem]:
    """Why a checkpoint does not fit the model. To test or resume it must hold all weights, to train some of them."""
    state = checkpoint.get('state_dict', checkpoint)
    own = {key.removeprefix('module.'): value for key, value in plan.model.state_dict().items()}  # of augmentation
    fitting = 0
    for name, value in state.items():
        there = own.get(name.removeprefix('module.')) if isinstance(name, str) else None
        if there is not None and not holds_numbers(value, there):
            raise no_numbers(file, name, value)
        fitting += there is not None and there.shape == value.shape
    other = mismatch(plan.model, checkpoint) if plan.cfg.get('resume') or 'train' not in plan.splits else ''
    if not fitting:
        yield Problem(f'checkpoint `{file}` holds no weight of this config\'s {type(plan.model).__name__}',
                      'Give the config that it was trained with')
    elif other:
        start = f'; to start from its weights: --cfg-options load_from={file}' * bool(plan.cfg.get('resume'))
        yield Problem(f'checkpoint `{file}` is of another model: {other}',
                      f'Give the config that it was trained with{start}')


def pretrained(plan: Plan) -> Iterator[Problem]:
    """Local checkpoints in the ``init_cfg`` of a module can be read, and belong to it."""
    for name, module in plan.model.named_modules() if plan.model is not None and 'train' in plan.splits else ():
        given = getattr(module, 'init_cfg', None) or ()
        for entry in given if isinstance(given, (list, tuple)) else [given]:
            if not starts_from_weights(entry) or '://' in str(entry['checkpoint']):
                continue
            try:
                content = load_local(str(entry['checkpoint']))
                # A module with an `init_weights` of its own may convert names, as mmdet's Swin does.
                if isinstance(module, Backbone) or type(module).init_weights is BaseModule.init_weights:
                    load_weights(module, content, entry['checkpoint'], entry.get('prefix'))
            except ProblemError as error:
                path = '.'.join(filter(None, ('model', name, 'init_cfg.checkpoint')))
                yield Problem(f'{error.what} ({path})', error.fix, error.__cause__)
