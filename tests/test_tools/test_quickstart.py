"""The quickstart from an empty folder: data, training, evaluation, pictures, table; and what it does when run again."""
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import forked

pytest.importorskip('mmdet')
pytest.importorskip('sklearn')
TOOLS = Path(__file__).parents[2] / 'tools'


def load_quickstart():
    """tools/quickstart.py as a module."""
    spec = importlib.util.spec_from_file_location('quickstart', TOOLS / 'quickstart.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


quickstart = load_quickstart()


@pytest.mark.subprocess
def test_the_quickstart_leaves_checkpoint_pictures_and_table(tmp_path, monkeypatch, capsys):
    def run(command):
        status, errors = forked('python', *command[1:], cwd=tmp_path)
        assert command[0] == sys.executable and status == 0, errors
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(quickstart.subprocess, 'run', run)
    monkeypatch.chdir(tmp_path)
    assert quickstart.main(
        ['--train-images', '4', '--val-images', '2', '--cfg-options', 'train_cfg.max_epochs=1',
         'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
         'model.test_cfg.rcnn.score_thr=0.0']) == 0  # an untrained detector finds nothing with confidence
    run = tmp_path / 'work_dirs' / 'quickstart' / 'run1'
    assert (run / 'detections.png').stat().st_size > 20_000 and (run / 'curves.png').stat().st_size > 5_000
    assert 0 <= json.loads((run / 'result.json').read_text())['coco/bbox_mAP'] <= 1
    closing = capsys.readouterr().out.split('Validation, bounding boxes')[1]
    assert all(word in closing for word in ('mAP50', '"9"', 'detections.png', 'curves.png', 'best_coco', 'data/digits'))


@pytest.mark.training
def test_the_quickstart_of_segmentation_draws_labels_beside_the_truth(tmp_path):
    pytest.importorskip('mmseg')
    done = subprocess.run(
        [sys.executable, str(TOOLS / 'quickstart.py'), '--task', 'semseg', '--train-images', '8', '--val-images', '2',
         '--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.num_workers=0',
         'train_dataloader.persistent_workers=False'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = tmp_path / 'work_dirs' / 'quickstart_semseg' / 'run1'
    assert (run / 'segmentation.png').stat().st_size > 20_000
    assert 0 <= json.loads((run / 'result.json').read_text())['mIoU'] <= 100
    closing = done.stdout.split('Validation, labels of pixels')[1]
    assert all(word in closing for word in ('mIoU', 'segmentation.png', 'best_mIoU', 'data/digits_seg'))


def test_a_complete_run_is_followed_by_a_new_one_and_an_interrupted_one_is_resumed(tmp_path):
    assert quickstart.run_folder(tmp_path) == (tmp_path / 'run1', False)
    (tmp_path / 'run1').mkdir()
    assert quickstart.run_folder(tmp_path) == (tmp_path / 'run1', False)
    (tmp_path / 'run1' / 'last_checkpoint').write_text('epoch_1.pth')
    assert quickstart.run_folder(tmp_path) == (tmp_path / 'run1', True)
    (tmp_path / 'run1' / 'result.json').write_text('{}')
    assert quickstart.run_folder(tmp_path) == (tmp_path / 'run2', False)


def test_a_failing_step_ends_the_quickstart_with_its_status(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data' / 'digits').mkdir(parents=True)
    monkeypatch.setattr(quickstart.subprocess, 'run', lambda command: subprocess.CompletedProcess(command, 2))
    assert quickstart.main([]) == 2
    assert 'run it again to continue' in capsys.readouterr().err


def test_the_contact_sheet_names_a_missing_file(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location('contact_sheet', TOOLS / 'analysis_tools' / 'contact_sheet.py')
    contact_sheet = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(contact_sheet)
    assert contact_sheet.main([str(tmp_path / 'none.pkl'), 'x.json']) == 2
    assert 'no predictions at' in capsys.readouterr().err
