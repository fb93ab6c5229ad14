"""Batch normalisations folded into the layers before them, as a network is served.

In eval mode a normalisation is a scale and a shift of each feature, which the weights and the bias
of the layer before it can take over (Jacob et al., 2018, arXiv:1712.05877, section 3.2). What is
left is smaller, faster, and stored once: an ONNX exporter folds too, and a graph whose weights are
not those of the safetensors file keeps its own.
"""

from __future__ import annotations

import copy
import itertools
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

Network = TypeVar("Network", bound=nn.Module)


def folded(network: Network) -> Network:
    """A copy in eval mode whose normalisations are identities; the original stays as it is.

    Folded is each batch normalisation that follows a linear layer or a convolution, transposed or
    not, in an `nn.Sequential`; the names of the other layers do not change.
    """
    served = copy.deepcopy(network).eval()
    for layers in [module for module in served.modules() if isinstance(module, nn.Sequential)]:
        for (at, layer), (after, norm) in itertools.pairwise(enumerate(layers)):
            if isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
                layers[at], layers[after] = fuse_linear_bn_eval(layer, norm), nn.Identity()
            elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and isinstance(
                norm, nn.BatchNorm2d
            ):
                transposed = isinstance(layer, nn.ConvTranspose2d)
                layers[at] = fuse_conv_bn_eval(layer, norm, transpose=transposed)
                layers[after] = nn.Identity()
    return served
