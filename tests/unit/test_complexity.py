"""What a lossless compressor needs for an image, and likelihoods corrected by it."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from services.core.complexity import MOST_VALUES, complexity_bits
from services.core.images import Pixels
from services.core.residuals import ESCAPE, SCALES, residual_bits
from services.core.trajectory import Result
from services.families.likelihood import Complexity, judged
from tests.engines import some_pixels

DIMS = 64


def ramp() -> Pixels:
    """One more in every column and row, over the end of the 8 bits and on from 0."""
    rows, columns = np.indices((32, 32))
    return (7 * rows + 5 * columns).astype(np.uint8)[None]


def bits_per_value(image: Pixels) -> float:
    bits = complexity_bits(image)
    assert bits is not None
    return bits / image.size


def test_a_constant_image_is_nearly_free_and_noise_costs_its_bits() -> None:
    assert bits_per_value(np.full((3, 32, 32), 77, np.uint8)) < 0.1
    assert 8 <= bits_per_value(some_pixels(3, 32, 32)) < 8.05


def test_what_a_filter_foresees_is_nearly_free() -> None:
    assert bits_per_value(ramp()) < 0.5


@pytest.mark.parametrize("image", [ramp(), some_pixels(1, 32, 32), some_pixels(1, 32, 32) // 64])
def test_a_png_file_is_never_smaller(image: Pixels) -> None:
    stream = io.BytesIO()
    Image.fromarray(image[0]).save(stream, "PNG", optimize=True)
    bits = complexity_bits(image)
    assert bits is not None
    assert bits <= 8 * len(stream.getvalue())


def test_a_large_image_is_not_compressed() -> None:
    assert complexity_bits(np.zeros((1, 1, MOST_VALUES + 1), np.uint8)) is None


def judgement(image: Pixels | None, reference: list[float] | None) -> Result:
    """Of an image at 6 bits a value."""
    return judged(
        -6 * DIMS * math.log(2),
        dims=DIMS,
        kind="exact",
        terms={},
        samples=1,
        std_error=0.0,
        reference=None,
        complexity=None if image is None else Complexity(image, reference),
    )


def test_the_corrected_score_is_the_models_bits_less_the_compressors() -> None:
    image = some_pixels(1, 8, 8)
    found = judgement(image, None).values
    assert found["complexity_bits_per_dim"] == pytest.approx(bits_per_value(image))
    expected = found["bits_per_dim"] - found["complexity_bits_per_dim"]
    assert found["corrected_bits_per_dim"] == pytest.approx(expected)
    assert found["corrected_percentile"] is None
    assert found["corrected_anomalous"] is None


def test_of_two_images_of_one_likelihood_the_simpler_is_the_stranger() -> None:
    reference = np.linspace(-3.5, -1.5, 101).tolist()
    plain = judgement(np.full((1, 8, 8), 9, np.uint8), reference).values
    noise = judgement(some_pixels(1, 8, 8), reference).values
    assert plain["corrected_percentile"] == 0
    assert plain["corrected_anomalous"] is True
    assert noise["corrected_percentile"] > 1
    assert noise["corrected_anomalous"] is False


def test_what_codes_leave_out_is_added() -> None:
    image = some_pixels(1, 8, 8)
    near = np.clip(image.astype(int) + 3, 0, 255).astype(np.uint8)
    plain = judgement(image, None).values
    close, far = (
        judged(
            -6 * 16 * math.log(2),  # 16 codes of 6 bits
            dims=16,
            kind="exact",
            terms={},
            samples=1,
            std_error=0.0,
            reference=None,
            complexity=Complexity(image, None, again),
        ).values
        for again in (near, 255 - image)
    )
    for found, again in ((close, near), (far, 255 - image)):
        residual = residual_bits(image, again) / 64
        assert found["residual_bits_per_dim"] == pytest.approx(residual)
        expected = 6 * 16 / 64 + residual - found["complexity_bits_per_dim"]
        assert found["corrected_bits_per_dim"] == pytest.approx(expected)
        assert found["bits_per_dim"] == pytest.approx(6)
    assert close["corrected_bits_per_dim"] < far["corrected_bits_per_dim"]
    assert "residual_bits_per_dim" not in plain


def test_a_residual_is_what_the_best_logistic_gives() -> None:
    image, again = some_pixels(2, 8, 8)[0:1], some_pixels(2, 8, 8)[1:2]
    image[0, 0, :2] = (0, 255)  # the ends hold what lies beyond them
    bits = []
    for scale in SCALES:
        around = stats.logistic(loc=again.astype(float), scale=scale)
        above = np.where(image == 255, 1, around.cdf(image + 0.5))
        below = np.where(image == 0, 0, around.cdf(image - 0.5))
        bits.append(-np.log2((1 - ESCAPE) * (above - below) + ESCAPE / 256).sum())
    assert residual_bits(image, again) == pytest.approx(min(bits) + math.log2(len(SCALES)))


def test_residuals_are_descriptions_that_can_be_told_apart() -> None:
    """Kraft's inequality: all images of two values, from any other, share no more than all bits."""
    values = np.arange(0, 256, 3, dtype=np.uint8)
    for expected in ((0, 255), (128, 130)):
        center = np.array(expected, np.uint8)
        pairs = np.stack(np.meshgrid(values, values), axis=-1).reshape(-1, 2)
        total = sum(2 ** -residual_bits(pair, center) for pair in pairs)
        assert total < 1
    assert residual_bits(np.zeros((1, 8, 8), np.uint8), np.zeros((1, 8, 8), np.uint8)) < 32


def test_without_an_image_nothing_is_corrected() -> None:
    found = judgement(None, [0.0, 1.0]).values
    assert found["bits_per_dim"] == pytest.approx(6)
    assert {v for k, v in found.items() if k.startswith(("corrected", "complexity"))} == {None}
