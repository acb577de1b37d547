"""Plans for memory budgets compared with uniform choices: peak bytes, gradients, and time of a training step.

    python benchmarks/budget.py                    # four networks, about an hour on one core
    python benchmarks/budget.py --only yolox       # networks whose name contains this
    python benchmarks/budget.py --table            # the figures that were measured so far, and the picture

Budgets are fractions of the peak with everything kept. Peaks are counted in real steps on the CPU. Times are processor
time of one thread, which hardly depends on other jobs: the median over rounds of a step (without optimizer)
over the round's plain one.
Gradients are compared in float64. `checkpoint` is torch.utils.checkpoint on the same blocks and functions.
"""
import gc
import importlib
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import cases
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint

from mmrev.apis.run import load_config
from mmrev.memory.budget import Choices, Planner, measure_speed
from mmrev.memory.forecast import Counter, Forecaster
from mmrev.memory.parts import apply
from mmrev.memory.training import Batch, Training
from mmrev.reversible import ReversibleSequence

MIB = 2**20
SHARES = (.9, .7, .5, .35, .25)
UNIFORM = ('all kept', 'all cheap', 'all recomputed or undone')
OURS = Path(__file__).parents[1] / 'configs'


class Case(NamedTuple):
    """A config, what is changed in it, and the batch."""
    config: Any
    batch: Batch
    options: Dict[str, Any] = {}


CASES = {
    'Faster R-CNN R50-FPN': Case('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', Batch(1, 384, 512)),
    'YOLOX-s': Case('mmdet::yolox/yolox_s_8xb8-300e_coco.py', Batch(4, 256, 256)),
    'ViT-S/16': Case('mmpretrain::vision_transformer/vit-base-p16_32xb128-mae_in1k.py', Batch(4, 224, 224),
                     {'model.backbone.arch': 'deit-small', 'model.backbone.drop_path_rate': 0.,
                      'model.head.in_channels': 384}),
    'RevBiFPN-S0': Case(OURS / 'revbifpn/revbifpn-s0_8xb128_in1k.py', Batch(8, 160, 160)),
}


def read(case: Case) -> Any:
    """Read the config of a case, with its changes."""
    return load_config(str(case.config), dict(case.options))


def apply_checkpoint(model: nn.Module, planner: Planner) -> Callable[[], None]:
    """Checkpoint every part that could be recomputed or undone."""
    sequences = [m for m in model.modules() if isinstance(m, ReversibleSequence) and m.reversible]
    for sequence in sequences:
        sequence.reversible = False
    modules = dict(model.named_modules())
    chosen = [modules[part.name] for part in planner.parts if len(part.choices) > 2]
    for module in chosen:
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)

    def remove() -> None:
        for sequence in sequences:
            sequence.reversible = True
        for module in chosen:
            del module.forward

    return remove


def measure(case: Case, rounds: int) -> Dict[str, Any]:
    """Peaks, gradients and times of all plans."""
    cfg, batch = read(case), case.batch
    planner = Planner(Forecaster(cfg), batch, measure_speed())
    plain = planner.plain.peak
    planner(0)
    ways: Dict[str, Optional[Choices]] = {name: planner.uniform(i) for i, name in enumerate(UNIFORM)}
    for share in SHARES:
        plan = planner(int(share * plain))
        if plan is not None:
            ways[f'budget {share:.0%}'] = plan.choices
    ways['checkpoint'] = None
    figures: Dict[str, Any] = dict(batch=list(batch), least=planner.least.peak, ways={})
    counter = Counter(cfg)
    model = counter.training.model
    for name, choices in ways.items():
        remove = apply_checkpoint(model, planner) if choices is None else apply(model, choices)
        figures['ways'][name] = dict(peak=counter(batch).peak)
        if choices is not None:
            figures['ways'][name].update(predicted=planner.forecast(choices).peak, expected=planner.cost(choices))
        remove()
    del counter, model
    gc.collect()
    for name, ratio in times(cfg, batch, planner, ways, rounds).items():
        figures['ways'][name]['time'] = ratio
    for name, error in gradient_errors(cfg, batch, ways).items():
        figures['ways'][name]['gradients'] = error
    return figures


def times(cfg: Any, batch: Batch, planner: Planner, ways: Dict[str, Optional[Choices]], rounds: int
          ) -> Dict[str, float]:
    """Processor time of forward and backward over that of the plain ones of the same round: the median."""
    data: Any = None
    models: Dict[str, Any] = {}
    for name, choices in ways.items():
        training = Training(cfg)
        models[name] = training.model
        apply_checkpoint(training.model, planner) if choices is None else apply(training.model, choices)
        data = data or training.data(batch)
    data['inputs'] = tree_map_only(Tensor, lambda x: x.random_(256), data['inputs'])
    ratios: Dict[str, List[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):  # in the first, the engine works out its plan and observes the functions
        taken = {name: seconds(model, data) for name, model in models.items()}
        for name in ways if turn else ():
            ratios[name].append(taken[name] / taken[UNIFORM[0]])
    return {name: statistics.median(values) for name, values in ratios.items()}


def seconds(model: Any, data: Any) -> float:
    """Processor time of one forward and backward."""
    seed()
    gc.collect()
    begin = time.process_time()
    losses = model(**model.data_preprocessor(data, True), mode='loss')
    model.parse_losses(losses)[0].backward()
    taken = time.process_time() - begin
    model.zero_grad()
    return taken


def seed() -> None:
    """The same random numbers again."""
    torch.manual_seed(0)
    np.random.seed(0)


def gradient_errors(cfg: Any, batch: Batch, ways: Dict[str, Optional[Choices]]) -> Dict[str, float]:
    """Largest difference of a gradient from plain's in float64, relative to the largest element of that gradient."""
    compiled = importlib.import_module('mmcv.ops.nms').ext_module  # for numbers of float32 only
    nms = compiled.nms
    torch.set_default_dtype(torch.float64)
    compiled.nms = lambda boxes, scores, **kwargs: nms(boxes.float(), scores.float(), **kwargs)
    try:
        training = Training(cfg)
        model = training.model.double()
        model.data_preprocessor.register_forward_hook(
            lambda module, args, out: tree_map_only(Tensor, lambda x: x.double() if x.is_floating_point() else x, out))
        assigner = getattr(getattr(model, 'bbox_head', None), 'assigner', None)
        if assigner is not None:  # YOLOX's writes numbers of float32 only
            assign = assigner.assign
            assigner.assign = lambda pred_instances, **kwargs: assign(
                pred_instances=pred_instances.to(torch.float32), **kwargs)
        data = training.data(batch._replace(images=min(batch.images, 2)))
        torch.manual_seed(0)
        data['inputs'] = tree_map_only(Tensor, lambda x: x.random_(256), data['inputs'])
        state = {name: value.clone() for name, value in model.state_dict().items()}

        def gradients(choices: Choices) -> List[Optional[Tensor]]:
            model.load_state_dict(state)
            remove = apply(model, choices)
            seed()
            model.zero_grad()
            losses = model(**model.data_preprocessor(data, True), mode='loss')
            model.parse_losses(losses)[0].backward()
            remove()
            return [p.grad for p in model.parameters()]

        expected, errors = gradients(ways[UNIFORM[0]]), {}
        for name, choices in ways.items():
            if choices is not None:
                pairs = [(a, b) for a, b in zip(gradients(choices), expected) if a is not None and b is not None]
                errors[name] = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-300)) for a, b in pairs)
        return errors
    finally:
        torch.set_default_dtype(torch.float32)
        compiled.nms = nms


def table(figures: Dict[str, Any]) -> str:
    """Markdown: each network's plans."""
    lines = ['| network | choice | peak, MiB | of plain | predicted | time of plain | gradients off by |',
             '|---|---|---|---|---|---|---|']
    for name, found in figures.items():
        plain = found['ways'][UNIFORM[0]]['peak']
        for way, row in found['ways'].items():
            predicted = f'{row["predicted"] / row["peak"] - 1:+.2%}' if 'predicted' in row else ''
            error = f'{row["gradients"]:.0e}' if row.get('gradients') is not None else ''
            lines.append(f'| {name} | {way} | {row["peak"] / MIB:,.1f} | {row["peak"] / plain:.1%} | {predicted} | '
                         f'{row["time"]:.3f} | {error} |')
    return '\n'.join(lines)


def draw(figures: Dict[str, Any], file: Path) -> None:
    """Time over memory, a panel for each network."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(4 * len(figures), 3.6), layout='constrained')
    for axes, (name, found) in zip(figure.subplots(1, len(figures), squeeze=False)[0], figures.items()):
        ways, plain = found['ways'], found['ways'][UNIFORM[0]]['peak']
        points = sorted((100 * row['peak'] / plain, row['time']) for way, row in ways.items()
                        if way.startswith('budget') or way == UNIFORM[0])
        axes.plot(*zip(*points), marker='o', label='plans for budgets', zorder=3)
        for way, marker in zip((*UNIFORM[1:], 'checkpoint'), 's^x'):
            axes.plot(100 * ways[way]['peak'] / plain, ways[way]['time'], marker, color='black', markersize=7,
                      markerfacecolor='none', label='torch.utils.checkpoint' if way == 'checkpoint' else way)
        axes.set(title=f'{name}, {"x".join(map(str, found["batch"][:3]))}', xlabel='peak, % of plain',
                 ylabel='time of a step, of plain')
        axes.grid(alpha=.3)
        axes.legend(fontsize='x-small')
    figure.savefig(file, dpi=110)


def main(argv=None):
    """Measure, write the figures after every network, print the table and draw the picture."""
    parser = cases.parser(__doc__, 'work_dirs/benchmark_budget.json')
    parser.add_argument('--rounds', type=int, default=7, help='steps of each choice')
    parser.add_argument('--picture', type=Path, default='work_dirs/budget.png')
    args = parser.parse_args(argv)
    figures = cases.measured(args, CASES, partial(measure, rounds=args.rounds), table)
    print(table(figures))
    draw(figures, args.picture)


if __name__ == '__main__':
    main()
