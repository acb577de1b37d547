"""The commands on a segmentor: train, test, predict, publish, memory; and what they say where mmseg is missing."""
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

pytest.importorskip('mmseg')
pytest.importorskip('sklearn')
from mmrev.apis import run  # noqa: E402
from mmrev.apis.predict import predict  # noqa: E402
from mmrev.apis.segmenter import Segmenter  # noqa: E402
from mmrev.cli import main  # noqa: E402
from mmrev.datasets.digits import DigitsSpec, build  # noqa: E402
from mmrev.memory.forecast import Counter, Forecaster  # noqa: E402
from mmrev.memory.training import Batch  # noqa: E402
from mmrev.problems import ProblemError  # noqa: E402
from support.commands import forked  # noqa: E402

pytestmark = pytest.mark.slow

CONFIG = Path(__file__).parents[2] / 'configs' / 'revbifpn' / 'fpn_revbifpn-s0_digits.py'
SMALL = ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False', 'train_dataloader.batch_size=2',
         'val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False', 'test_dataloader.num_workers=0',
         'test_dataloader.persistent_workers=False', 'train_cfg.max_epochs=1']


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with two digits images a split, and a run of one iteration that `mmrev train` made in it."""
    folder = tmp_path_factory.mktemp('digits')
    (folder / 'data/digits_seg').mkdir(parents=True)
    build(DigitsSpec(task='semseg', image_size=64, digit_size=(24, 40), digits_per_image=(1, 2), train_images=2,
                     val_images=2), folder / 'data/digits_seg')
    status, errors = forked('train', CONFIG, '--work-dir', 'run', '--cfg-options', *SMALL, cwd=folder)
    assert status == 0, errors
    return folder


def test_the_labels_are_the_digits_of_the_detection_set(tmp_path):
    """The same scenes: a digit has its class plus one where its mask is, the rest is background."""
    from pycocotools import mask as coco
    spec = dict(train_images=3, val_images=1)
    for task in ('detection', 'semseg'):
        (tmp_path / task).mkdir()
        build(DigitsSpec(task=task, **spec), tmp_path / task)
    content = json.loads((tmp_path / 'detection/annotations/train.json').read_text())
    for image in content['images']:
        expected = np.zeros((128, 128), np.uint8)
        for digit in (entry for entry in content['annotations'] if entry['image_id'] == image['id']):
            rle = coco.frPyObjects(digit['segmentation'], 128, 128)
            expected[coco.decode(rle) == 1] = digit['category_id']
        found = cv2.imread(str(tmp_path / 'semseg/annotations/train' / image['file_name']), cv2.IMREAD_UNCHANGED)
        assert (found == expected).all() and found.max() > 0
        pictures = [(tmp_path / place / image['file_name']).read_bytes() for place in (
            'detection/train', 'semseg/images/train')]
        assert pictures[0] == pictures[1]


@pytest.mark.subprocess
def test_training_writes_a_checkpoint_and_mmrev_test_its_metrics(trained):
    assert list((trained / 'run').glob('best_mIoU_epoch_1.pth'))
    status, errors = forked('test', CONFIG, trained / 'run/epoch_1.pth', '--work-dir', 'tested', '--tta',
                            '--cfg-options', *SMALL, cwd=trained)
    assert status == 0, errors
    scores = json.loads(next((trained / 'tested').glob('*/*.json')).read_text().splitlines()[-1])
    assert 0 <= scores['mIoU'] <= 100


@pytest.mark.subprocess
def test_publishing_keeps_classes_and_colors(trained):
    status, errors = forked('publish', 'run/epoch_1.pth', '--out', 'digits.pth', cwd=trained)
    assert status == 0, errors
    file, = trained.glob('digits*.pth')
    assert torch.load(file, weights_only=False)['meta']['dataset_meta']['classes'][:2] == ('background', '0')


@pytest.mark.parametrize('out_format, files', [
    (None, ['00000.png']), ('raw', ['00000.png']), ('palette', ['00000.png']),
    ('prob', ['00000.png', '00000_prob.png'])])
def test_predict_fuses_scales_and_writes_each_format(trained, tmp_path, out_format, files):
    form = ['--out-format', out_format] if out_format else []
    assert main(['predict', str(CONFIG), str(trained / 'run/epoch_1.pth'),
                 str(trained / 'data/digits_seg/images/val/00000.png'), '--task', 'semseg', '--scales', '0.25', '0.5',
                 '--flip', '--fusion', 'mean', '--out-dir', str(tmp_path), *form]) == 0
    assert sorted(path.name for path in tmp_path.glob('*.png')) == files
    shares = json.loads((tmp_path / 'predictions.json').read_text())['00000.png']['shares']
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    image = Image.open(tmp_path / '00000.png')
    assert image.size == (64, 64) and image.mode == {None: 'RGB', 'palette': 'P'}.get(out_format, 'L')
    if out_format:
        names = ('background', *'0123456789')
        assert {names[label] for label in np.unique(np.array(image))} == shares.keys()
    if out_format == 'palette':
        assert image.getpalette()[3:6] == [230, 25, 75]  # of the digit 0, as in the config


def test_predict_writes_probabilities_without_fusion(trained, tmp_path):
    image = trained / 'data/digits_seg/images/val/00000.png'
    assert main(['predict', str(CONFIG), str(trained / 'run/epoch_1.pth'), str(image), '--out-format', 'prob',
                 '--out-dir', str(tmp_path)]) == 0
    model = Segmenter(run.load_config(str(CONFIG)), str(trained / 'run/epoch_1.pth'))
    data = model.model.data_preprocessor(pseudo_collate([model.pipeline(dict(img_path=str(image)))]), False)
    with torch.no_grad():
        sample, = model.model.predict(**data)
    expected = sample.seg_logits.data.softmax(0).amax(0) * 255
    written = torch.from_numpy(np.array(Image.open(tmp_path / '00000_prob.png'))).float()
    assert (written - expected).abs().max() <= 1


def test_predict_takes_several_decode_heads(tmp_path):
    cfg = run.load_config(str(CONFIG))
    common = dict(in_channels=48, in_index=0, channels=4, num_classes=11, norm_cfg=dict(type='BN'))
    cfg.model.decode_head = [dict(common, type='mmseg.FCNHead', num_convs=1),
                             dict(common, type='mmseg.OCRHead', ocr_channels=4)]
    cfg.merge_from_dict({'model.type': 'mmseg.CascadeEncoderDecoder', 'model.num_stages': 2})
    init_default_scope('mmseg')
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / 'ocr.pth')
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((64, 96, 3), np.uint8))
    summary, values, *_ = Segmenter(cfg, str(tmp_path / 'ocr.pth'))(str(tmp_path / 'a.png'))
    assert sum(values['shares'].values()) == pytest.approx(1, abs=1e-3)


def test_predict_refuses_what_does_not_belong_to_the_task(tmp_path):
    cfg = run.load_config(str(CONFIG))
    with pytest.raises(ProblemError, match='is for semseg, not for detection'):
        next(predict(cfg, 'x.pth', ['x.png'], task='detection'))
    detector = run.load_config(str(CONFIG.with_name('faster_rcnn_revbifpn_s0_digits.py')))
    with pytest.raises(ProblemError, match='is for detection, and --scales, --flip for semseg'):
        next(predict(detector, 'x.pth', ['x.png'], scales=(1, ), flip=True))
    for name in ('a.png', 'a.jpg'):
        (tmp_path / name).touch()
    with pytest.raises(ProblemError, match='would be drawn to the same file'):
        next(predict(cfg, 'x.pth', [str(tmp_path)], out_format='raw'))
    (tmp_path / 'a.jpg').rename(tmp_path / 'a_prob.png')
    with pytest.raises(ProblemError, match='would be drawn to the same file'):
        next(predict(cfg, 'x.pth', [str(tmp_path)], out_format='prob'))


def test_memory_predicts_what_a_real_step_of_a_segmentor_counts():
    small = dict(_delete_=True, type='mmrev.PFResNet', depth=50, width=0.125)
    cfg = run.load_config(str(CONFIG), {'model.backbone': small, 'model.decode_head.in_channels': [32, 64, 128, 256]})
    predicted, counted = (step(cfg)(Batch(2, 64, 64)) for step in (Forecaster, Counter))
    assert predicted.peak == pytest.approx(counted.peak, rel=0.02)
    assert sum(predicted.kept(0).values()) == pytest.approx(sum(counted.kept(0).values()), rel=0.02)


def test_check_finds_wrong_channels_and_missing_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['check', str(CONFIG), '--cfg-options', 'model.decode_head.in_channels=[48,64,80,96]']) != 0
    said = capsys.readouterr()
    assert 'data/digits_seg/images/train' in said.out + said.err
    assert re.search(r'decode_head.* takes 96 channels and gets 160', said.out + said.err)


@pytest.mark.parametrize('text', ["_base_ = 'mmseg::_base_/default_runtime.py'\n", "default_scope = 'mmseg'\n"])
def test_without_mmseg_two_lines_say_what_to_install(text, tmp_path, monkeypatch, capsys):
    import importlib.util

    from mmengine.config import config
    from mmengine.config.utils import MODULE2PACKAGE
    (tmp_path / 'own.py').write_text(text)
    monkeypatch.setitem(MODULE2PACKAGE, 'mmseg', 'mmsegmentation')  # as where no stack has it
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *rest: None if name == 'mmseg' else find(name, *rest))
    monkeypatch.setattr(config, 'is_installed', lambda package: package != 'mmsegmentation')
    monkeypatch.setattr(config.Config, '_get_cfg_path', staticmethod(
        getattr(config.Config._get_cfg_path, '__wrapped__', config.Config._get_cfg_path)))
    assert main(['check', str(tmp_path / 'own.py')]) == 2
    what, fix = capsys.readouterr().err.splitlines()
    assert 'is for mmsegmentation, which is not installed' in what and "pip install 'mmrev[segmentation]'" in fix
