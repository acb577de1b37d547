"""Weights, inputs and comparison for the golden records of published implementations (``tests/data/golden``).

A record holds what a published model computes in float64 with weights filled by its own names. A number agrees if it
differs by at most 1e-9 of the recorded one, or of a millionth of the largest of its kind where it is next to nothing.
"""
import json
import zlib
from pathlib import Path
from typing import Callable, Dict, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parents[1] / 'data' / 'golden'


class GoldenRecord:
    """One record: ``name``, and per published name its shape and, if results were recorded, its gradient norm.

    Without results, a record has only ``name`` and ``tensors`` (CONTRIBUTING.md has the code that writes it).
    """

    def __init__(self, name: str):
        content = json.loads((FOLDER / f'{name}.json').read_text())
        self.name = content['name']
        self.num_params = content.get('num_params')
        self.outputs = {mode: content.get(f'{mode}_output') for mode in ('eval', 'train')}
        self.shapes = {key: tuple(entry[0]) for key, entry in content['tensors'].items()}
        self.grad_norms = {key: entry[1] for key, entry in content['tensors'].items() if len(entry) > 1}
        self.input = _random(f'input:{self.name}', content.get('input_shape', ()))

    def state_dict(self) -> Dict[str, Tensor]:
        return {key: _weight(key, shape) for key, shape in self.shapes.items()}

    def cotangent(self, numel: int) -> Tensor:
        """The weights of the output's elements in the loss whose gradients are recorded."""
        return _random(f'input:{self.name}:cotangent', (numel, ))

    def check_output(self, mode: str, outputs: Sequence[Tensor]) -> Tensor:
        """Compare with the recorded output; returns the flattened one."""
        flat = torch.cat([x.flatten() for x in outputs])
        recorded = self.outputs[mode]
        first = dict(enumerate(flat[:32].tolist()))
        _check(f'{mode} output', first, dict(enumerate(recorded['first'])))
        _check(f'{mode} output', {'norm': flat.norm().item()}, {'norm': recorded['norm']})
        _check(f'{mode} output', {'mean': flat.mean().item()}, {'mean': recorded['mean']})
        return flat

    def check_gradients(self, gradients: Dict[str, Tensor]) -> None:
        """Compare the norms of gradients, by published name."""
        assert set(gradients) == set(self.grad_norms)
        _check('gradient', {key: g.norm().item() for key, g in gradients.items()}, self.grad_norms)


def assert_agrees(model: nn.Module, record: GoldenRecord, convert_state_dict: Callable[[dict], dict]) -> None:
    """Give a model the record's weights, then compare its outputs, in eval and in training, and all gradients."""
    model.double().load_state_dict(convert_state_dict(record.state_dict()))
    with torch.no_grad():
        record.check_output('eval', _as_tuple(model.eval()(record.input)))
    flat = record.check_output('train', _as_tuple(model.train()(record.input)))
    (flat * record.cotangent(len(flat))).sum().backward()
    published = convert_state_dict({key: key for key in record.shapes})
    record.check_gradients({published[name]: p.grad for name, p in model.named_parameters()})
    assert sum(p.numel() for p in model.parameters()) == record.num_params


def _as_tuple(outputs) -> Tuple[Tensor, ...]:
    return (outputs, ) if isinstance(outputs, Tensor) else tuple(outputs)


def _check(kind: str, got: dict, recorded: dict) -> None:
    largest = max(map(abs, recorded.values()))
    for key, expected in recorded.items():
        error = abs(got[key] - expected)
        assert error <= 1e-9 * max(abs(expected), 1e-6 * largest), f'{kind} {key}: {got[key]}, recorded {expected}'


def _random(seed_text: str, shape: Sequence[int]) -> Tensor:
    rng = np.random.RandomState(zlib.crc32(seed_text.encode()))
    return torch.from_numpy(rng.standard_normal(tuple(shape)))


def _weight(key: str, shape: Sequence[int]) -> Tensor:
    kind = key.rsplit('.', 1)[-1]
    if kind == 'num_batches_tracked':
        return torch.zeros(tuple(shape), dtype=torch.long)
    x = _random(key, shape) if shape else torch.zeros(())
    if kind == 'running_mean':
        return 0.1 * x
    if kind == 'running_var':
        return 1 + 0.1 * x.abs()
    if len(shape) <= 1:
        return 1 + 0.1 * x if kind == 'weight' else 0.1 * x
    if 'pos_embed' in kind or kind in ('cls_token', 'relative_position_bias_table'):
        return 0.02 * x
    return x / np.sqrt(np.prod(shape[1:]))
