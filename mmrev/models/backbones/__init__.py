from .iabn_densenet import IABNDenseNet
from .iabn_resnet import IABNResNet
from .iabn_resnext import IABNResNeXt
from .pf_resnet import PFResNet
from .pf_vit import PFViT
from .pit import PiT
from .revbifpn import RevBiFPN
from .revmvit import RevMViT
from .revswin import RevSwin
from .revvit import RevViT
from .wider_resnet import WiderResNet

__all__ = ['IABNDenseNet', 'IABNResNeXt', 'IABNResNet', 'PFResNet', 'PFViT', 'PiT', 'RevBiFPN', 'RevMViT', 'RevSwin',
           'RevViT', 'WiderResNet']
