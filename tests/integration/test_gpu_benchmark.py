"""The GPU benchmark's whole way, with tiny networks on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests import gpu_diffusion


@pytest.mark.slow
def test_the_benchmark_runs_from_end_to_end(tmp_path: Path) -> None:
    gpu_diffusion.main(["--tiny", "--seconds", "1", "--results", str(tmp_path)])
    (kept,) = tmp_path.glob("gpu-diffusion-tiny-*.json")
    result = json.loads(kept.read_text())
    assert set(result["sizes"]) == {"tiny", "tiny-sized"}
    for found in result["sizes"].values():
        assert found["loop_images_per_second"] > 0
        assert set(found["diffusers_images_per_second"]) == {"1", "2"}
        assert found["loop_share_of_ceiling"] > 0
        for name in ("loop", "diffusers"):
            trials = found["goodput"][name]["trials"]
            assert trials
            assert all(trial["requests"] > 0 for trial in trials)


def test_real_sizes_ask_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="CUDA"):
        gpu_diffusion.main([])
