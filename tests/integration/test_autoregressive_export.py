"""A model of codes as it is exported and opened: prefixes mixed, bitwise, on onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model_store.export.card import Card
from model_store.export.network import Input, NetworkExport
from model_store.export.package import Package, publish
from model_store.networks.opening import open_model
from model_store.recipes.code_priors import log_likelihood
from model_store.store import Store
from services.core.parameters import Latents
from tests.engines import CPU, ask, call, carry, ready, some_pixels
from tests.tiny_autoregressive import (
    CODES,
    DEPTH,
    SIDE,
    SLOTS,
    VOCABULARY,
    WIDTH,
    tiny_autoencoder,
    tiny_transformer,
)

pytestmark = pytest.mark.slow

LENGTH = SIDE * SIDE
PROMPT = "a red circle"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    root = tmp_path_factory.mktemp("catalog")
    transformer, (encoder, decoder) = tiny_transformer(), tiny_autoencoder()
    positions = transformer.positions
    networks = [
        NetworkExport(
            name="transformer",
            architecture="token_transformer",
            module=transformer,
            inputs={
                "token": Input((), "integer", 3),
                "position": Input((), "integer", positions),
                "tokens": Input((2,), "integer", 3),
                "cache": Input((DEPTH, 2, positions, WIDTH)),
            },
            config={
                "words": SLOTS["text"],
                "lengths": [LENGTH],
                "codes": CODES,
                "width": WIDTH,
                "depth": DEPTH,
                "heads": 2,
            },
        ),
        NetworkExport(
            name="encoder",
            architecture="vector_quantized_encoder",
            module=encoder,
            inputs={"image": Input((3, 8, 8), "image")},
            config={"codes": CODES, "dim": 3, "patch": 2, "width": 8, "blocks": 1},
        ),
        NetworkExport(
            name="decoder",
            architecture="vector_quantized_decoder",
            module=decoder,
            inputs={"codes": Input((LENGTH,), "integer", CODES)},
            config={
                "codes": CODES,
                "dim": 3,
                "patch": 2,
                "width": 8,
                "blocks": 1,
                "side": SIDE,
                "fine": 4,
            },
        ),
    ]
    publish(
        Package(
            id="tiny-codes",
            family="autoregressive",
            description="random codes",
            networks=networks,
            options={
                "codes": CODES,
                "levels": [{"shape": [SIDE, SIDE]}],
                "tokenizer": dict(VOCABULARY),
            },
            metrics={},
            card=Card("tiny", "", "", "", "", (), "", "", ""),
            sheet=torch.zeros(4, 3, 8, 8),
            sheet_columns=2,
            resolution=(8, 8),
        ),
        root,
    )
    store = Store(tmp_path_factory.mktemp("store"), catalogs=(root,))
    return ready(open_model(store, "tiny-codes", CPU, threads=1, prefer="onnx"))


def test_prefixes_of_every_length_share_batches_and_show_no_company(engine):
    """The project's promise, bitwise, as served: each row joins one evaluation after the last."""
    image = some_pixels(3, 8, 8)
    jobs = [
        *engine.jobs(call("generate", prompt=PROMPT, seed=1, n=4, guidance_scale=2.0)),
        *engine.jobs(call("likelihood", images=[image], prompt=PROMPT)),
        *engine.jobs(call("generate", seed=9, n=5, temperature=0.8, top_p=0.9)),
    ]
    alone = [carry(engine, [job])[0] for job in jobs]
    rows, waiting = [], list(jobs)
    while waiting or any(not row.finished for row in rows):
        if waiting:
            rows += engine.prepare([waiting.pop(0)])
        engine.step([row for row in rows if not row.finished])
    for row, expected in zip(rows, alone, strict=True):
        (found,) = engine.decode([row])
        assert found.values == expected.values
        assert found.pixels is expected.pixels or np.array_equal(found.pixels, expected.pixels)


def test_the_likelihood_is_that_of_a_pass_without_cache(engine):
    image = some_pixels(3, 8, 8, seed=3)
    (encoded,) = ask(engine, "encode", images=[image])
    codes = torch.from_numpy(Latents(**encoded.values["latents"]).array()).long().view(1, -1)
    network = tiny_transformer()
    network.load_state_dict({k: v.half().float() for k, v in network.state_dict().items()})
    expected = float(log_likelihood(network, torch.tensor([[1, 1]]), codes))
    (found,) = ask(engine, "likelihood", images=[image], prompt=PROMPT)
    assert found.values["log_likelihood"] == pytest.approx(expected, abs=1e-3)
