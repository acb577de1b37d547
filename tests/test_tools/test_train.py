"""``mmrev train`` in other processes: what a run leaves, resuming, TensorBoard, several processes, Ctrl-C, bugs."""
import re
import shutil
import signal
import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.device import get_device
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmrev.checkpoints import allow_mmengine_checkpoints
from support.commands import ROOT, ended, forked, mmrev, printed, said, start, succeed

pytestmark = pytest.mark.subprocess


def last_line(output):
    """The closing line of a run: what it names, by name."""
    line = [line for line in output.splitlines() if 'INFO' in line][-1]
    return dict(re.findall(r'(\w+): (\S+)', line.split('Done.')[1]))


PROGRESS = "custom_hooks = [dict(type='mmrev.ProgressHook', seconds=0.)]\n"


def with_lines(toy, folder, lines):
    """A copy of the toy config with some more lines."""
    (folder / 'config.py').write_text(toy.config.read_text() + lines)
    return folder / 'config.py'


def load(file):
    """A checkpoint of mmengine."""
    allow_mmengine_checkpoints()
    return torch.load(file, map_location='cpu')


def test_the_last_line_of_a_run_says_where_checkpoint_log_and_curves_are(toy):
    places = last_line(toy.output)
    assert set(places) == {'checkpoints', 'log', 'curves'}
    assert (toy.folder / places['checkpoints']).name == 'epoch_2.pth'
    assert 'Epoch(train)' in (toy.folder / places['log']).read_text()
    assert cv2.imread(str(toy.folder / places['curves'])).std() > 10
    assert all((toy.folder / place).is_file() for place in places.values())


def test_progress_tells_the_time_left(toy):
    assert re.search(r'Epoch\(train\).*eta: \d+:\d\d:\d\d', toy.output)


def test_one_line_of_the_config_switches_tensorboard_on(toy):
    file, = toy.run.rglob('events.out.tfevents.*')
    events = EventAccumulator(str(file))
    events.Reload()
    assert len(events.Scalars('loss')) == 2
    assert len(events.Scalars('coco/bbox_mAP')) == 2


def test_resume_goes_on_where_the_run_stopped_and_ctrl_c_says_how_to_do_it_again(toy, tmp_path):
    run = tmp_path / 'run'
    run.mkdir()
    shutil.copy(toy.run / 'epoch_1.pth', run)
    (run / 'last_checkpoint').write_text(str(run / 'epoch_1.pth'))
    process = start(*mmrev('train', toy.config, '--work-dir', 'run', '--resume', '--cfg-options',
                           'train_cfg.max_epochs=1000'), cwd=tmp_path, merge=True)
    output = ''
    for line in process.stdout:
        output += line
        if 'Epoch(val) [2]' in line:
            process.send_signal(signal.SIGINT)
            break
    status, rest, _ = ended(process)
    assert status == 130 and 'Traceback' not in rest
    assert rest.strip().splitlines()[-1].endswith(f'Resume: mmrev train {toy.config} --work-dir run --resume')
    assert 'resumed epoch: 1, iter: 2' in output
    assert re.findall(r'Epoch\(train\) +\[(\d+)\]', output) == ['2']
    resumed = load(run / 'epoch_2.pth')
    assert resumed['meta']['iter'] == 4
    assert len(resumed['message_hub']['log_scalars']['train/loss'].data[0]) == 4  # the curve is whole


def test_two_processes_train_without_a_gpu_and_only_the_first_prints(toy, tmp_path):
    output = succeed(ROOT / 'tools/dist_train.sh', with_lines(toy, tmp_path, PROGRESS), 2, '--work-dir', 'run',
                     '--cfg-options', 'train_cfg.max_epochs=1', cwd=tmp_path)
    assert output.count('Epoch(train) [1][1/1]') == 1  # four images, two processes of two
    assert output.count('Done.  checkpoints:') == 1
    assert output.count('coco/bbox_mAP: ') == 1
    assert output.count('loading annotations into memory') == 3  # training, validation, metric
    weights = load(tmp_path / 'run/epoch_1.pth')['state_dict']
    assert all(weight.isfinite().all() for weight in weights.values())
    # The logger speaks every 50 iterations, at the end of a short epoch, and the progress hook in between.
    assert re.findall(r'Iter\(val\) \[(\d)/2\]  eta: \d:\d\d:\d\d', output) == ['1', '2']


def test_the_documented_line_runs_several_processes_where_there_are_no_scripts(classifier):
    """The line that tests runs in test_docs_commands.py."""
    pytest.importorskip('mmpretrain')
    text = (ROOT / 'docs' / 'own_projects.md').read_text()
    line = re.search(r'^torchrun .* -m mmrev.cli train .*$', text, re.MULTILINE).group()
    _, *arguments = line.replace('_node 8', '_node 2').replace('my_config.py', 'classifier.py').split()
    output = succeed(sys.executable, '-m', 'torch.distributed.run', *arguments, '--work-dir', 'run', cwd=classifier)
    assert output.count('Epoch(train) [1][1/1]') == 1  # eight images, two processes of four
    assert (classifier / 'run' / 'epoch_1.pth').is_file()


def test_amp_trains_a_detector_without_a_gpu(toy, tmp_path):
    output = printed('train', toy.config, '--amp', '--work-dir', 'run', '--cfg-options', 'train_cfg.max_epochs=1',
                     cwd=tmp_path)
    if get_device() == 'cpu':
        assert "type='mmrev.BFloat16OptimWrapper'" in (tmp_path / 'run' / 'toy.py').read_text()
    assert 'coco/bbox_mAP: ' in output
    assert all(weight.isfinite().all() for weight in load(tmp_path / 'run/epoch_1.pth')['state_dict'].values())


CLASSIFIER = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmrev'])
model = dict(type='ImageClassifier', backbone=dict(type='mmrev.RevBiFPN', arch='s0', out_indices=(3, )),
             neck=dict(type='GlobalAveragePooling'), head=dict(type='LinearClsHead', num_classes=2, in_channels=160))
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root='images', pipeline=[
        dict(type='LoadImageFromFile'), dict(type='Resize', scale=64), dict(type='PackInputs')]))
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
"""


@pytest.fixture
def classifier(tmp_path):
    """A folder with a config and eight images in two classes."""
    for index in range(8):
        folder = tmp_path / 'images' / 'ab'[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f'{index}.png'), np.full((64, 64, 3), 40 * (index % 2) + 5 * index, np.uint8))
    (tmp_path / 'classifier.py').write_text(CLASSIFIER)
    return tmp_path


def test_amp_trains_a_classifier_without_a_gpu(classifier):
    pytest.importorskip('mmpretrain')
    output = printed('train', 'classifier.py', '--amp', '--work-dir', 'run', cwd=classifier)
    assert re.search(r'Epoch\(train\) +\[1\]\[2/2\].* loss: \d', output)
    weights = load(classifier / 'run/epoch_1.pth')['state_dict'].values()
    assert torch.bfloat16 not in {weight.dtype for weight in weights}


def test_a_classifier_whose_head_does_not_fit_its_backbone_is_named(classifier):
    pytest.importorskip('mmpretrain')
    status, errors = forked('train', 'classifier.py', '--cfg-options', 'model.backbone.arch=s1', cwd=classifier)
    assert status == 2 and not (classifier / 'work_dirs').exists()
    assert 'model.head.fc takes 160 channels and gets' in errors and 'Traceback' not in errors


HOOK = """
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module(force=True)
class Buggy(Hook):
    def {when}(self, runner, *args, **kwargs):
        runner.no_such_thing
"""


@pytest.mark.parametrize('when, phase', [('before_run', '`custom_hooks.0`'), ('after_train_iter', 'iteration 1'),
                                         ('after_val_iter', 'evaluating batch 1')])
def test_a_bug_ends_in_two_lines_and_its_traceback_is_in_the_log(when, phase, toy, tmp_path, monkeypatch):
    (tmp_path / f'buggy_{when}.py').write_text(HOOK.format(when=when))
    config = with_lines(toy, tmp_path, f"custom_imports = dict(imports=['mmrev', 'buggy_{when}'])\n"
                                       "custom_hooks = [dict(type='Buggy')]\n")
    monkeypatch.syspath_prepend(tmp_path)
    status, errors = forked('train', config, cwd=tmp_path)
    what, fix = said(errors)
    assert f"error: {phase}: 'Runner' object has no attribute 'no_such_thing'" in what
    if phase != 'evaluating batch 1':  # nothing is trained yet: nothing is kept
        assert status == 2 and not (tmp_path / 'work_dirs').exists()
        return
    assert status == 1
    log = tmp_path / fix.split('The traceback is in ')[1]
    assert f', in {when}' in log.read_text() and 'AttributeError' in log.read_text()


@pytest.mark.parametrize('workers', [0, 1])
def test_a_sample_that_cannot_be_read_is_named(workers, toy, tmp_path):
    data = shutil.copytree(toy.folder / 'data', tmp_path / 'data')
    (data / 'images/2.png').write_text('no image')
    config = with_lines(toy, tmp_path, '').read_text().replace(str(toy.folder / 'data'), str(data))
    (tmp_path / 'config.py').write_text(config + f'train_dataloader.update(num_workers={workers})\n')
    status, errors = forked('train', 'config.py', cwd=tmp_path)
    what, fix = said(errors)
    assert status == 2 and not (tmp_path / 'work_dirs').exists()
    assert f'reading sample 2 of `{data}/images/2.png`: ' in what and 'Fix or remove that sample' in fix


@pytest.mark.parametrize('workers', [0, 1])
def test_what_was_trained_before_a_sample_that_cannot_be_read_is_kept(workers, toy, tmp_path, monkeypatch):
    data = shutil.copytree(toy.folder / 'data', tmp_path / 'data')
    config = with_lines(toy, tmp_path, '').read_text().replace(str(toy.folder / 'data'), str(data))
    order = f'num_workers={workers}, sampler=dict(type="DefaultSampler", shuffle=False)'  # sample 2 comes second
    (tmp_path / 'config.py').write_text(config + f'train_dataloader.update({order})\n')
    monkeypatch.setattr('mmrev.hooks.SanityHook.before_train', lambda *args: (data / 'images/2.png').write_text('none'))
    status, errors = forked('train', 'config.py', cwd=tmp_path)
    what, fix = said(errors)
    assert status == 1
    assert f'reading sample 2 of `{data}/images/2.png`: ' in what
    assert 'Fix or remove that sample. Iteration 1 is in work_dirs/config/interrupted.pth. The traceback is in' in fix


def test_a_checkpoint_that_cannot_be_written_is_named(toy, tmp_path):
    (tmp_path / 'run/epoch_1.pth').mkdir(parents=True)
    status, errors = forked('train', with_lines(toy, tmp_path, ''), '--work-dir', 'run', cwd=tmp_path)
    assert status == 1 and f'writing `epoch_1.pth` in `{tmp_path}/run`: ' in said(errors)[0]


def test_checkpoints_of_another_run_are_not_overwritten_unasked(toy, tmp_path):
    run = shutil.copytree(toy.run, tmp_path / 'run')
    before = {path: path.read_bytes() for path in run.rglob('*') if path.is_file()}
    status, errors = forked('train', toy.config, '--work-dir', 'run', cwd=tmp_path)
    what, fix = said(errors)
    assert status == 2 and 'holds checkpoints of another run: epoch_1.pth, epoch_2.pth' in what
    assert '--resume' in fix and '--overwrite' in fix
    assert before == {path: path.read_bytes() for path in run.rglob('*') if path.is_file()}


@pytest.mark.subprocess
def test_sigterm_saves_a_checkpoint_and_resume_skips_a_damaged_one(toy, tmp_path):
    options = ['--work-dir', 'run', '--cfg-options', 'train_cfg.max_epochs=1000', 'default_hooks.logger.interval=1']
    process = start(*mmrev('train', toy.config, *options), cwd=tmp_path, merge=True)
    for line in process.stdout:
        if 'Epoch(train) ' in line and '[2][1/2]' in line:
            process.send_signal(signal.SIGTERM)
            break
    status, rest, _ = ended(process)
    assert status == 143 and 'Traceback' not in rest
    last = rest.strip().splitlines()[-1]
    assert re.fullmatch(r'mmrev train: terminated. Iteration \d is in run/interrupted.pth. Resume: .* --resume', last)
    checkpoint = load(tmp_path / 'run/interrupted.pth')
    assert checkpoint['meta']['iter'] in (3, 4)
    damaged = tmp_path / 'run/epoch_7.pth'
    damaged.write_bytes((tmp_path / 'run/epoch_1.pth').read_bytes()[:1000])
    output = printed('train', toy.config, '--work-dir', 'run', '--resume', cwd=tmp_path)
    assert 'resuming from' in output and 'epoch_7.pth cannot be read' in output
    assert load(tmp_path / 'run/epoch_2.pth')['meta']['iter'] == 4
    assert not (tmp_path / 'run/interrupted.pth').exists()


def test_a_metric_that_fails_is_named(toy, tmp_path, monkeypatch):
    def fails(*args):
        raise ZeroDivisionError('division by zero')

    monkeypatch.setattr('mmdet.evaluation.CocoMetric.compute_metrics', fails)
    status, errors = forked('train', with_lines(toy, tmp_path, ''), cwd=tmp_path)
    assert status == 2 and 'evaluating with CocoMetric: division by zero' in said(errors)[0]
    assert not (tmp_path / 'work_dirs').exists()


def test_help_is_quick_and_names_the_flags():
    code = ('import sys\nfrom mmrev.cli import main\n'
            'for command in [], ["train"], ["test"]:\n    try:\n        main([*command, "--help"])\n'
            '    except SystemExit:\n        print("-" * 9)\n'
            'print([name for name in ("torch", "mmdet") if name in sys.modules])')
    output = succeed(sys.executable, '-c', code, cwd=ROOT)
    top, train, test = output.replace('usage: mmrev train', '@').replace('usage: mmrev test', '@').split('@')
    assert all(command in top for command in ('train', 'test', 'doctor'))
    for flag in ('--work-dir --resume --overwrite --amp --auto-scale-lr --cfg-options --launcher --local_rank '
                 '--local-rank --traceback').split():
        assert flag in train
    for flag in ('--work-dir --out --show --show-dir --tta --cfg-options --launcher --local_rank --local-rank '
                 '--traceback').split():
        assert flag in test
    assert test.strip().endswith('[]')
