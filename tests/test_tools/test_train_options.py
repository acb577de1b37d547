"""`mmrev train --cfg-options` of what the engine can do: each option ends with the weights of the run without it."""
import re
from importlib.util import find_spec

import pytest
import torch

from mmrev.checkpoints import allow_mmengine_checkpoints
from support import toy_classification
from support.commands import forked, mmrev, said, succeed

pytest.importorskip('mmpretrain')

ROUNDING = dict(rtol=1e-4, atol=2e-5)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('options')
    toy_classification.write_dataset(folder / 'data')
    text = toy_classification.config_text(
        folder / 'data', 4, val_dataloader=None, val_evaluator=None, val_cfg=None,
        train_cfg=dict(by_epoch=True, max_epochs=1))
    (folder / 'tiny.py').write_text(text + "model['backbone']['arch']['num_layers'] = 1\n")
    return folder


def train(folder, work_dir, *options):
    status, errors = forked('train', 'tiny.py', '--work-dir', work_dir,
                            *(['--cfg-options', *options] if options else []), cwd=folder)
    assert status == 0, errors
    return weights(folder / work_dir)


def weights(work_dir):
    allow_mmengine_checkpoints()
    return dict(torch.load(work_dir / 'epoch_1.pth', map_location='cpu')['state_dict'])


@pytest.fixture(scope='module')
def plain(folder):
    return train(folder, 'plain')


@pytest.mark.parametrize('options', [
    ('compile.backend=eager', ),
    ('model.backbone.keep=graph', ),
    ('model.backbone.keep=state', ),
    ('model.backbone.keep=[undo,state,graph]', ),
    ('model.backbone.overlap=True', 'model.backbone.keep=[graph,undo,undo]'),
    ('model.backbone.reversible=False', ),
], ids=' '.join)
def test_an_option_changes_how_a_run_trains_but_not_what_it_learns(options, folder, plain):
    torch.testing.assert_close(train(folder, options[0], *options), plain, **ROUNDING)


@pytest.mark.training  # `compile.backend=eager` above compiles all but the kernels
@pytest.mark.subprocess  # the C++ of PyTorch's compiler does not compile in a fork
def test_so_does_a_whole_compiled_step(folder, plain):
    succeed(*mmrev('train', 'tiny.py', '--work-dir', 'compiled', '--cfg-options', 'compile=True'), cwd=folder)
    torch.testing.assert_close(weights(folder / 'compiled'), plain, **ROUNDING)


@pytest.mark.parametrize('options, words', [
    (('activation_checkpointing=backbone.stem', ), '`activation_checkpointing` cannot be .* no attribute `stem`'),
    (('activation_checkpointing=[backbone,nek]', ), '`activation_checkpointing` cannot be .* no attribute `nek`'),
    (('runner_type=FlexibleRunner', 'strategy.type=FSDPStrategy'), 'FSDPStrategy cannot .* with --launcher none: '),
    (('runner_type=FlexibleRunner', 'strategy.type=FSDP2'), 'FSDP2 is not in the mmengine::strategy registry'),
    (('runner_type=FlexibleRunner', 'strategy.type=DeepSpeedStrategy'), 'DeepSpeed is not installed'),
], ids=lambda value: ' '.join(value) if isinstance(value, tuple) else '')
def test_what_cannot_be_prepared_ends_in_two_lines(options, words, folder):
    if find_spec('deepspeed') and 'DeepSpeed' in words:
        pytest.skip('DeepSpeed is installed')
    status, errors = forked('train', 'tiny.py', '--work-dir', 'refused', '--cfg-options', *options, cwd=folder)
    assert status == 2 and re.search(words, said(errors)[0])
