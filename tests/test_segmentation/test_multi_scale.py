"""Fused predictions over scales and flips, against the formulas written out."""
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope

from support import images

pytest.importorskip('mmseg')
from mmseg.structures import SegDataSample  # noqa: E402

SIZE, ORIGINAL, SCALES = (37, 53), (61, 90), (0.7, 1, 1.2)


def segmentor(out_channels=5, size_divisor=1, **test_cfg):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(dict(
            type='mmrev.MultiScaleEncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', test_cfg=dict(size_divisor=size_divisor)),
            backbone=dict(type='mmrev.PFResNet', depth=50, width=0.125, out_indices=(0, )),
            decode_head=dict(type='FCNHead', in_channels=32, channels=8, num_convs=1, num_classes=max(out_channels, 2),
                             out_channels=out_channels, concat_input=False, norm_cfg=dict(type='BN')),
            test_cfg=ConfigDict(mode='whole', **test_cfg)))
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    return model.eval()


def sample(**metainfo):
    return SegDataSample(metainfo=dict(ori_shape=ORIGINAL, img_shape=SIZE, pad_shape=SIZE, **metainfo))


@pytest.fixture(scope='module')
def model():
    return segmentor()


@pytest.fixture(scope='module')
def image():
    return images.image(1, *SIZE)


def probabilities(model, image):
    """Of the six passes, ``(6, classes, H, W)``."""
    passes = []
    for scale in SCALES:
        scaled = [round(side * scale) for side in SIZE]
        x = F.interpolate(image, scaled, mode='bilinear')
        for flip in (False, True):
            logits = model.decode_head(model.extract_feat(x.flip(3) if flip else x))
            logits = F.interpolate(logits, SIZE, mode='bilinear')
            passes.append((logits.flip(3) if flip else logits).softmax(1)[0])
    return torch.stack(passes)


def at_original_size(x):
    rows, columns = (((torch.arange(after) + 0.5) * before / after).long() for before, after in zip(SIZE, ORIGINAL))
    return x[rows][:, columns]


@pytest.mark.parametrize('fusion', ['mean', 'voting', 'max'])
@torch.no_grad()
def test_fusion_is_the_formula_on_odd_sizes(model, image, fusion):
    p = probabilities(model, image)
    if fusion == 'mean':
        confidence, labels = p.mean(0).max(0)
    elif fusion == 'max':
        confidence, labels = p.amax(0).max(0)
    else:
        chosen = F.one_hot(p.argmax(1), p.shape[1]).permute(0, 3, 1, 2)  # (6, classes, H, W)
        labels = chosen.sum(0).argmax(0)
        confidence = ((p * chosen).sum(0) / chosen.sum(0).clamp(min=1)).gather(0, labels[None])[0]
    model.test_cfg.update(scales=SCALES, flip=True, fusion=fusion)
    found, = model.predict(image, [sample()])
    assert len(labels.unique()) > 1
    assert torch.equal(found.pred_sem_seg.data[0], at_original_size(labels))
    torch.testing.assert_close(found.pred_confidence.data[0], at_original_size(confidence))


@torch.no_grad()
def test_a_pass_is_padded_to_the_divisor_and_its_logits_are_cropped(image):
    """As RevBiFPN needs it: otherwise it pads its levels itself, and the head stretches the padding over the image."""
    padded = segmentor(size_divisor=32, scales=(0.7, 1), flip=True)
    seen = []
    padded.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[2:]))
    whole = F.pad(image, (0, 64 - SIZE[1], 0, 64 - SIZE[0]))
    p = []
    for x, rows in ((F.interpolate(whole, (45, 45), mode='bilinear'), 45), (whole, 64)):
        x = F.pad(x, (0, 64 - rows, 0, 64 - rows))
        for flip in (False, True):
            logits = F.interpolate(padded.decode_head(padded.backbone(x.flip(3) if flip else x)), (64, 64),
                                   mode='bilinear')
            logits = (logits.flip(3) if flip else logits)[:, :, :rows, :rows]
            p.append(F.interpolate(logits, (64, 64), mode='bilinear').softmax(1)[0])
    labels = torch.stack(p).mean(0).argmax(0)[:SIZE[0], :SIZE[1]]
    found, = padded.predict(whole, [sample(padding_size=[0, 64 - SIZE[1], 0, 64 - SIZE[0]])])
    assert set(seen) == {(64, 64)}
    assert torch.equal(found.pred_sem_seg.data[0], at_original_size(labels))


@torch.no_grad()
def test_the_three_fusions_differ(model, image):
    found = []
    for fusion in ('mean', 'voting', 'max'):
        model.test_cfg.update(scales=SCALES, flip=True, fusion=fusion)
        found.append(model.predict(image, [sample()])[0].pred_sem_seg.data)
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@torch.no_grad()
def test_windows_that_cover_the_image_give_what_the_whole_image_gives(model, image):
    """And padding is removed before the labels are resized."""
    whole, sliding = segmentor(scales=SCALES), segmentor(scales=SCALES)
    sliding.test_cfg.update(mode='slide', crop_size=(80, 80), stride=(40, 40))
    for part in (sliding, whole):
        part.load_state_dict(model.state_dict())
    one, other = (part.predict(image, [sample()])[0].pred_sem_seg.data for part in (whole, sliding))
    assert (one == other).float().mean() > 0.97  # the second interpolates twice
    padded = F.pad(image, (0, 11, 0, 7))
    found = whole.predict(padded, [sample(padding_size=[0, 11, 0, 7])])[0].pred_sem_seg.data
    assert found.shape == (1, *ORIGINAL)


def test_what_cannot_be_fused_is_refused(image):
    with pytest.raises(ValueError, match="`fusion` must be one of .* got 'median'"):
        segmentor(fusion='median').predict(image, [sample()])
    with pytest.raises(ValueError, match='`scales` must be positive'):
        segmentor(scales=(0, 1)).predict(image, [sample()])


@torch.no_grad()
def test_a_single_output_channel_is_predicted_as_mmseg_does(image):
    found, = segmentor(out_channels=1).predict(image, [sample()])
    assert set(found.pred_sem_seg.data.unique().tolist()) <= {0, 1}
