"""Image transforms that mmpretrain lacks."""
from typing import Dict, Optional

import numpy as np
from mmcv.transforms import BaseTransform

from mmrev.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LightingNoise(BaseTransform):
    """Add a random color along the principal components of ImageNet's pixels (Krizhevsky et al. 2012, section 4.1).

    mmpretrain's ``Lighting`` does the same without clipping: values above 255 wrap around to 0.

    Required and modified key: ``img``, ``(H, W, 3)``, uint8 or float in [0, 255], in the order BGR.

    Args:
        std: Standard deviation of the factor of each component.
    """
    components = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])  # RGB
    deviations = 255 * np.array([0.2175, 0.0188, 0.0045])

    def __init__(self, std: float = 0.1):
        if std < 0:
            raise ValueError(f'`std` must not be negative, got {std}')
        self.std = std

    def _colour(self) -> np.ndarray:
        """The color to add, BGR."""
        return (self.components @ (np.random.normal(0, self.std, 3) * self.deviations))[::-1]

    def transform(self, results: Dict) -> Dict:
        img = results['img']
        noisy = np.clip(img + self._colour(), 0, 255)
        results['img'] = (noisy.round() if img.dtype == np.uint8 else noisy).astype(img.dtype)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(std={self.std})'


@TRANSFORMS.register_module()
class TenCrop(BaseTransform):
    """Crop the four corners and the center of an image, and mirror them: ten inputs of one sample.

    It is the last step of a ``tta_pipeline``, like mmcv's ``TestTimeAug``.

    Required key: ``img``, ``(H, W, 3)``. Added keys: those of ``pack``, each a list of ten.

    Args:
        crop_size: Side of the crops, in pixels.
        pack: Transform that packs a crop; None for mmpretrain's ``PackInputs``.

    Raises:
        ValueError: If an image is smaller than a crop.
    """

    def __init__(self, crop_size: int = 224, pack: Optional[dict] = None):
        self.crop_size = crop_size
        self.pack = TRANSFORMS.build(pack or dict(type='mmpretrain.PackInputs'))

    def transform(self, results: Dict) -> Dict:
        img, size = results['img'], self.crop_size
        height, width = img.shape[:2]
        if min(height, width) < size:
            raise ValueError(f'an image of {width}x{height} pixels has no crop of {size}: enlarge `scale` of '
                             'ResizeEdge or reduce `crop_size` of TenCrop')
        bottom, right = height - size, width - size
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))]
        crops = [img[y:y + size, x:x + size] for y, x in corners]
        crops += [crop[:, ::-1] for crop in crops]
        packed = [self.pack(dict(results, img=np.ascontiguousarray(crop), img_shape=(size, size))) for crop in crops]
        return {key: [one[key] for one in packed] for key in packed[0]}

    def __repr__(self) -> str:
        return f'{type(self).__name__}(crop_size={self.crop_size})'
