"""Test-time augmentation that mmpretrain lacks."""
import torch
from mmpretrain.models.tta import AverageClsScoreTTA

from mmrev.registry import MODELS


@MODELS.register_module()
class AverageClsLogitTTA(AverageClsScoreTTA):
    """The mean of the logits, as the published InPlace-ABN networks (arXiv:1712.02616) are tested.

    mmpretrain's class averages probabilities. Up to a constant that softmax removes, a score is the logarithm of its
    probability.
    """

    def _merge_single_sample(self, data_samples):
        logits = torch.stack([sample.pred_score.clamp(min=torch.finfo(sample.pred_score.dtype).tiny).log()
                              for sample in data_samples]).mean(0)
        return data_samples[0].new().set_pred_score(logits.softmax(0))
