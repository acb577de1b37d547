"""InPlace-ABN for any model of mmdet, mmpretrain or mmseg, by a line of the config."""
import copy
from typing import Dict, List, Optional, Tuple

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from mmrev.registry import HOOKS
from mmrev.surgery import activated_twice, convert_batchnorm, to_batchnorm
from mmrev.surgery.find import ACTIVATED, is_activation

Negative = Dict[str, List[int]]  # negative channels, by the name of the weight


@HOOKS.register_module()
class InPlaceABNHook(Hook):
    """Convert the model's batch norms to InPlace-ABN when training, validation or testing starts, and log the changes.

    The weights are loaded before the conversion, so checkpoints of the model with batch norms load unchanged. Saved
    checkpoints have the same format: they load with or without this hook. Without it, a ReLU that became leaky is a
    ReLU again. Channels whose weight became negative in training are recorded under ``inplace_abn_negative``, so that a
    resumed training is identical to an uninterrupted one. An exponential moving average (``EMAHook``) is
    converted with the model.

    Args:
        relu: ``'leaky'`` replaces each ReLU after a norm in training mode by a leaky ReLU, which changes the function;
            by default such pairs are not converted (:func:`mmrev.surgery.convert_batchnorm`).
        slope: Negative slope of the leaky ReLUs.

    Raises:
        ValueError: If an activation follows a norm that already includes one, when a run starts or in its first
            iteration.

    Example:
        >>> custom_hooks = [dict(type='mmrev.InPlaceABNHook')]
    """

    priority = 'LOW'  # after EMAHook has added the averaged weights to the checkpoint

    def __init__(self, relu: Optional[str] = None, slope: float = 0.01):
        self.relu = relu
        self.slope = slope
        self._watched: Optional[list] = None  # handles of the hooks that watch the first iteration
        self._eps: Optional[Dict[str, float]] = None  # rewritten layers, by the name of their weight
        self._negative: Tuple[Negative, Negative] = {}, {}  # in the checkpoint for the model, for its average

    def before_train(self, runner) -> None:
        """Convert the model with its initial weights."""
        self._convert(runner)

    def before_val(self, runner) -> None:
        """Convert the model unless training did."""
        self._convert(runner)

    def before_test(self, runner) -> None:
        """Convert the model with the weights to be tested."""
        self._convert(runner)

    def before_train_epoch(self, runner) -> None:
        """Watch the first iteration for activations that only the forward reveals."""
        if self._watched is None:
            self._watched = watch_activations(_unwrapped(runner.model))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Stop watching."""
        while self._watched:
            self._watched.pop().remove()

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Keep the signs that a resumed training needs; convert weights for a model that is already converted."""
        negative = checkpoint.get('inplace_abn_negative', {})
        swapped = runner._resume and 'ema_state_dict' in checkpoint and _averages(runner)  # as EMAHook does
        self._negative = negative.get('ema_state_dict' if swapped else 'state_dict', {}), negative.get('state_dict', {})
        if self._eps is None:
            return
        plain = to_batchnorm(copy.deepcopy(_unwrapped(runner.model)))
        plain.load_state_dict(checkpoint['state_dict'], strict=False)
        convert_batchnorm(plain, self.relu, self.slope)
        _negate(plain, self._negative[0])
        checkpoint['state_dict'] = plain.state_dict()

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Save the weights in the format of batch norms, and record which were negative."""
        for states in ('state_dict', 'ema_state_dict'):
            for name, weight in list(checkpoint.get(states, {}).items()):
                plain_name = name[len('module.'):] if name.startswith('module.') else name
                eps = (self._eps or {}).get(plain_name)
                if eps is not None:
                    checkpoint[states][name] = weight.abs() + eps
                    negative = checkpoint.setdefault('inplace_abn_negative', {}).setdefault(states, {})
                    negative[plain_name] = (weight < 0).nonzero().flatten().tolist()

    def _convert(self, runner) -> None:
        if self._eps is not None:
            return
        model = _unwrapped(runner.model)
        check_activations(model)
        conversion = convert_batchnorm(model, self.relu, self.slope)
        _negate(model, self._negative[0])
        for average in _averages(runner):
            other = convert_batchnorm(average, self.relu, self.slope)
            _negate(average, self._negative[1])
            apart = [name for name in {**conversion.converted, **other.converted}
                     if name in conversion.kept or name in other.kept
                     or conversion.folded.get(name) != other.folded.get(name)]
            if apart:
                runner.logger.warning(_APART.format(', '.join(apart)))
        self._eps = {f'{name}.weight'.lstrip('.'): m.eps for name, m in model.named_modules()
                     if hasattr(m, 'rewritten') and m.affine}
        runner.logger.info(f'InPlaceABNHook: {conversion}')


_APART = ('InPlaceABNHook: the weights of the moving average have other signs than those of the model, so the two were '
          'converted differently, and averaging them changes the function: {}. To restart the average, use `load_from` '
          'instead of resuming')


def _averages(runner) -> List[nn.Module]:
    """The averaged models."""
    averaged = [getattr(hook, 'ema_model', None) for hook in runner.hooks]
    return [_unwrapped(a.module) for a in averaged if isinstance(a, nn.Module)]


@torch.no_grad()
def _negate(model: nn.Module, negative: Negative) -> None:
    """Restore the signs of weights. The optimizer state depends on them, the function does not."""
    layers = dict(model.named_modules())
    for name, channels in negative.items():
        layer = layers.get(name.rpartition('.')[0])
        if hasattr(layer, 'rewritten'):
            layer.weight[channels] *= -1


def check_activations(model: nn.Module) -> None:
    """Check that no activation follows a norm that includes one.

    Args:
        model: The model to check.

    Raises:
        ValueError: If an activation does.
    """
    twice = activated_twice(model)
    if twice:
        named: List[str] = [f'{act} after {norm}' for norm, act in twice.items()]
        more = f' and {len(named) - 4} more' if len(named) > 4 else ''
        raise ValueError(_TWICE.format(', '.join(named[:4]) + more))


_TWICE = ('an activation follows a norm that already includes one: {}. Set `act_cfg=None` there; or use batch norms '
          'and `custom_hooks=[dict(type="mmrev.InPlaceABNHook")]`, which converts norms with their activations')


def watch_activations(model: nn.Module) -> list:
    """Make the forward raise if the input of an activation is the output of a norm that includes an activation.

    Args:
        model: The model to watch.

    Returns:
        Handles; call ``remove()`` on each to stop.
    """
    names, given = {m: name for name, m in model.named_modules()}, WeakIdKeyDictionary()

    def note(norm, _, output):
        if norm.activation != 'identity':
            given[output] = names[norm]

    def look(act, inputs):
        norm = given.get(inputs[0]) if inputs and isinstance(inputs[0], Tensor) else None
        if norm is not None and not isinstance(act, nn.Identity):
            raise ValueError(_TWICE.format(f'{names[act]} after {norm}'))

    return [m.register_forward_hook(note) if isinstance(m, ACTIVATED) else m.register_forward_pre_hook(look)
            for m in model.modules() if isinstance(m, ACTIVATED) or is_activation(m)]


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
