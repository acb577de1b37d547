"""What the benchmarks feed to detectors, print, and draw."""
import json
from functools import partial

import detectors
import memory_picture
import overhead
import pytest
import run
import torch
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from timing import time_rounds

from mmrev.reversible import TwoStreamCoupling


@pytest.mark.parametrize('options, unit', [([], '2 threads'), (['--one-thread'], 'processor time of one thread')])
def test_the_floor_is_plain_and_a_forward_of_the_same_round(options, unit, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'figures.json'
    monkeypatch.setattr('sys.argv', ['run.py', 'time', '--time-size', '32', '32', '--time-batch', '2', '--rounds', '2',
                                     '--out', str(out), *options])
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run.main()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    taken = json.loads(out.read_text())['time']
    floor = [sum(pair) for pair in zip(taken['plain'], taken['forward without graph'])]
    assert taken['floor'] == floor
    ratio = sum(value / whole for value, whole in zip(taken['reversible'], floor)) / 2
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith('  reversible ') and f'{ratio:.3f} of the floor' in line for line in lines)
    assert any(f'2 images of 32x32, {unit}; medians of 2 rounds' in line for line in lines)


def test_rounds_are_timed_in_orders_of_their_own_after_two_that_are_not_counted():
    now, order = [0], []

    def run_for(name, seconds):
        order.append(name)
        now[0] += seconds if len(order) > 6 else 1000

    runs = {name: partial(run_for, name, seconds) for name, seconds in (('a', 1), ('b', 2), ('c', 3))}
    assert time_rounds(runs, 5, lambda: now[0]) == dict(a=[1] * 5, b=[2] * 5, c=[3] * 5)
    rounds = [tuple(order[i:i + 3]) for i in range(0, 21, 3)]
    assert all(sorted(names) == ['a', 'b', 'c'] for names in rounds) and len(set(rounds)) > 1


class Slow(torch.autograd.Function):
    """Takes ``more`` seconds each time than the time before, and five in the backward, by the clock ``now``."""
    now, seconds, more = 0, 0, 1

    @staticmethod
    def forward(ctx, x):
        Slow.seconds += Slow.more
        Slow.now += Slow.seconds
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        Slow.now += 5
        return gradient


class SlowLinear(torch.nn.Linear):

    def forward(self, x):
        return Slow.apply(super().forward(x))


@pytest.mark.parametrize('whole_steps', [False, True])
def test_the_overhead_is_what_the_functions_and_their_gradients_do_not_take(monkeypatch, whole_steps):
    pairs = [(SlowLinear(4, 4), SlowLinear(4, 4)) for _ in range(3)]

    def unsafe(pair, a, b):
        Slow.now += 8  # beside the two functions of a block
        return overhead.bare.two_streams(*pair)(a, b)

    monkeypatch.setitem(overhead.NETWORKS, 'slow', lambda: (
        [TwoStreamCoupling(*pair) for pair in pairs], [partial(overhead._two_streams, *pair) for pair in pairs],
        [partial(unsafe, pair) for pair in pairs], [torch.randn(2, 4) for _ in range(2)]))
    monkeypatch.setattr('time.process_time', lambda: Slow.now)
    if whole_steps:  # whose differences hold if functions always take the same time
        monkeypatch.setattr(Slow, 'more', 0)
        monkeypatch.setattr(Slow, 'seconds', 2)
    saved = -1e6 if whole_steps else 0  # it does not evaluate the end of a block again, from which nothing is saved
    threads = torch.get_num_threads()
    try:
        found = overhead._measure('slow', 2, whole_steps)
    finally:
        torch.set_num_threads(threads)
    assert found == {'bare': 4e6, 'reversible': 0, overhead.REENTRANT: 0, overhead.NOT_REENTRANT: saved}


class NoRpn:
    """Proposes one useless box per image."""

    def loss_and_predict(self, features, samples, proposal_cfg=None):
        useless = InstanceData(bboxes=torch.zeros(1, 4), scores=torch.ones(1), labels=torch.zeros(1).long())
        return {}, [useless for _ in samples]


def test_synthetic_boxes_lie_in_the_image_and_repeat():
    images, samples = detectors.synthetic_batch(2, (320, 480))
    assert images.shape == (2, 3, 320, 480)
    again = detectors.synthetic_batch(2, (320, 480))[1]
    for sample, other in zip(samples, again):
        boxes = sample.gt_instances.bboxes
        assert torch.equal(boxes, other.gt_instances.bboxes)
        assert (boxes[:, 2:] - boxes[:, :2] >= detectors.BOX_SIZES[0] - 1e-3).all()
        assert all(mask.any() for mask in sample.gt_instances.masks.masks)
    assert not torch.equal(samples[0].gt_instances.bboxes, samples[1].gt_instances.bboxes)


def test_a_mask_head_gets_its_full_sample():
    rpn_head = NoRpn()
    detectors.add_good_proposals(rpn_head)
    samples = detectors.synthetic_batch(2, (800, 1344))[1]
    _, proposals = rpn_head.loss_and_predict(None, samples)
    for sample, found in zip(samples, proposals):
        overlaps = bbox_overlaps(found.bboxes, sample.gt_instances.bboxes).max(dim=1).values
        assert (overlaps >= 0.5).sum() >= 128


def test_the_picture_is_drawn_from_the_figures(tmp_path):
    figures = {
        series: [dict(network=network.name, macs=1e9 * 2**i, mib=10. * 3**i) for i, network in enumerate(networks)]
        for series, networks in memory_picture.SERIES.items()
    }
    memory_picture.draw(figures, tmp_path / 'pictures' / 'memory.png')
    assert (tmp_path / 'pictures' / 'memory.png').read_bytes().startswith(b'\x89PNG')
