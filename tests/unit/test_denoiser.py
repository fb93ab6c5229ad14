"""What networks predict, turned into the denoised image."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from services.sampling.denoiser import PredictionType, denoised_coefficients, to_denoised
from services.sampling.schedule import Flow, VariancePreserving

VP = VariancePreserving().integer_grid(5, "leading")
LINE = Flow().grid(5)
LEVELS = {"epsilon": VP, "v_prediction": VP, "sample": VP, "flow": LINE, "score": VP}


def noised(prediction: PredictionType) -> tuple[torch.Tensor, ...]:
    """Images, states at five levels, a perfect network's outputs, and the levels."""
    generator = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn((2, 5, 3, 4, 4), generator=generator, dtype=torch.float64)
    grid = LEVELS[prediction]
    alphas, sigmas = torch.from_numpy(grid.alphas[:5]), torch.from_numpy(grid.sigmas[:5])
    alpha, sigma = alphas.view(-1, 1, 1, 1), sigmas.view(-1, 1, 1, 1)
    outputs = {
        "epsilon": noise,
        "v_prediction": alpha * noise - sigma * x_0,
        "sample": x_0,
        "flow": noise - x_0,
        "score": -noise / sigma,
    }
    return x_0, alpha * x_0 + sigma * noise, outputs[prediction], alphas, sigmas


@pytest.mark.parametrize("prediction", get_args(PredictionType))
def test_a_perfect_prediction_gives_the_image_back(prediction: PredictionType) -> None:
    x_0, x, output, alphas, sigmas = noised(prediction)
    assert torch.allclose(to_denoised(prediction, x, output, alphas, sigmas), x_0, atol=1e-10)


@pytest.mark.parametrize("prediction", get_args(PredictionType))
def test_single_precision_loses_no_more_than_single_precision(prediction: PredictionType) -> None:
    x_0, x, output, alphas, sigmas = noised(prediction)
    found = to_denoised(prediction, x.float(), output.float(), alphas, sigmas)
    assert found.dtype == torch.float32
    worst = float((1 / alphas).max()) if prediction in ("epsilon", "score") else 1.0
    assert torch.allclose(found.double(), x_0, atol=1e-5 * worst)


@pytest.mark.parametrize("prediction", get_args(PredictionType))
def test_a_row_is_bitwise_the_same_in_every_company(prediction: PredictionType) -> None:
    _, x, output, alphas, sigmas = noised(prediction)
    x, output = x.float(), output.float()
    together = to_denoised(prediction, x, output, alphas, sigmas)
    for i in range(len(x)):
        part = slice(i, i + 1)
        alone = to_denoised(prediction, x[part], output[part], alphas[part], sigmas[part])
        assert torch.equal(alone[0], together[i])


def test_a_flow_starts_from_pure_noise_without_dividing_by_its_signal() -> None:
    p, q = denoised_coefficients("flow", torch.tensor([0.0]), torch.tensor([1.0]))
    assert (float(p), float(q)) == (1, -1)
