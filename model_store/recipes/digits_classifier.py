"""Fit the judge of the digit models: ``python -m model_store.recipes.digits_classifier``.

scikit-learn's perceptron, in seconds, on the training split of the digits; nothing of it is shared
with any generator.
"""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.neural_network import MLPClassifier

from model_store.evaluation import digits_judge
from model_store.recipes import digits

HIDDEN = 64
DRAWS = 8
"""Times that the training split is seen, each with other noise within the levels and shifts."""
SHIFT_CHANCE = 0.2


def rows(draws: int) -> tuple[np.ndarray, np.ndarray]:
    """The training split as the classifier reads it, ``[draws * n, 64]``, and its digits."""
    generator = torch.Generator().manual_seed(0)
    images, target = digits.levels("train")
    seen = [digits.augmented(images, generator, chance=SHIFT_CHANCE) for _ in range(draws)]
    told = digits_judge.in_levels(digits.signed(torch.cat(seen)))
    return told.numpy(), target.repeat(draws).numpy()


def main() -> None:
    """Fit, store in half precision, and say how much of the test split is read right."""
    told, target = rows(DRAWS)
    fitted = MLPClassifier((HIDDEN,), alpha=1e-2, max_iter=60, random_state=0).fit(told, target)
    layers = zip(("hidden", "output"), fitted.coefs_, fitted.intercepts_, strict=True)
    weights = {}
    for name, coefficients, intercepts in layers:
        weights[f"{name}.weight"] = torch.from_numpy(coefficients.T.copy()).half()
        weights[f"{name}.bias"] = torch.from_numpy(intercepts.copy()).half()
    save_file(weights, digits_judge.WEIGHTS)
    digits_judge.weights.cache_clear()
    images = digits.signed(digits.dequantized("test", seed=0))
    read = digits_judge.read(images).logits.argmax(1)
    print(f"read right: {float((read == digits.levels('test')[1]).float().mean()):.4f}")


if __name__ == "__main__":
    main()
