"""mmdet's inferencer, extended by the detectors of mmrev."""
import copy
from typing import Any, Optional, Tuple

from mmdet.apis import DetInferencer as MMDetInferencer
from mmengine.config import Config
from mmengine.registry import DATASETS

from mmrev.checkpoints import mismatch
from mmrev.checkpoints import published

from .model_hub import CLASSIFICATION


class DetInferencer(MMDetInferencer):
    """mmdet's `DetInferencer`, with the same arguments, for the detectors of mmrev as well.

    ``model`` is a name from the metafiles of mmrev or mmdet, or the path of a config. If no weights are given and none
    are published, it raises; mmdet's own continues with random weights.

    Raises:
        ValueError: If the name is unknown, if there are no weights, or if they belong to another model.
    """

    def _load_model_from_metafile(self, model: str) -> Tuple[Config, Optional[str]]:
        """See `mmengine.infer.BaseInferencer`; the published weights are the default."""
        known = published.find_model(model)
        if known is None:
            return self._load_from_mmdet(model)
        if CLASSIFICATION in known.tasks:
            raise ValueError(f'`{model}` is a classifier; use mmpretrain.inference_model({model!r}, ...)')
        return Config.fromfile(known.config_file), known.weights

    def _load_from_mmdet(self, model: str) -> Tuple[Config, Optional[str]]:
        try:
            return super()._load_model_from_metafile(model)
        except ValueError as error:
            names = ', '.join(known.name for known in published.models() if CLASSIFICATION not in known.tasks)
            raise ValueError(f'{error}, nor is it a config file or a detector of mmrev: {names}') from error

    def _init_model(self, cfg: Any, weights: Optional[str], device: str = 'cpu') -> Any:
        """See `mmengine.infer.BaseInferencer`."""
        if weights is None:
            raise ValueError('a config alone has no weights: give weights=CHECKPOINT, which training with this config '
                             'writes into its work dir')
        return super()._init_model(cfg, weights, device)

    def _load_weights_to_model(self, model: Any, checkpoint: Optional[dict], cfg: Any) -> None:
        """See `mmengine.infer.BaseInferencer`."""
        other = checkpoint is not None and mismatch(model, checkpoint)
        if other:
            raise ValueError(f'the weights are of another model: {other}; give those that were trained with it')
        super()._load_weights_to_model(model, checkpoint, cfg)
        if checkpoint is not None and not {'dataset_meta', 'CLASSES'} & (checkpoint.get('meta') or {}).keys():
            dataset = dict(copy.deepcopy(cfg.test_dataloader.dataset), lazy_init=True)
            model.dataset_meta = DATASETS.build(dataset).metainfo  # mmdet would take the classes of COCO
