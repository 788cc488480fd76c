"""Rows of flow matching and diffusion, see docs/flow.md."""

from __future__ import annotations

from lightning_gen.presets.row import ADAM, Preset

FLOW = "lightning_gen.models.flow.Flow"

NETWORK = {"network": "auto", "network_args": {}, "conditional": True, "no_class": 0.1}
FALLING = {"flow": {**ADAM, "lr": "0.002..0@50%..100%", "betas": [0.9, 0.99]}}
AVERAGED = {"ema": {"flow": 20_000}, "optimizers": FALLING}

ROWS: dict[str, Preset] = {
    "flow": Preset(
        FLOW,
        "flow matching: straight paths from noise to data, whose velocity is learned",
        {
            **NETWORK,
            "path": "linear",
            "predict": "v",
            "weight": "v",
            "times": "logit_normal",
            "times_args": {"mean": 0.0, "std": 1.0},
            "coupling": "independent",
            "solver": "heun",
            "nfe": 15,
            **AVERAGED,
        },
        steps=3000,
        paper="Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003",
    ),
    "ot-flow": Preset(
        FLOW,
        "flow matching in which noise and examples of a batch are paired by least distance: straighter flows",
        {
            **NETWORK,
            "path": "linear",
            "predict": "v",
            "weight": "v",
            "times": "uniform",
            "times_args": {},
            "coupling": "ot",
            "solver": "heun",
            "nfe": 15,
            **AVERAGED,
        },
        steps=3000,
        paper="Tong et al. 2024, arXiv:2302.00482",
    ),
    "ddpm": Preset(
        FLOW,
        "diffusion whose noise is predicted; its solver ddpm draws noise at each step, --solver ddim does not",
        {
            **NETWORK,
            "path": "cosine",
            "predict": "e",
            "weight": "e",
            "times": "uniform",
            "times_args": {},
            "coupling": "independent",
            "solver": "ddpm",
            "nfe": 100,
            **AVERAGED,
        },
        steps=3000,
        paper="Ho et al. 2020, arXiv:2006.11239; Nichol and Dhariwal 2021, arXiv:2102.09672; Song et al. 2021",
    ),
    "edm": Preset(
        FLOW,
        "diffusion with inputs and outputs of unit size at every noise level",
        {
            **NETWORK,
            "path": "edm",
            "predict": "f",
            "weight": "f",
            "times": "log_normal",
            "times_args": {"mean": -1.2, "std": 1.2},
            "coupling": "independent",
            "solver": "heun",
            "nfe": 35,
            **AVERAGED,
        },
        steps=3000,
        paper="Karras et al. 2022, arXiv:2206.00364",
    ),
    "flow-toy": Preset(
        FLOW,
        "flow matching on points in the plane",
        {
            "network": "mlp",
            "network_args": {"width": 128, "depth": 2, "fourier": 16, "frequency": 1.5},
            "conditional": False,
            "path": "linear",
            "predict": "v",
            "weight": "v",
            "times": "shifted",
            "times_args": {"shift": 0.25},
            "coupling": "independent",
            "solver": "heun",
            "nfe": 15,
            "shift": 0.25,
            "scale": 2.9,
            "ema": {"flow": 200_000},
            "optimizers": {"flow": {**ADAM, "lr": "0.002..0@40%..100%", "betas": [0.9, 0.99]}},
        },
        steps=10000,
        paper="Lipman et al. 2023, arXiv:2210.02747",
        data="toy",
        data_arguments={"batch_size": 256},
    ),
}
