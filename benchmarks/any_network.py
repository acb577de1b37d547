"""Stock networks of mmdet and mmpretrain compared with `mmrev.save_memory` and with PyTorch's checkpointing.

    python benchmarks/any_network.py                    # memory and errors of all, some minutes on two cores
    python benchmarks/any_network.py time --only r50    # the time of a step, in turn with that of the stock network
    python benchmarks/any_network.py table              # what was measured so far, as the table of docs/memory.md
    python benchmarks/any_network.py table picture      # and as the picture of README.md
    python benchmarks/any_network.py detectors          # whole detectors, predicted

Memory is bytes per image, stored for backward and at the peak of a training step: the slope between two batch sizes, so
weights and their gradients are not included. Errors are the largest differences of outputs, gradients and statistics
from those of the stock network in float64, relative to the largest value of each kind; in float32 and under autocast to
bfloat16, relative to the stock network's own noise. Time is that of the process on one thread; nothing else may run on
the machine meanwhile.
"""
import argparse
import contextlib
import copy
import json
import statistics
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Sequence

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import mmrev
from mmrev.surgery.recomputation import find_blocks
from mmrev.testing import PeakMemory

MIB = 2**20
BATCHES = 2, 4
ERROR_SIZE = 96  # pixels
LOW = 'float32', 'bfloat16'
FORMS = ('cheap', 'blocks', 'checkpoint', 'selective', 'with_cp', 'compile')
BUDGET = 0.5  # of torch.compile: 1 recomputes what is fused, 0 everything
PARTS = {'memory', 'error', 'time', 'table', 'detectors', 'picture'}


class Network(NamedTuple):
    """A backbone of a host, with the size of its images; on the meta device unless its operators need another."""
    config: Dict[str, Any]
    size: int = 224
    device: str = 'meta'

    @property
    def smaller(self) -> int:
        """Its size, or a smaller one if it takes any."""
        fixed = 'img_size' in self.config or self.config['type'] == 'mmpretrain.EfficientFormer'
        return self.size if fixed else min(self.size, ERROR_SIZE)


def _mmpretrain(type: str, *args: Any, size: int = 224, device: str = 'meta', **config: Any) -> Network:
    return Network(dict(type=f'mmpretrain.{type}', **config), size, device)


def _mmdet(type: str, size: int = 320, **config: Any) -> Network:
    return Network(dict(type=f'mmdet.{type}', **config), size)


BN = dict(norm_cfg=dict(type='BN'))
NETWORKS: Dict[str, Network] = {
    'YOLOX-s CSPDarknet': _mmdet('CSPDarknet', deepen_factor=.33, widen_factor=.5, act_cfg=dict(type='Swish'), **BN),
    'RTMDet-tiny CSPNeXt': _mmdet('CSPNeXt', deepen_factor=.167, widen_factor=.375, **BN,
                                  act_cfg=dict(type='SiLU', inplace=True)),
    'Darknet-53': _mmdet('Darknet', depth=53, norm_eval=False, **BN),
    'R50, norm_eval, first stage frozen': _mmdet('ResNet', depth=50, norm_eval=True, frozen_stages=1),
    'PVTv2-B0': _mmdet('PyramidVisionTransformerV2', size=224, embed_dims=32, num_layers=[2, 2, 2, 2]),
    'ResNet-18': _mmpretrain('ResNet', depth=18),
    'ResNet-50': _mmpretrain('ResNet', depth=50),
    'ResNeXt-50 32x4d': _mmpretrain('ResNeXt', depth=50),
    'SE-ResNet-50': _mmpretrain('SEResNet', depth=50),
    'ResNeSt-50': _mmpretrain('ResNeSt', depth=50),
    'Res2Net-50': _mmpretrain('Res2Net', depth=50, scales=4, base_width=26),
    'RegNetX-800MF': _mmpretrain('RegNet', arch='regnetx_800mf'),
    'HRNet-W18': _mmpretrain('HRNet', arch='w18'),
    'DenseNet-121': _mmpretrain('DenseNet', arch='121'),
    'VGG-11 BN': _mmpretrain('VGG', depth=11, **BN),
    'CSPDarkNet-53': _mmpretrain('CSPDarkNet', depth=53),
    'RepVGG-A0': _mmpretrain('RepVGG', arch='A0'),
    'MobileNetV2': _mmpretrain('MobileNetV2'),
    'MobileNetV3 large': _mmpretrain('MobileNetV3', arch='large'),
    'MobileOne-S0': _mmpretrain('MobileOne', arch='s0'),
    'ShuffleNetV2': _mmpretrain('ShuffleNetV2'),
    'EfficientNet-B0': _mmpretrain('EfficientNet', arch='b0'),
    'EfficientNetV2-S': _mmpretrain('EfficientNetV2', arch='s'),
    'InceptionV3': _mmpretrain('InceptionV3', size=299, num_classes=0),
    'ConvMixer-768/32': _mmpretrain('ConvMixer', arch='768/32'),
    'ConvNeXt-T': _mmpretrain('ConvNeXt', arch='tiny', drop_path_rate=.1),
    'VAN-B0': _mmpretrain('VAN', arch='tiny'),
    'PoolFormer-S12': _mmpretrain('PoolFormer', arch='s12'),
    'EdgeNeXt-XXS': _mmpretrain('EdgeNeXt', arch='xxsmall'),
    'EfficientFormer-L1': _mmpretrain('EfficientFormer', arch='l1'),
    'Swin-T': _mmpretrain('SwinTransformer', arch='tiny', img_size=224, drop_path_rate=.2),
    'SwinV2-T': _mmpretrain('SwinTransformerV2', arch='tiny', img_size=256, size=256, drop_path_rate=.2),
    'Twins-PCPVT-S': _mmpretrain('PCPVT', arch='small'),
    'MViTv2-T': _mmpretrain('MViT', arch='tiny'),
    'DeiT-S': _mmpretrain('VisionTransformer', arch='deit-small', img_size=224, patch_size=16, device='cpu'),
    'T2T-ViT-14': _mmpretrain('T2T_ViT', t2t_cfg=dict(token_dims=64, use_performer=False), num_layers=14,
                              layer_cfgs=dict(num_heads=6, feedforward_channels=3 * 384), device='cpu'),
}

DETECTORS = {  # configs, height and width
    'YOLOX-s': ('mmdet::yolox/yolox_s_8xb8-300e_coco.py', 640, 640),
    'RTMDet-tiny': ('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', 640, 640),
    'Faster R-CNN R50-FPN': ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 800, 1344),
    'Mask R-CNN Swin-T': ('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py', 800, 1344),
}


def build(network: Network, **changes: Any) -> nn.Module:
    """The stock network, in training mode, with changes of its config."""
    from mmdet.registry import MODELS as mmdet_models
    from mmpretrain.registry import MODELS as mmpretrain_models
    torch.manual_seed(0)
    registry = mmdet_models if network.config['type'].startswith('mmdet') else mmpretrain_models
    model = registry.build({**copy.deepcopy(network.config), **changes})
    model.train()
    return model


def prepare(model: nn.Module, form: str) -> nn.Module:
    """One of the forms; PyTorch's checkpointing gets the same blocks as ours."""
    if form in ('cheap', 'blocks'):
        mmrev.save_memory(model, form)
    elif form in ('checkpoint', 'selective'):
        context = dict(context_fn=partial(create_selective_checkpoint_contexts, _policy)) if form == 'selective' else {}
        for block in find_blocks(model):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, **context)
    return model


_DEAR = {torch.ops.aten.convolution.default, torch.ops.aten.mm.default, torch.ops.aten.bmm.default,
         torch.ops.aten.addmm.default, torch.ops.aten.baddbmm.default,
         torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
         torch.ops.aten._scaled_dot_product_flash_attention.default,
         torch.ops.aten._scaled_dot_product_efficient_attention.default}


def _policy(ctx, op, *args, **kwargs) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in _DEAR else CheckpointPolicy.PREFER_RECOMPUTE


def total(outputs: Any) -> torch.Tensor:
    """The sum of all values."""
    return outputs.sum() if isinstance(outputs, torch.Tensor) else sum(total(o) for o in outputs if o is not None)


def measure_memory(network: Network, form: str, autocast: bool) -> Dict[str, float]:
    """MiB per image, stored after the forward and at the peak."""
    device = 'cpu' if autocast else network.device
    fake = FakeTensorMode(allow_non_fake_inputs=True) if autocast else contextlib.nullcontext()
    ends: List[Any] = []
    for batch in BATCHES:
        changes = dict(with_cp=True) if form == 'with_cp' else {}
        model = prepare(build(network, **changes), form).to(device)
        with fake:
            images = torch.zeros(batch, 3, network.size, network.size, device=device)
        with fake, PeakMemory() as memory:
            for p in model.parameters():
                p.grad = torch.zeros_like(p) if p.requires_grad else None
            with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
                outputs = model(images)
            kept = memory.current
            total(outputs).backward()
        ends.append((kept, memory.peak))
    few, many = ends
    return {key: (b - a) / (BATCHES[1] - BATCHES[0]) / MIB for key, a, b in zip(('kept', 'peak'), few, many)}


def measure_compiled(network: Network) -> Dict[str, float]:
    """MiB per image that ``torch.compile`` with a memory budget keeps; its peak is not measured."""
    import torch._functorch.config
    torch._functorch.config.activation_memory_budget = BUDGET
    sizes = []
    for batch in BATCHES:
        torch._dynamo.reset()
        model = build(network)
        images = torch.zeros(batch, 3, network.size, network.size)
        outputs = torch.compile(model, backend='aot_eager_decomp_partition')(images)
        sizes.append(_saved_bytes(total(outputs), [images, *model.parameters()]))
    return dict(kept=(sizes[1] - sizes[0]) / (BATCHES[1] - BATCHES[0]) / MIB)


def _saved_bytes(output: torch.Tensor, apart: List[torch.Tensor]) -> int:
    """Bytes that the graph of an output holds."""
    nodes, found = [output.grad_fn], {}
    seen = {None}
    while nodes:
        node = nodes.pop()
        if node not in seen:
            seen.add(node)
            nodes += [following for following, _ in node.next_functions]
            saved = [getattr(node, name) for name in dir(node) if name.startswith('_saved_')]
            for x in tree_leaves([saved, getattr(node, 'saved_tensors', ())]):
                if isinstance(x, torch.Tensor):
                    found[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
    for x in apart:
        found.pop(x.untyped_storage()._cdata, None)
    return sum(found.values())


def measure_error(network: Network, form: str, size: int = 0, low: Sequence[str] = LOW) -> Dict[str, float]:
    """Largest difference from the stock network of outputs, gradients and buffers, relative to the largest of a kind.

    That of float32 and of autocast to bfloat16 is divided by the stock network's own noise: its largest difference if
    each value of the images changes by half a rounding.

    Args:
        network: The network.
        form: Of :data:`FORMS`.
        size: Of the images; by default 96 pixels if the network takes images of any size.
        low: Which of float32 and bfloat16 to measure besides float64.
    """
    size = size or network.smaller
    stock = build(network)
    torch.manual_seed(3)
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    sign = torch.randn_like(images).sign()
    found = dict(error=_difference(*(_step(_cast(stock, torch.float64), kind, images) for kind in ('plain', form))))
    for kind in low:
        autocast = kind == 'bfloat16'
        plain, ours = (_step(_cast(stock, torch.float32), f, images.float(), autocast) for f in ('plain', form))
        found[kind] = _difference(plain, ours)
        if found[kind]:
            noise = torch.finfo(getattr(torch, kind)).eps / 2 * sign
            found[kind] /= _difference(plain, _step(stock, 'plain', (images * (1 + noise)).float(), autocast))
    return found


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    for module in model.modules():
        if isinstance(getattr(module, 'dtype', None), torch.dtype):
            module.dtype = dtype  # of EdgeNeXt's position encodings
    return model.to(dtype)


Results = Dict[str, Dict[str, torch.Tensor]]


def _step(stock: nn.Module, form: str, images: torch.Tensor, autocast: bool = False) -> Results:
    model = prepare(copy.deepcopy(stock), form)
    torch.manual_seed(1)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        outputs = model(images)
    loss = _weighted(outputs)
    torch.manual_seed(2)
    loss.backward()
    return dict(outputs={'': loss.detach()},
                gradients={name: p.grad for name, p in model.named_parameters() if p.grad is not None},
                buffers={name: b for name, b in model.named_buffers() if b.is_floating_point()})


def _difference(plain: Results, ours: Results) -> float:
    errors = [0.]
    for kind, values in plain.items():
        assert values.keys() == ours[kind].keys()
        values = {name: value for name, value in values.items() if value.numel()}
        largest = max((v.abs().max().item() for v in values.values()), default=0.) or 1.
        errors += [(v - ours[kind][name]).abs().max().item() / largest for name, v in values.items()]
    return max(errors)


def _weighted(outputs: Any) -> torch.Tensor:
    if isinstance(outputs, torch.Tensor):
        outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
        weights = torch.arange(outputs.numel(), dtype=outputs.dtype)
        return (outputs * (weights * 0.7).sin().view(outputs.shape)).sum()
    return sum(_weighted(o) for o in outputs if o is not None)


def measure_time(network: Network, form: str, rounds: int, batch: int) -> float:
    """Median of a step's time relative to the stock network's, in pairs."""
    torch.set_num_threads(1)
    images = torch.randn(batch, 3, network.size, network.size)
    models = [prepare(build(network), kind) for kind in ('plain', form)]
    ratios = []
    for _ in range(rounds + 2):
        taken = []
        for model in models:
            begin = time.process_time()
            total(model(images)).backward()
            taken.append(time.process_time() - begin)
            model.zero_grad()
        ratios.append(taken[1] / taken[0])
    return statistics.median(ratios[2:])


def measure_time_in_processes(*args: Any, processes: int) -> float:
    """Median of several new processes: what earlier networks leave in the allocator shifts a ratio by up to 0.1."""
    with get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
        return statistics.median(pool.starmap(measure_time, [args] * processes, chunksize=1))


def measure_detector(config: str, height: int, width: int, level: str) -> float:
    """MiB per image at the peak of a training step of a whole detector, predicted as by ``mmrev memory``."""
    from mmrev.apis.run import load_config
    from mmrev.memory.forecast import Forecaster
    from mmrev.memory.training import Batch
    cfg = load_config(config, {})
    if level != 'plain':
        hook = dict(type='mmrev.SaveMemoryHook', level=level)
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or ()), hook]
    forecaster = Forecaster(cfg)
    few, many = (forecaster(Batch(batch, height, width)).peak for batch in BATCHES)
    return (many - few) / (BATCHES[1] - BATCHES[0]) / MIB


def detectors(only: str) -> None:
    """Print what whole detectors need."""
    print('| detector | size | stock, MiB | cheap | blocks |\n|---|---|---|---|---|')
    for name, (config, height, width) in DETECTORS.items():
        if only.lower() in name.lower():
            plain, *saving = (measure_detector(config, height, width, level) for level in ('plain', *FORMS[:2]))
            cells = ' | '.join(f'{peak:,.0f} ({peak / plain:.2f})' for peak in saving)
            print(f'| {name} | {height}x{width} | {plain:,.0f} | {cells} |', flush=True)


def table(figures: Dict[str, Any]) -> str:
    """Markdown: shares of the stock network's bytes and time."""
    lines = ['| network | size | stock, MiB | cheap | blocks | checkpointing | selective | with_cp | compile | error |',
             '|---|---|---|---|---|---|---|---|---|---|']
    for name, row in figures.items():
        if not row['plain']:
            continue  # only its time has been measured
        cells = [_cell(row, form) for form in FORMS]
        lines.append(f'| {name} | {NETWORKS[name].size} | {row["plain"]["kept"]:.1f} | {" | ".join(cells)} | '
                     f'{_errors(row)} |')
    return '\n'.join(lines)


def draw(figures: Dict[str, Any], file: Path) -> None:
    """Peak bytes of a training step of each network, relative to the stock network's."""
    from matplotlib.figure import Figure
    shown = {'cheap': ("mmrev, level='cheap'", 'o', '#1b6ca8'), 'blocks': ("mmrev, level='blocks'", 's', '#d1495b'),
             'selective': ('selective checkpointing', '|', '#777777'), 'checkpoint': ('checkpointing', 'x', '#777777')}
    rows = {name: row for name, row in figures.items() if row['plain']}
    names = sorted(rows, key=lambda name: rows[name]['cheap']['peak'] / rows[name]['plain']['peak'])
    figure = Figure(figsize=(9, 8), layout='constrained')
    axes = figure.subplots()
    for form, (label, marker, colour) in shown.items():
        got = [(rows[name][form]['peak'] / rows[name]['plain']['peak'], y) for y, name in enumerate(names)
               if 'peak' in rows[name].get(form, {})]
        axes.scatter(*zip(*got), label=label, marker=marker, color=colour, zorder=2)
    axes.set_yticks(range(len(names)), names, fontsize='small')
    axes.grid(color='#dddddd')
    axes.set(xlim=(0, 1.02), ylim=(-1, len(names)),
             xlabel="peak bytes per image of a training step, relative to the stock network's")
    axes.legend(loc='lower right')
    figure.savefig(file, dpi=110)


def _errors(row: Dict[str, Any]) -> str:
    found = [row[form] for form in FORMS[:2] if 'error' in row.get(form, {})]
    worst = [max(got[key] for got in found) for key in ('error', 'float32', 'bfloat16')] if found else []
    return ', '.join(f'{error:.0e}' if error else '0' for error in worst)


def _cell(row: Dict[str, Any], form: str) -> str:
    got = row.get(form, {})
    shares = [f'{got[key] / row["plain"][key]:.2f}' for key in ('kept', 'peak') if key in got and row['plain']]
    shares += [f'{got["time"]:.2f}'] if 'time' in got else []
    return ', '.join(shares) or got.get('failure') or _errors({form: got})


def main(argv=None):
    """Measure, write the figures after every network, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('parts', nargs='*', default=['memory', 'error'], help=f'of {", ".join(sorted(PARTS))}')
    parser.add_argument('--only', default='', help='networks whose name holds this')
    parser.add_argument('--forms', nargs='+', default=list(FORMS), choices=FORMS)
    parser.add_argument('--autocast', action='store_true', help='memory under autocast to bfloat16')
    parser.add_argument('--rounds', type=int, default=9, help='timed pairs, after two that are not')
    parser.add_argument('--processes', type=int, default=3, help='new processes that time, of which the median counts')
    parser.add_argument('--batch', type=int, default=2, help='images of a timed step')
    parser.add_argument('--out', type=Path, default='work_dirs/benchmark_any_network.json')
    args = parser.parse_args(argv)
    unknown = set(args.parts) - PARTS
    if unknown:
        parser.error(f'unknown part: {", ".join(sorted(unknown))}; there are {", ".join(sorted(PARTS))}')
    torch.set_num_threads(1)
    if 'detectors' in args.parts:
        return detectors(args.only)
    figures = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name, network in NETWORKS.items():
        if args.only.lower() not in name.lower() or set(args.parts) <= {'table', 'picture'}:
            continue
        row = figures.setdefault(name, {'plain': {}})
        if 'memory' in args.parts:
            row['plain'].update(measure_memory(network, 'plain', args.autocast))
        for form in args.forms:
            _measure(args, network, form, row.setdefault(form, {}))
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(figures, indent=2))
        print(f'{name}: ' + '; '.join(f'{form} {_cell(row, form)}' for form in args.forms), flush=True)
    print(table(figures))
    if 'picture' in args.parts:
        draw(figures, args.out.with_suffix('.png'))


def _measure(args: argparse.Namespace, network: Network, form: str, into: Dict[str, Any]) -> None:
    parts: Dict[str, Callable] = {
        'memory': lambda: into.update(measure_compiled(network) if form == 'compile' else
                                      measure_memory(network, form, args.autocast)),
        'error': lambda: form in FORMS[:2] and into.update(measure_error(network, form)),
        'time': lambda: form in FORMS[:4] and into.update(time=measure_time_in_processes(
            network, form, args.rounds, args.batch, processes=args.processes))}
    into.pop('failure', None)
    try:
        for part in args.parts:
            if part in parts:
                parts[part]()
    except Exception as error:  # PyTorch's checkpointing and compilation refuse some networks, and some lack `with_cp`
        if form in FORMS[:2]:
            raise
        into['failure'] = 'none' if form == 'with_cp' else f'fails: {type(error).__name__}'


if __name__ == '__main__':
    main()
