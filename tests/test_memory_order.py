"""Nothing that is promised bit-equal depends on the strides of what comes in."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from compressors import vae
from PIL import Image
from torch import nn

from lightning_gen.compression import codec, image_io
from lightning_gen.datamodules.custom import Arrays, Custom
from lightning_gen.datamodules.folder import Folder
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.drawing.render import to_uint8
from lightning_gen.kinds import kind_of
from lightning_gen.kinds.files import SkippedFiles
from lightning_gen.metrics.extractors import Extractor
from lightning_gen.names import resolve
from lightning_gen.presets import PRESETS
from lightning_gen.training.evaluation_mode import evaluation_mode
from lightning_gen.training.memory_order import ENTRIES
from lightning_gen.training.module import GenerativeModule

COLOUR = DataSpec((3, 16, 16), size=64)
WIDTH = {"network": "dcgan", "network_args": {"width": 8}}
MODELS = {
    "conv-vae": ({"network_args": {"width": 8}}, COLOUR),
    "vq-vae": ({}, COLOUR),
    "hierarchical-vae": ({}, COLOUR),
    "vae-gan": ({}, COLOUR),
    "wae": (WIDTH, COLOUR),
    "dcgan": ({"network_args": {"width": 8}, "critic_args": {"width": 8}}, COLOUR),
    "cyclegan": ({"critic_args": {"layers": 1, "width": 8}}, COLOUR._replace(shape_b=(3, 16, 16))),
}
TAKES = {  # method -> what it takes beside examples
    **{name: {} for name in ("encode", "posterior", "reconstruct", "elbo", "discriminate", "tokens")},
    "log_likelihood": {"k": 3},
    "translate": {"direction": "b2a"},
}


def model_of(name):
    options, spec = MODELS[name]
    row = PRESETS[name]
    torch.manual_seed(0)
    return resolve(row.model, {}, "model class")(spec, **{**row.arguments, **options})


def examples(n=8, seed=0, shape=(3, 16, 16)):
    return 2 * torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed)) - 1


def orders(x):
    """The same values in other orders of memory: channels last, and each axis in turn the fastest one."""
    for order in ((0, 2, 3, 1), (3, 1, 2, 0), (0, 1, 3, 2)):
        back = [order.index(axis) for axis in range(4)]
        other = x.permute(order).contiguous().permute(back)
        assert torch.equal(other, x) and not other.is_contiguous()
        yield other


def flat(value):
    return [value] if isinstance(value, torch.Tensor) else [tensor for part in value for tensor in flat(part)]


@pytest.mark.parametrize("name", MODELS)
def test_what_a_model_says_of_examples(name):
    model, x = model_of(name), examples()
    with evaluation_mode(model), torch.no_grad():
        methods = [method for method in TAKES if hasattr(model, method)]
        assert methods
        for method in methods:
            call = lambda x, method=method: flat(getattr(model, method)(x, **TAKES[method]))  # noqa: E731
            for other in orders(x):
                assert all(map(torch.equal, call(other), call(x))), method


@pytest.mark.parametrize("name", MODELS)
def test_training_and_validation(name, trainer):
    """One step, and its validation, from batches of other strides; so a resumed run may read its data another way."""

    def losses(place):
        model = model_of(name)
        x, other = ((examples(8, seed) + 1) / 2 for seed in (0, 1))  # in [0, 1], as loaders give them
        batch = {"a": x, "b": other} if model.spec.has_two_sides else {"x": x}
        batch["index"] = torch.arange(8)
        batch = {key: place(value) if value.dim() == 4 else value for key, value in batch.items()}

        class Loader(torch.utils.data.Dataset):
            def __len__(self):
                return 2

            def __getitem__(self, k):
                return batch

        loader = torch.utils.data.DataLoader(Loader(), batch_size=None)
        loader.collate_fn = lambda item: item
        run = trainer(max_steps=2)
        run.fit(model, loader, loader)
        return [p.detach().clone() for p in model.parameters()], dict(run.callback_metrics)

    weights, values = losses(lambda x: x)
    for k in range(2):
        others, seen = losses(lambda x, k=k: list(orders(x))[k])
        assert all(map(torch.equal, others, weights)) and seen == values


def test_a_method_of_a_users_own_class_and_mixin_takes_contiguous_memory():
    class Mixed:
        def decode(self, z, y=None):
            return z

    class Mine(Mixed, GenerativeModule):
        players: ClassVar = {"net": ("net",)}

        def __init__(self, spec, **options):
            super().__init__(spec, **options)
            self.net = nn.Conv2d(3, 3, 3)

        def loss_net(self, batch, shared):
            return self.net(batch["x"]).mean(), {}

        def encode(self, x, *, y):
            return x, y

    model, z = Mine(COLOUR), next(orders(examples()))
    assert model.decode(z).is_contiguous() and model.decode(z=z).is_contiguous()
    assert all(x.is_contiguous() for x in model.encode(z, y=z))
    assert {"decode", "encode"} <= set(ENTRIES)


def test_colour_files_are_coded_by_a_convolutional_vae(tmp_path):
    """The issue's case: the encoder saw channels-last memory when it encoded, and contiguous memory when it decoded."""
    pytest.importorskip("constriction")
    model = vae((3, 16, 16), network="dcgan", network_args={"width": 32}, likelihood="discretized_logistic")
    rows = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    for k, row in enumerate(rows):
        Image.fromarray(row).save(tmp_path / f"{k}.png")
    files = sorted(tmp_path.glob("*.png"))
    _, x = image_io.read_pictures(files, model.spec, SkippedFiles(True))
    plain = codec.encode(model, x, run="run").content
    for other in orders(x):
        assert codec.encode(model, other, run="run").content == plain
    back, _ = codec.decode(model, plain, "file")
    assert torch.equal(back, x)


def test_tokens_are_coded_alike():
    pytest.importorskip("constriction")
    model, x = model_of("vq-vae").eval(), examples()
    plain = codec.encode(model, x, run="run").content
    assert all(codec.encode(model, other, run="run").content == plain for other in orders(x))


def test_data_come_out_contiguous(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (20, 16, 12, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", rows)
    (tmp_path / "p").mkdir()
    for k, row in enumerate(rows):
        Image.fromarray(row).save(tmp_path / "p" / f"{k}.png")
    sets = [
        Arrays(str(tmp_path / "x.npy"), batch_size=4),
        Folder(str(tmp_path / "p"), size=[16, 12], batch_size=4, memory=0.0, num_workers=0),
        Folder(str(tmp_path / "p"), size=[16, 12], batch_size=4),
        Custom([Image.fromarray(row) for row in rows], batch_size=4),
        Custom(list(rows), batch_size=4),
        Custom([torch.from_numpy(row).permute(2, 0, 1) for row in rows], batch_size=4, flip=True),
    ]
    for data in sets:
        data.setup()
        for batch in (
            data.examples("train", torch.arange(4)),
            data.transform(next(iter(data.train_dataloader())), True),
        ):
            assert batch["x"].is_contiguous(), data
    picture = kind_of(COLOUR).read(tmp_path / "p" / "0.png", COLOUR)
    assert picture.is_contiguous()


def test_values_of_an_evaluation():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
    extractor, x = Extractor(network, "mine"), examples()
    for other in orders(x):
        assert torch.equal(extractor(other), extractor(x))
        for spec in (COLOUR, COLOUR._replace(values="real"), COLOUR._replace(values="unit", range=(0.0, 9.0), bits=16)):
            stored = kind_of(spec).stored(other, spec)
            assert stored.is_contiguous() and torch.equal(stored, kind_of(spec).stored(x, spec))
        assert to_uint8(other).is_contiguous()
