"""Plans for memory budgets compared with uniform choices: peak bytes, gradients, and time of a training step.

    python benchmarks/budget.py                    # four networks, about an hour on one core
    python benchmarks/budget.py --only yolox       # networks whose name contains this
    python benchmarks/budget.py --table            # the figures that were measured so far, and the picture

Budgets are fractions of the peak with everything kept. Peaks are counted in real steps on the CPU. Times are processor
time of one thread, which hardly depends on other jobs: the median over rounds of a step (without optimizer)
over the round's plain one, or over the best uniform choice within the same budget.
Gradients are compared in float64. torch.utils.checkpoint is on the same blocks and functions.
`activation_memory_budget` is that of torch.compile, which must trace the backbone: a ViT here, run by operators that
are not fused.
"""
import gc
import importlib
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

import cases
import numpy as np
import torch
import torch._functorch.config
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
CHECKPOINT = 'torch.utils.checkpoint'
COMPILED = {'activation_memory_budget 0.5': .5}  # models compiled with two budgets would share code
OURS = Path(__file__).parents[1] / 'configs'


class Case(NamedTuple):
    """A config, what is changed in it, and the batch."""
    config: Any
    batch: Batch
    options: Dict[str, Any] = {}
    compiled: bool = False  # torch.compile can trace its backbone


CASES = {
    'Faster R-CNN R50-FPN': Case('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', Batch(1, 384, 512)),
    'YOLOX-s': Case('mmdet::yolox/yolox_s_8xb8-300e_coco.py', Batch(4, 256, 256)),
    'ViT-S/16': Case('mmpretrain::vision_transformer/vit-base-p16_32xb128-mae_in1k.py', Batch(4, 224, 224),
                     {'model.backbone.arch': 'deit-small', 'model.backbone.drop_path_rate': 0.,
                      'model.head.in_channels': 384}, compiled=True),
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


def apply_compiled(model: nn.Module, budget: float) -> Callable[[], None]:
    """Let ``torch.compile`` choose what the backbone keeps; without a code generator, whose bytes nobody counts."""
    compiled = torch.compile(model.backbone.forward, backend='aot_eager_decomp_partition')

    def forward(*args: Any) -> Any:
        with torch._functorch.config.patch(activation_memory_budget=budget):
            return compiled(*args)

    model.backbone.forward = forward
    return partial(delattr, model.backbone, 'forward')


def prepare(model: nn.Module, way: str, choices: Optional[Choices], planner: Planner) -> Callable[[], None]:
    """Have a step of the model run in this way."""
    if choices is not None:
        return apply(model, choices)
    return apply_checkpoint(model, planner) if way == CHECKPOINT else apply_compiled(model, COMPILED[way])


def measure(case: Case, rounds: int) -> Dict[str, Any]:
    """Peaks, gradients and times of all plans."""
    cfg, batch = read(case), case.batch
    begin = time.process_time()
    planner = Planner(Forecaster(cfg), batch, measure_speed())
    plain = planner.plain.peak
    planner(0)
    ways: Dict[str, Optional[Choices]] = {name: planner.uniform(i) for i, name in enumerate(UNIFORM)}
    for share in SHARES:
        plan = planner(int(share * plain))
        if plan is not None:
            ways[f'budget {share:.0%}'] = plan.choices
    figures: Dict[str, Any] = dict(batch=list(batch), least=planner.least.peak, parts=len(planner.parts),
                                   planning=time.process_time() - begin, ways={})
    ways.update(dict.fromkeys([CHECKPOINT, *COMPILED] if case.compiled else [CHECKPOINT]))
    for name, choices in ways.items():
        counter = Counter(cfg)
        remove = prepare(counter.training.model, name, choices, planner)
        peak = profiled_peak(counter.training, batch) if name in COMPILED else counter(batch).peak
        figures['ways'][name] = dict(peak=peak)
        if choices is not None:
            figures['ways'][name].update(predicted=planner.forecast(choices).peak, expected=planner.cost(choices))
        remove()
    for name, error in gradient_errors(cfg, batch, ways).items():
        figures['ways'][name]['gradients'] = error
    same = {name: other for name, choices in ways.items() for other in UNIFORM[::-1]
            if name not in UNIFORM and choices == ways[other]}  # what is timed twice differs by some percent
    for taken in times(cfg, batch, planner, {name: ways[name] for name in ways if name not in same}, rounds):
        for name in ways:
            figures['ways'][name].setdefault('seconds', []).append(taken[same.get(name, name)])
    return figures


def profiled_peak(training: Training, batch: Batch) -> int:
    """Peak of a step from PyTorch's profiler, where the counter cannot look: within what is compiled."""
    data = training.data(batch)
    training.model.train_step(training.data(batch), training.optim_wrapper)  # compiles
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        training.model.train_step(data, training.optim_wrapper)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == '[memory]']
    alive = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]).max()
    return int(alive) + sum(training.fixed_bytes().values()) + sum(x.nbytes for x in data['inputs'])


def times(cfg: Any, batch: Batch, planner: Planner, ways: Dict[str, Optional[Choices]], rounds: int
          ) -> Iterator[Dict[str, float]]:
    """Processor time of forward and backward in each way, round after round in alternating order."""
    data: Any = None
    models: Dict[str, Any] = {}
    for name, choices in ways.items():
        training = Training(cfg)
        models[name] = training.model
        prepare(training.model, name, choices, planner)
        data = data or training.data(batch)
    data['inputs'] = tree_map_only(Tensor, lambda x: x.random_(256), data['inputs'])
    for turn in range(rounds + 1):  # in the first, the engine works out its plan and observes the functions
        taken = {name: seconds(models[name], data) for name in (ways, reversed(ways))[turn % 2]}
        if turn:
            yield taken


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
                pairs = [(a, b) for a, b in zip(gradients(choices), expected) if a is not b]
                errors[name] = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-300)) for a, b in pairs)
        return errors
    finally:
        torch.set_default_dtype(torch.float32)
        compiled.nms = nms


def ratio(found: Dict[str, Any], way: str, other: str = UNIFORM[0]) -> float:
    """Time over that of another way, the median over rounds."""
    return statistics.median(a / b for a, b in zip(*(found['ways'][name]['seconds'] for name in (way, other))))


def best_uniform(found: Dict[str, Any], way: str) -> str:
    """The fastest of the uniform ways that meet the budget of a plan."""
    ways, budget = found['ways'], float(way.split()[1].rstrip('%')) / 100 * found['ways'][UNIFORM[0]]['predicted']
    return min((name for name in UNIFORM if ways[name]['peak'] <= budget), key=partial(ratio, found), default='')


def table(figures: Dict[str, Any]) -> str:
    """Markdown: each network's plans."""
    lines = ['| network | choice | peak, MiB | of plain | predicted | time of plain | of the best uniform | '
             'gradients off by |', '|---|---|---|---|---|---|---|---|']
    for name, found in figures.items():
        plain = found['ways'][UNIFORM[0]]['peak']
        for way, row in found['ways'].items():
            predicted = f'{row["predicted"] / row["peak"] - 1:+.2%}' if 'predicted' in row else ''
            error = f'{row["gradients"]:.0e}' if row.get('gradients') is not None else ''
            best = best_uniform(found, way) if way.startswith('budget') else ''
            lines.append(f'| {name} | {way} | {row["peak"] / MIB:,.1f} | {row["peak"] / plain:.1%} | {predicted} | '
                         f'{ratio(found, way):.3f} | {f"{ratio(found, way, best):.3f}, {best}" if best else ""} | '
                         f'{error} |')
    return '\n'.join(lines)


def draw(figures: Dict[str, Any], file: Path) -> None:
    """Time over memory, a panel for each network, in rows of two."""
    from matplotlib.figure import Figure
    columns, rows = min(len(figures), 2), -(-len(figures) // 2)
    figure = Figure(figsize=(4.4 * columns, 3.6 * rows), layout='constrained')
    for axes, (name, found) in zip(figure.subplots(rows, columns, squeeze=False).flat, figures.items()):
        ways, plain = found['ways'], found['ways'][UNIFORM[0]]['peak']
        points = sorted((100 * row['peak'] / plain, ratio(found, way)) for way, row in ways.items()
                        if way.startswith('budget') or way == UNIFORM[0])
        axes.plot(*zip(*points), marker='o', label='plans for budgets', zorder=3)
        for way, marker in zip((*UNIFORM[1:], CHECKPOINT, *COMPILED), 's^x+*'):
            if way in ways:
                axes.plot(100 * ways[way]['peak'] / plain, ratio(found, way), marker, color='black', markersize=7,
                          markerfacecolor='none', label=way)
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
