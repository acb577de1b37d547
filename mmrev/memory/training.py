"""The model, optimizer and moving average that a config trains, and synthetic batches of any size."""
import copy
import sys
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
from torch import Tensor, nn

from mmrev.problems import ProblemError, phase

# Transforms that set the size of the image, and the argument that specifies it.
_SIZES = dict(Resize='scale', RandomResize='scale', RandomChoiceResize='scales', FixShapeResize='scale',
              ResizeEdge='scale', RandomResizedCrop='scale', CenterCrop='crop_size', RandomCrop='crop_size',
              EfficientNetCenterCrop='crop_size', EfficientNetRandomCrop='scale', Pad='size', Mosaic='img_scale',
              CachedMosaic='img_scale')
_BASES = (('mmdet', 'detectors', 'BaseDetector'), ('mmpretrain', 'classifiers', 'BaseClassifier'),
          ('mmseg', 'segmentors', 'BaseSegmentor'))
_HOOKS = ('InPlaceABNHook', 'SaveMemoryHook')  # hooks that change what the model stores, in their order
_GOOD_PROPOSALS = 512  # per image: more than a sampler takes


class Batch(NamedTuple):
    """The size of a batch.

    Attributes:
        images: Number of images.
        height: Height in pixels, after padding.
        width: Width in pixels, after padding.
        objects: Number of annotated objects in each image.
    """
    images: int
    height: int
    width: int
    objects: int = 8


class Training:
    """Model and optimizer as the runner of a config builds them, in one process on the CPU with random weights.

    Args:
        cfg: The config.
        prepare: Called with the model after it is built.

    Attributes:
        model: The model in training mode.
        optim_wrapper: Its optimizer wrapper, with the state that the optimizer has after its first step.

    Raises:
        ProblemError: If the model or the optimizer cannot be built, or if the model does not belong to mmdet,
            mmpretrain or mmseg.
    """

    def __init__(self, cfg: Config, prepare: Callable[[nn.Module], None] = lambda model: None):
        init_default_scope(str(cfg.get('default_scope') or 'mmengine'))
        for key in ('iter', 'epoch'):  # as the runner does; some models read them
            MessageHub.get_current_instance().update_info(key, 0)
        config = copy.deepcopy(cfg.model)
        if cfg.get('data_preprocessor'):
            config.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
        with phase('`model` cannot be built', f'Fix it in {cfg.filename}; `mmrev check` says more'):
            self.model: Any = MODELS.build(config)
        self.kind = _kind(self.model)
        self._masks = _loads(cfg, 'with_mask')
        self._stuff = _loads(cfg, 'with_seg')
        self._classes = _num_classes(cfg.model)
        with phase('what the config changes in the model', f'Fix it in {cfg.filename}; --traceback shows where'):
            self._change(cfg)  # as the hooks see it, with its synchronized norms
        self.model = revert_sync_batchnorm(self.model)
        self._averaged = any(_name(hook) == 'EMAHook' for hook in cfg.get('custom_hooks') or ())
        self.model.train()
        if hasattr(getattr(self.model, 'rpn_head', None), 'init_proposal_bboxes'):
            self.model.rpn_head.init_weights()  # before, learned proposals have negative sizes
        prepare(self.model)
        with phase('`optim_wrapper` cannot be built', f'Fix it in {cfg.filename}; `mmrev check` says more'):
            self.optim_wrapper: OptimWrapper = build_optim_wrapper(self.model, _on_cpu(cfg.optim_wrapper))
        if hasattr(self.model, 'rpn_head'):
            _add_good_proposals(self.model.rpn_head)
        self._make_state()

    def _change(self, cfg: Config) -> None:
        if cfg.get('activation_checkpointing') is not None:
            turn_on_activation_checkpointing(self.model, cfg.activation_checkpointing)
        if cfg.get('efficient_conv_bn_eval') is not None:
            turn_on_efficient_conv_bn_eval(self.model, cfg.efficient_conv_bn_eval)
        hooks = {_name(hook): hook for hook in cfg.get('custom_hooks') or ()}
        runner = SimpleNamespace(model=self.model, hooks=[], logger=MMLogger.get_current_instance())
        for name in _HOOKS:
            if name in hooks:
                HOOKS.build(hooks[name]).before_train(runner)

    def _make_state(self) -> None:
        optimizer = self.optim_wrapper.optimizer
        for group in optimizer.param_groups:
            group['lr'] = 0.  # several steps on images without content do not diverge
        for weight in self.weights():
            weight.grad = torch.zeros_like(weight)
        optimizer.step()
        optimizer.zero_grad()

    def weights(self) -> List[nn.Parameter]:
        """The weights that are trained."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def fixed_bytes(self) -> Dict[str, int]:
        """Bytes that live through all steps, by kind."""
        state = [x for entry in self.optim_wrapper.optimizer.state.values() for x in entry.values()]
        found = {'weights': _nbytes([*self.model.parameters(), *self.model.buffers()]),
                 'optimizer': _nbytes([x for x in state if isinstance(x, Tensor)])}
        if self._averaged:
            found['moving average'] = found['weights']
        return found

    def data(self, batch: Batch) -> Dict[str, Any]:
        """Return a batch as the data loader would return it."""
        shape = batch.height, batch.width
        images = [torch.zeros(3, *shape, dtype=torch.uint8) for _ in range(batch.images)]
        if self.kind == 'mmpretrain':
            return dict(inputs=torch.stack(images), data_samples=[self._label(i) for i in range(batch.images)])
        sample = self._segmented if self.kind == 'mmseg' else self._boxes
        return dict(inputs=images, data_samples=[sample(i, batch) for i in range(batch.images)])

    def _label(self, i: int) -> Any:
        from mmpretrain.structures import DataSample
        return DataSample().set_gt_label(i % self._classes)

    def _segmented(self, i: int, batch: Batch) -> Any:
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample
        labels = torch.arange(batch.height * batch.width).view(1, batch.height, batch.width) // 64 % self._classes
        return SegDataSample(metainfo=_metainfo(i, batch), gt_sem_seg=PixelData(data=labels))

    def _boxes(self, i: int, batch: Batch) -> Any:
        from mmdet.structures import DetDataSample
        from mmdet.structures.mask import BitmapMasks
        from mmengine.structures import InstanceData, PixelData
        generator = np.random.default_rng(i)
        size = np.array([batch.width, batch.height])
        sizes = size * generator.uniform(0.04, 0.4, (batch.objects, 2))
        corners = generator.uniform(0, 1, (batch.objects, 2)) * (size - sizes)
        boxes = np.concatenate([corners, corners + sizes], 1).astype(np.float32)
        instances = InstanceData(bboxes=torch.from_numpy(boxes),
                                 labels=torch.from_numpy(generator.integers(0, self._classes, batch.objects)))
        if self._masks:
            masks = np.zeros((batch.objects, batch.height, batch.width), np.uint8)
            for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int)):
                mask[top:bottom + 1, left:right + 1] = 1
            instances.masks = BitmapMasks(masks, batch.height, batch.width)
        sample = DetDataSample(metainfo=_metainfo(i, batch), gt_instances=instances)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        if self._stuff:
            sample.gt_sem_seg = PixelData(sem_seg=torch.zeros(1, batch.height, batch.width, dtype=torch.long))
        return sample


def _metainfo(i: int, batch: Batch) -> Dict[str, Any]:
    shape = batch.height, batch.width
    return dict(img_id=i, img_path='', img_shape=shape, ori_shape=shape, pad_shape=shape, batch_input_shape=shape,
                scale_factor=(1., 1.), flip=False, flip_direction=None)


def _kind(model: nn.Module) -> str:
    """The package whose base class the model has."""
    for package, part, base in _BASES:
        if isinstance(model, getattr(sys.modules.get(f'{package}.models.{part}'), base, ())):
            return package
    raise ProblemError(f'{type(model).__name__} is neither a detector of mmdet, a classifier of mmpretrain nor a '
                       'segmentor of mmseg', 'Give the config of one')


def _on_cpu(optim_wrapper: dict) -> dict:
    """Replace autocast on a GPU by autocast on the CPU, with numbers of the same size."""
    changed = copy.deepcopy(optim_wrapper)
    if _name(changed) == 'AmpOptimWrapper':
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            changed.pop(key, None)
        changed['type'] = 'mmrev.BFloat16OptimWrapper'
    return changed


def _name(entry: dict) -> str:
    kind = entry.get('type')
    return str(getattr(kind, '__name__', kind)).split('.')[-1]


def _transforms(cfg: Config) -> Iterator[dict]:
    """All transforms of the training pipelines, those of outer datasets last."""
    def walk(dataset: Any) -> Iterator[dict]:
        if isinstance(dataset, (list, tuple)):
            for one in dataset:
                yield from walk(one)
        elif isinstance(dataset, dict):
            yield from walk(dataset.get('dataset') or dataset.get('datasets'))
            yield from dataset.get('pipeline') or ()

    yield from walk((cfg.get('train_dataloader') or {}).get('dataset'))


def _loads(cfg: Config, what: str) -> bool:
    return any(transform.get(what, _name(transform) == 'LoadPanopticAnnotations') for transform in _transforms(cfg))


def _num_classes(node: Any) -> int:
    """The smallest number of classes of any part of the model."""
    found = [2**30]
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if key in ('num_classes', 'num_things_classes') and isinstance(value, int) and value > 0:
            found.append(value)
        elif isinstance(value, (dict, list, tuple)):
            found.append(_num_classes(value))
    return min(found)


def _add_good_proposals(rpn_head: nn.Module) -> None:
    """Add the objects to the proposals of an untrained network, so that heads get as many regions as in training."""
    loss_and_predict = rpn_head.loss_and_predict

    def with_good_proposals(features, samples, proposal_cfg=None):
        from mmengine.structures import InstanceData
        losses, proposals = loss_and_predict(features, samples, proposal_cfg=proposal_cfg)
        for i, sample in enumerate(samples):
            boxes = sample.gt_instances.bboxes
            if not len(boxes) or 'scores' not in proposals[i]:  # learned proposals are as many always
                continue
            boxes = boxes.repeat(-(-_GOOD_PROPOSALS // len(boxes)), 1)
            good = InstanceData(bboxes=boxes, scores=torch.ones(len(boxes)), labels=torch.zeros(len(boxes)).long())
            proposals[i] = InstanceData.cat([good, proposals[i]])
        return losses, proposals

    rpn_head.__dict__['loss_and_predict'] = with_good_proposals


def default_batch(cfg: Config, image: Optional[Sequence[int]] = None) -> Batch:
    """Return the size of the largest batch of the training pipeline, in landscape format and padded as by the model.

    Args:
        cfg: The config.
        image: Height and width, if the pipeline does not specify them.

    Raises:
        ProblemError: If neither the pipeline nor ``image`` specifies the size of the images.
    """
    shape: Optional[Tuple[int, int]] = None
    for transform in _transforms(cfg) if image is None else ():
        nested = transform.get('transforms') or []
        for one in [transform, *(t for branch in nested for t in (branch if isinstance(branch, list) else [branch]))]:
            size = one.get(_SIZES.get(_name(one), ''))
            if size:
                sizes = list(size) if isinstance(size, (list, tuple)) and isinstance(size[0], (list, tuple)) else [size]
                pairs = [(s, s) if isinstance(s, int) else (min(s), max(s)) for s in sizes]
                shape = max(pairs, key=lambda pair: pair[0] * pair[1])
    if image is not None:
        shape = image[0], image[1]
    if shape is None:
        raise ProblemError(f'the training pipeline of {cfg.filename} does not specify the size of the images',
                           'Specify it: --image H W')
    preprocessor = cfg.model.get('data_preprocessor') or {}
    for augment in preprocessor.get('batch_augments') or () if image is None else ():
        side, size = (augment.get('random_size_range') or (0, 0))[1], augment.get('size')
        if side:  # mmdet's BatchSyncRandomResize scales all images of a batch
            scale = max(1., side / shape[0])
            shape = int(shape[0] * scale), int(shape[1] * scale)
        elif size and _name(augment) == 'BatchFixedSizePad':
            shape = max(shape[0], size[0]), max(shape[1], size[1])
    divisor = preprocessor.get('pad_size_divisor') or 1
    height, width = (-(-side // divisor) * divisor for side in shape)
    return Batch(int((cfg.get('train_dataloader') or {}).get('batch_size') or 1), height, width)


def _nbytes(tensors: List[Tensor]) -> int:
    """Bytes of the storages of tensors; a shared storage counts once."""
    return sum({x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in tensors}.values())
