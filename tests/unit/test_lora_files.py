"""LoRA files of every make come to the same changes, and wrong ones name the wrong key."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from model_store.adapters.lora import adaptable_layers, opened, packed, read_lora
from model_store.adapters.lora_keys import Base
from model_store.adapters.resident import ResidentAdapters
from model_store.limits import StoreLimits
from model_store.networks.low_rank import Deltas, low_rank_rows
from services.core.errors import EngineFailure, InvalidNetwork, UnsafeModel
from tests import tiny_adapters, tiny_pipelines
from tests.tiny_adapters import Pairs, kohya, pairs, peft

CPU = torch.device("cpu")
LIMITS = StoreLimits()
WIDTH = tiny_pipelines.WIDTH


def unet() -> nn.Module:
    torch.manual_seed(0)
    found: nn.Module = tiny_pipelines.text_unet().eval()
    return found


def flux() -> nn.Module:
    torch.manual_seed(0)
    return diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
    ).eval()


def stable_3() -> nn.Module:
    torch.manual_seed(0)
    return diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=24,
        out_channels=4,
        pos_embed_max_size=8,
    ).eval()


def pixart() -> nn.Module:
    torch.manual_seed(0)
    net = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=8,
        use_additional_conditions=False,
        norm_num_groups=4,
    ).eval()
    nn.init.normal_(net.proj_out.weight, std=0.2)
    return net


def told(net: nn.Module, rows: int = 3) -> dict[str, Any]:
    """Inputs of so many rows for one of the networks above."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn((rows, *shape), generator=generator)

    times, words = torch.linspace(100, 900, rows), noise(5, WIDTH)
    if isinstance(net, diffusers.UNet2DConditionModel):
        return {"sample": noise(4, 8, 8), "timestep": times, "encoder_hidden_states": words}
    if isinstance(net, diffusers.SD3Transformer2DModel):
        return {
            "hidden_states": noise(4, 8, 8), "timestep": times, "encoder_hidden_states": words,
            "pooled_projections": noise(24),
        }  # fmt: skip
    if isinstance(net, diffusers.PixArtTransformer2DModel):
        return {
            "hidden_states": noise(4, 8, 8), "timestep": times, "encoder_hidden_states": words,
            "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
        }  # fmt: skip
    return {
        "hidden_states": noise(16, 16), "timestep": times / 1000, "encoder_hidden_states": words,
        "pooled_projections": noise(WIDTH), "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(5, 3),
    }  # fmt: skip


def base(net: nn.Module, text: nn.Module | None = None) -> Base:
    parts = {"denoiser": net, "text_encoder": text}

    def layers(component: str) -> dict[str, nn.Module] | None:
        module = parts.get(component)
        return None if module is None else adaptable_layers(module)

    kind = "unet" if isinstance(net, diffusers.UNet2DConditionModel) else "transformer"
    return Base("tiny", kind, net.config, layers)


def read(net: nn.Module, tensors: dict[str, Tensor], **metadata: str) -> Deltas:
    """What a file comes to once it is checked, kept and opened."""
    data = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, metadata or None)
    kept = packed(read_lora("some.safetensors", data, base(net), LIMITS))
    return opened("some", "digest", kept, LIMITS, CPU).parts["denoiser"]


def products(deltas: Deltas) -> dict[str, Tensor]:
    return {name: delta.up @ delta.down.flatten(1) for name, delta in deltas.items()}


def expected(changes: Pairs, scale: float = 1.0) -> dict[str, Tensor]:
    return {n: scale * (up.flatten(1) @ down.flatten(1)) for n, (down, up) in changes.items()}


@pytest.mark.parametrize("make", [unet, stable_3, flux, pixart])
def test_one_row_of_a_batch_is_as_with_fused_weights_and_the_others_are_untouched(
    make: Callable[[], nn.Module],
) -> None:
    net = make()
    changes = pairs(net, [""], seed=2)  # every layer
    kind = "unet" if make is unet else "transformer"
    deltas = read(net, peft(kind, changes))
    assert deltas.keys() == changes.keys()
    fused = copy.deepcopy(net)
    tiny_adapters.fuse(fused, changes, 0.6)
    inputs = told(net)
    with torch.inference_mode():
        plain, wanted = net(**inputs, return_dict=False)[0], fused(**inputs, return_dict=False)[0]
        with low_rank_rows(net, [(), ((deltas, 0.6),), ()]):
            mixed = net(**inputs, return_dict=False)[0]
        after = net(**inputs, return_dict=False)[0]
    assert torch.equal(mixed[[0, 2]], plain[[0, 2]])
    assert torch.equal(after, plain)
    torch.testing.assert_close(mixed[1], wanted[1], atol=2e-4, rtol=2e-3)
    assert not torch.allclose(mixed[1], plain[1], atol=1e-2)


def renamed(changes: Pairs, down: str, up: str, prefix: str = "") -> dict[str, Tensor]:
    found = {}
    for name, (first, second) in changes.items():
        found[f"{prefix}{name}.{down}.weight"] = first
        found[f"{prefix}{name}.{up}.weight"] = second
    return found


def old_attention(changes: Pairs) -> dict[str, Tensor]:
    """diffusers' first names: ``attn1.processor.to_q_lora.down``."""
    found = {}
    for name, (down, up) in changes.items():
        place, layer = name.rsplit(".to_", 1)
        key = f"unet.{place}.processor.to_{layer.removesuffix('.0')}_lora"
        found |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
    return found


MAKES: dict[str, Callable[[Pairs], dict[str, Tensor]]] = {
    "diffusers": lambda p: peft("unet", p),
    "diffusers up and down": lambda p: renamed(p, "lora.down", "lora.up", "unet."),
    "lora_down": lambda p: renamed(p, "lora_down", "lora_up", "unet."),
    "peft": lambda p: renamed(p, "lora_A", "lora_B", "base_model.model."),
    "peft with a name": lambda p: renamed(p, "lora_A.default", "lora_B.default"),
    "diffusers' first": old_attention,
    "kohya": lambda p: kohya("lora_unet", p, 2.0),
}


@pytest.mark.parametrize("make", MAKES)
def test_every_make_of_file_comes_to_the_same_changes(make: str) -> None:
    net = unet()
    changes = pairs(net, ("to_q", "to_k", "to_v", "to_out.0"), rank=2)
    found = products(read(net, MAKES[make](changes)))
    wanted = expected(changes)  # alpha is the rank, where there is one
    assert found.keys() == wanted.keys()
    for name, change in wanted.items():
        torch.testing.assert_close(found[name], change)


def test_alpha_is_followed_where_a_file_keeps_it() -> None:
    net = unet()
    changes = pairs(net, ("to_q",), rank=4)
    halved = expected(changes, 0.5)
    for found in (
        read(net, kohya("lora_unet", changes, 2.0)),
        read(net, peft("unet", changes), lora_adapter_metadata=json.dumps({"unet.lora_alpha": 2})),
        read(
            net,
            peft("unet", changes),
            lora_adapter_metadata=json.dumps({"unet.lora_alpha": 1, "unet.use_rslora": True}),
        ),
    ):
        for name, change in products(found).items():
            torch.testing.assert_close(change, halved[name])


def test_the_names_of_the_first_code_are_converted_by_diffusers() -> None:
    net = unet()  # one layer a block: input block 3 is the first of the second down block
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    changes = {name: pairs(net, (name,))[name]}
    stem = "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q"
    down, up = changes[name]
    tensors = {
        f"{stem}.lora_down.weight": down,
        f"{stem}.lora_up.weight": up,
        f"{stem}.alpha": torch.tensor(1.0),
    }
    found = products(read(net, tensors))
    torch.testing.assert_close(found[name], expected(changes, 0.5)[name])


def test_kohyas_flux_is_converted_by_diffusers() -> None:
    net = flux()
    name = "transformer_blocks.0.attn.to_out.0"
    changes = {name: pairs(net, (name,))[name]}
    stem, (down, up) = "lora_unet_double_blocks_0_img_attn_proj", changes[name]
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
    found = products(read(net, tensors))
    torch.testing.assert_close(found[name], expected(changes)[name])


TO_Q = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
GOOD = {f"{TO_Q}.lora_A.weight": torch.ones(2, 16), f"{TO_Q}.lora_B.weight": torch.ones(16, 2)}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({f"{TO_Q}.lora_A.weight": torch.ones(2, 8)}, r"lora_A.* takes \[2, 16\] and \[16, 2\]"),
        ({f"{TO_Q}.lora_B.weight": torch.ones(16, 3)}, r"takes \[2, 16\]"),
        ({f"{TO_Q}.lora_B.weight": None}, "lacks its other half"),
        ({f"{TO_Q}.lora_A.weight": torch.full((2, 16), torch.inf)}, "not finite"),
        ({f"{TO_Q}.lora_A.weight": torch.ones(2, 16, dtype=torch.int32)}, "floating-point"),
        ({f"{TO_Q}.alpha": torch.tensor(torch.nan)}, "alpha that is not finite"),
        (
            {
                f"{TO_Q}.lora_A.weight": torch.ones(2049, 16),
                f"{TO_Q}.lora_B.weight": torch.ones(16, 2049),
            },
            "rank 2049; 1 to 2048",
        ),
        ({"unet.mid_block.nowhere.to_q.lora_A.weight": torch.ones(2, 16)}, "nowhere.*no layer"),
        ({"text_encoder.x.lora_A.weight": torch.ones(2, 16)}, "and 'tiny' has none"),
        ({f"{TO_Q}.dora_scale": torch.ones(16)}, "DoRA"),
        ({f"{TO_Q}.hada_w1_a": torch.ones(16, 2)}, "LoHa"),
        ({f"{TO_Q}.weight": torch.ones(16, 16)}, "none of a LoRA"),
        ({f"{TO_Q}.lora_down.weight": torch.ones(2, 16)}, "of the same layer"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_refused_with_its_first_wrong_key(
    changed: dict[str, Tensor | None], said: str
) -> None:
    tensors = {k: v for k, v in {**GOOD, **changed}.items() if v is not None}
    with pytest.raises(InvalidNetwork, match=said):
        read(unet(), tensors)


def test_a_pickle_is_never_opened() -> None:
    with pytest.raises(UnsafeModel, match="pickle"):
        read_lora("some.safetensors", b"\x80\x04\x95rest", base(unet()), LIMITS)


def test_a_layer_that_is_not_there_is_an_error_and_leaves_no_hook() -> None:
    net = unet()
    deltas = read(net, GOOD)
    inputs = told(net, 1)
    with torch.inference_mode():
        plain = net(**inputs, return_dict=False)[0]
        lost = {**deltas, "no.such.layer": next(iter(deltas.values()))}
        with (
            pytest.raises(EngineFailure, match=r"no\.such\.layer"),
            low_rank_rows(net, [((lost, 1.0),)]),
        ):
            pass
        assert torch.equal(net(**inputs, return_dict=False)[0], plain)


def test_past_its_bytes_the_least_recently_used_adapter_leaves() -> None:
    held: ResidentAdapters[str] = ResidentAdapters(10)
    opened_: list[str] = []

    def ask(key: str, size: int = 4) -> str:
        def open_it() -> tuple[str, int]:
            opened_.append(key)
            return key.upper(), size

        return held.get(key, open_it)

    assert [ask(key) for key in ("a", "b", "a", "c")] == ["A", "B", "A", "C"]
    assert [held.holds(key) for key in ("a", "b", "c")] == [True, False, True]
    assert ask("large", 99) == "LARGE"
    assert [held.holds(key) for key in ("a", "c", "large")] == [False, False, True]
    ask("b")
    assert opened_ == ["a", "b", "c", "large", "b"]
    assert held.bytes == 4
