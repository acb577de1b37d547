"""tools/analysis_tools/benchmark.py: figures for any config, and the conditions they were measured under."""
import importlib.util
import re
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

pytest.importorskip('mmpretrain')
ROOT = Path(__file__).parents[2]
CONFIG = '''
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmrev.PFResNet', operation='max', width=0.125, out_indices=(3, )),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=256))
'''


@pytest.fixture(scope='module')
def tool():
    DefaultScope._instance_dict.clear()  # mmengine prints a warning where an earlier test left another scope
    path = ROOT / 'tools/analysis_tools/benchmark.py'
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def config(tmp_path):
    (tmp_path / 'small.py').write_text(CONFIG)
    return str(tmp_path / 'small.py')


@pytest.mark.parametrize('flags', [[], ['--train'], ['--channels-last', '--part', 'tensor'], ['--part', 'backbone']])
def test_figures_and_conditions_are_printed(tool, config, flags, capsys):
    arguments = [config, '--shape', '32', '32', '--batch-size', '2', '3', '--runs', '3', '--warmup', '1', '--threads',
                 '1', *flags]
    assert tool.main(arguments) == 0
    title, _, *rows = capsys.readouterr().out.splitlines()
    assert '32x32 pixels' in title and 'cpu with 1 thread' in title and '3 runs after 1' in title
    assert ('forward and backward' in title) == ('--train' in flags)
    assert ('channels last' in title) == ('--channels-last' in flags)
    assert [int(row.split()[0]) for row in rows] == [2, 3] and len(rows) == 2
    for row in rows:
        batch, median, fastest, slowest, speed = map(float, re.findall(r'[\d.]+', row))
        assert fastest <= median <= slowest and speed == pytest.approx(1e3 * batch / median, rel=0.02)


def test_the_warm_up_does_not_count(tool):
    calls = []
    timing = tool.measure(lambda x: calls.append(x) or (x, ), torch.zeros(4, 1), False, warmup=2, runs=3)
    assert len(calls) == 5 and len(timing.seconds) == 3
    assert tool.Timing(4, [0.1, 0.2, 5.]).throughput == pytest.approx(20)


@pytest.mark.parametrize('flags', [['--batch-size', '0'], ['--threads', '0'], ['--device', 'nowhere'],
                                   ['--device', 'cuda:99']])
def test_mistakes_are_refused_in_two_lines(tool, config, flags, capsys):
    assert tool.main([config, *flags]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_detector_is_timed_with_its_heads(tool, capsys):
    config = ROOT / 'configs/revbifpn/faster_rcnn_revbifpn_s0_digits.py'
    assert tool.main([str(config), '--shape', '64', '96', '--part', 'tensor', '--runs', '1', '--warmup', '0']) == 0
    assert '64x96 pixels' in capsys.readouterr().out
