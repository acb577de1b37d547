"""Checks of the checkpoints that a run starts from: they can be read, and belong to the model."""
from typing import Any, Dict, Iterator

from torch import Tensor

from mmrev.checkpoints import load_local, mismatch, not_resumable
from mmrev.models.pretrained import load_weights, starts_from_weights
from mmrev.problems import Problem, ProblemError

from .plan import Plan, walk


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
    weights = {key.removeprefix('module.') for key in state if isinstance(key, str)}
    own = {key.removeprefix('module.'): value for key, value in plan.model.state_dict().items()}  # of a TTA model
    names = {}
    for name, value in state.items():
        there = own.get(name.removeprefix('module.')) if isinstance(name, str) else None
        if there is not None and not (isinstance(value, Tensor) and (
                value.is_floating_point() and bool(value.isfinite().all()) or not there.is_floating_point())):
            yield Problem(f'checkpoint `{file}` holds no real numbers for `{name}`, but ' +
                          (f'{value.dtype}, or NaN' if isinstance(value, Tensor) else type(value).__name__),
                          'Take another checkpoint, of the time before')
            return
        names[name] = there is not None and there.shape == value.shape
    other = mismatch(plan.model, checkpoint) if plan.cfg.get('resume') or 'train' not in plan.splits else ''
    if not weights & {*own} or not any(names.values()):
        yield Problem(f'checkpoint `{file}` holds no weight of this config\'s {type(plan.model).__name__}',
                      'Give the config that it was trained with')
    elif other:
        start = f'; to start from its weights: --cfg-options load_from={file}' * bool(plan.cfg.get('resume'))
        yield Problem(f'checkpoint `{file}` is of another model: {other}',
                      f'Give the config that it was trained with{start}')


def pretrained(plan: Plan) -> Iterator[Problem]:
    """Local checkpoints in an ``init_cfg`` can be read, and belong to that part of the model."""
    for path, entry in walk(plan.cfg.model, 'model') if 'train' in plan.splits else ():
        if not isinstance(entry, dict) or 'init_cfg' not in path or not starts_from_weights(entry):
            continue
        file, part = str(entry['checkpoint']), path.partition('.init_cfg')[0].removeprefix('model').lstrip('.')
        try:
            content = load_local(file) if '://' not in file else None
            if content is not None and entry.get('type') != 'Pretrained' and plan.model is not None:
                load_weights(plan.model.get_submodule(part), content, file, entry.get('prefix'))
        except ProblemError as error:
            yield Problem(f'{error.what} ({path}.checkpoint)', error.fix, error.__cause__)
