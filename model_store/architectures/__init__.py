"""Torch modules of the built-in models: what a manifest's ``architecture`` name stands for.

Every module's ``forward`` takes the family's input names as arguments, and its class names what
``forward`` returns, in order, in ``outputs``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from model_store.architectures.autoencoder import SpatialDecoder, SpatialEncoder
from model_store.architectures.autoregressive_flow import (
    IAF,
    MAF,
    IAFForwardStep,
    MAFInverseStep,
)
from model_store.architectures.caption_transformer import CaptionTransformer
from model_store.architectures.classifier import FactorClassifier
from model_store.architectures.convolutional_vae import ConvolutionalDecoder, ConvolutionalEncoder
from model_store.architectures.densities import (
    BernoulliDensity,
    BernoulliSampler,
    GaussianDensity,
    MixtureDensity,
    MixtureSampler,
)
from model_store.architectures.digit_gan import (
    StridedCritic,
    StridedEncoder,
    StridedGenerator,
)
from model_store.architectures.gan import ConditionalGenerator
from model_store.architectures.glow import Glow, GlowInverse
from model_store.architectures.hierarchical_vae import HierarchicalDecoder, HierarchicalEncoder
from model_store.architectures.nice import NICE, NICEInverse
from model_store.architectures.noisy_classifier import NoisyClassifier
from model_store.architectures.patch_denoiser import (
    ExplodingScore,
    PatchDenoiser,
    SuperResolver,
)
from model_store.architectures.perceptron import PerceptronDecoder, PerceptronEncoder
from model_store.architectures.perceptron_gan import (
    CodedGenerator,
    CodeRecognition,
    PerceptronCritic,
    PerceptronGenerator,
)
from model_store.architectures.pixel_denoiser import PixelDenoiser
from model_store.architectures.progan import ProgressiveGenerator
from model_store.architectures.realnvp import RealNVP, RealNVPInverse
from model_store.architectures.stylegan2 import (
    StyleEncoder,
    StyleMapping,
    StyleModulations,
    StyleSynthesis,
)
from model_store.architectures.token_transformer import TokenTransformer
from model_store.architectures.translation import PatchTranslator, ResidualEnlarger
from model_store.architectures.two_level_codes import TwoLevelDecoder, TwoLevelEncoder
from model_store.architectures.vae import VectorDecoder, VectorEncoder
from model_store.architectures.vector_quantized import (
    VectorQuantizedDecoder,
    VectorQuantizedEncoder,
)
from services.core.errors import InvalidNetwork

ARCHITECTURES: Mapping[str, type[nn.Module]] = MappingProxyType(
    {
        "bernoulli_density": BernoulliDensity,
        "bernoulli_sampler": BernoulliSampler,
        "caption_transformer": CaptionTransformer,
        "code_recognition": CodeRecognition,
        "coded_generator": CodedGenerator,
        "conditional_generator": ConditionalGenerator,
        "convolutional_decoder": ConvolutionalDecoder,
        "convolutional_encoder": ConvolutionalEncoder,
        "exploding_score": ExplodingScore,
        "factor_classifier": FactorClassifier,
        "gaussian_density": GaussianDensity,
        "glow": Glow,
        "glow_inverse": GlowInverse,
        "hierarchical_decoder": HierarchicalDecoder,
        "hierarchical_encoder": HierarchicalEncoder,
        "iaf": IAF,
        "iaf_forward_step": IAFForwardStep,
        "maf": MAF,
        "maf_inverse_step": MAFInverseStep,
        "mixture_density": MixtureDensity,
        "mixture_sampler": MixtureSampler,
        "nice": NICE,
        "nice_inverse": NICEInverse,
        "noisy_classifier": NoisyClassifier,
        "patch_denoiser": PatchDenoiser,
        "patch_translator": PatchTranslator,
        "perceptron_critic": PerceptronCritic,
        "perceptron_decoder": PerceptronDecoder,
        "perceptron_encoder": PerceptronEncoder,
        "perceptron_generator": PerceptronGenerator,
        "pixel_denoiser": PixelDenoiser,
        "progressive_generator": ProgressiveGenerator,
        "realnvp": RealNVP,
        "realnvp_inverse": RealNVPInverse,
        "residual_enlarger": ResidualEnlarger,
        "spatial_decoder": SpatialDecoder,
        "spatial_encoder": SpatialEncoder,
        "strided_critic": StridedCritic,
        "strided_encoder": StridedEncoder,
        "strided_generator": StridedGenerator,
        "style_encoder": StyleEncoder,
        "style_mapping": StyleMapping,
        "style_modulations": StyleModulations,
        "style_synthesis": StyleSynthesis,
        "super_resolver": SuperResolver,
        "token_transformer": TokenTransformer,
        "two_level_decoder": TwoLevelDecoder,
        "two_level_encoder": TwoLevelEncoder,
        "vector_decoder": VectorDecoder,
        "vector_encoder": VectorEncoder,
        "vector_quantized_decoder": VectorQuantizedDecoder,
        "vector_quantized_encoder": VectorQuantizedEncoder,
    }
)
"""The closed table: a manifest can name nothing else, so it can start no other code."""


def build(name: str, config: Mapping[str, Any]) -> nn.Module:
    """An untrained module of the architecture ``name``, in eval mode.

    Args:
        name: a key of `ARCHITECTURES`.
        config: keyword arguments of its constructor.

    Raises:
        InvalidNetwork: there is no such architecture, or it takes no such configuration.
    """
    if name not in ARCHITECTURES:
        raise InvalidNetwork(f"no architecture '{name}'; there are {sorted(ARCHITECTURES)}")
    try:
        return ARCHITECTURES[name](**config).eval()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidNetwork(f"architecture '{name}' takes no such config: {error}") from error
