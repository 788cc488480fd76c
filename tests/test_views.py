"""Pictures of models that draw codes and cannot encode, and the animation of points in the plane."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CometLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_BLOB_SEQUENCE
from torch.testing import assert_close

from lightning_gen.callbacks.loggers import give_picture
from lightning_gen.callbacks.pictures import Pictures, animate
from lightning_gen.commands import sample
from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.spec import DataSpec
from lightning_gen.datamodules.toy import grid25, moons
from lightning_gen.drawing import plane
from lightning_gen.drawing.captions import captioned, with_row_labels
from lightning_gen.drawing.images import save_png
from lightning_gen.drawing.render import to_uint8
from lightning_gen.models.vae import VAE
from lightning_gen.pictures import views
from lightning_gen.pictures.captions import caption, class_names
from lightning_gen.training.evaluation_mode import evaluation_mode

TILE, LINE = 56, 2  # pixels of a tile of 8 x 8 images, and of the line between two
IMAGES = DataSpec(shape=(1, 8, 8))
POINTS = DataSpec(shape=(2,), kind="vector", values="real")


class Player:
    """Draws, decodes and judges like a GAN: an image shows its code in the first columns and its class in the last."""

    device = torch.device("cpu")
    latent_dim = 5

    def __init__(self, spec=IMAGES, classes=0, codes=None, pack=1):
        self.spec, self.classes, self.pack, self.training = spec, classes, pack, True
        self.codes = codes and SimpleNamespace(categorical=codes[0], continuous=codes[1], start=self.latent_dim)
        self.draw_dim = self.latent_dim + (len(codes[0]) + codes[1] if codes else 0)
        self.decoded, self.judged, self.shift, self.iteration = [], [], 0.0, 0

    def draw(self, noise):
        if not self.codes:
            return noise
        uniform = torch.special.ndtr(noise[:, self.latent_dim :])
        sizes = self.codes.categorical
        hot = [torch.eye(n)[(uniform[:, i] * n).long()] for i, n in enumerate(sizes)]
        return torch.cat([noise[:, : self.latent_dim], *hot, 2 * uniform[:, len(sizes) :] - 1], 1)

    def decode(self, z, y=None):
        self.decoded.append((z, y))
        images = torch.full((len(z), *self.spec.shape), -1.0)
        images[:, 0, :, : self.latent_dim] = z[:, None, : self.latent_dim] / 4
        if y is not None:
            images[:, 0, :, 7] = y[:, None] / 10
        return images

    def sample(self, n, y=None, seed=0, start=0):
        z = torch.randn(n, self.draw_dim, generator=torch.Generator().manual_seed(seed))
        return self.decode(self.draw(z), y) if self.spec.kind == "image" else 0.1 * z[:, :2] + self.shift

    def discriminate(self, x, y=None):
        if self.pack > 1:
            raise UserError("judges several")
        self.judged.append(y)
        return x[:, 0] * 1000

    def eval(self):
        self.training = False

    def train(self, mode):
        self.training = mode


def tile(picture, row, column):
    step = TILE + LINE
    return picture[:, LINE + row * step : (row + 1) * step, LINE + column * step : (column + 1) * step]


def whole_tile(image):
    return to_uint8(image).repeat_interleave(7, 1).repeat_interleave(7, 2).expand(3, -1, -1)


def size(rows, columns):
    return 3, LINE + rows * (TILE + LINE), LINE + columns * (TILE + LINE)


def examples(n=1000):
    return grid25(n, torch.Generator().manual_seed(0))


# What is drawn of whom


def test_views_follow_from_what_a_model_can():
    drawn = {"samples", "interpolations"}
    images = torch.zeros(4, 1, 8, 8)
    assert set(dict(views.draw_all(Player(), {"x": images}, 0))) == drawn
    assert set(dict(views.draw_all(Player(codes=((3,), 1)), {"x": images}, 0))) == drawn | {"code_traversals"}
    assert set(dict(views.draw_all(Player(POINTS), {"x": examples()[0]}, 0))) == {"samples", "density"}
    assert set(dict(views.draw_all(Player(POINTS._replace(shape=(3,))), {"x": torch.randn(9, 3)}, 0))) == {"samples"}
    for model, x in ((Player(codes=((3,), 1)), images), (Player(POINTS), examples()[0])):
        for name, picture in views.draw_all(model, {"x": x}, 0):
            assert picture.dtype == torch.uint8 and picture.dim() == 3 and picture.shape[0] == 3, name


def test_samples_have_a_column_for_each_class():
    model = Player(classes=3)
    assert views.samples(model, 0).shape == size(8, 3)
    assert model.decoded[-1][1].tolist() == [0, 1, 2] * 8


# Captions


def test_a_caption_is_wrapped_to_the_picture_which_stays():
    picture = torch.randint(0, 255, (3, 50, 400), dtype=torch.uint8)
    one, two = captioned(picture, "samples"), captioned(picture, "many words " * 12)
    assert one.shape == (3, 50 + 24, 400) and two.shape[1] > one.shape[1]
    for whole in (one, two):
        assert torch.equal(whole[:, -50:], picture)
        assert whole[:, :-50].amin() < 128 and (whole[:, :-50].float().mean() > 200)  # dark letters on white
    assert torch.equal(captioned(picture, ""), picture)
    assert captioned(picture[:, :, :50], "samples").shape[2] == 300


def test_labels_stand_beside_their_rows():
    picture = torch.zeros(3, 120, 50, dtype=torch.uint8)
    labelled = with_row_labels(picture, ["0: -3.0 to 3.0", "", "17: -3.1 to 2.9"])
    ink = (labelled[0, :, :-50] < 128).sum(1)
    assert torch.equal(labelled[:, :, -50:], picture)
    assert ink[:40].sum() > 20 and ink[40:80].sum() == 0 and ink[80:].sum() > 20


def test_bars_of_the_kl_say_how_high_they_are():
    model, shown = VAE(IMAGES, latent_dim=3), []
    for nats in (12.5, 0.25):
        model.kl_per_dimension.copy_(nats * torch.tensor([0.5, 1.0, 0.1]))
        with evaluation_mode(model):
            shown.append(dict(views.draw_all(model, {"x": torch.zeros(4, 1, 8, 8)}, 0))["kl_per_dimension"])
    high, low = (picture[:, :, -50:] for picture in shown)  # the bars, alike but for what stands beside them
    assert torch.equal(high, low) and not torch.equal(*(picture[:, :, :20] for picture in shown))


def test_every_view_of_every_model_has_a_caption():
    for model in (Player(), Player(classes=3), Player(codes=((3,), 1)), Player(POINTS)):
        x = examples()[0] if model.spec == POINTS else torch.zeros(4, 1, 8, 8)
        assert all(caption(name, model) for name, _ in views.draw_all(model, {"x": x}, 0))
    assert "class, 0 to 2" in caption("samples", Player(classes=3))
    named = Player(IMAGES._replace(class_names=("cat", "dog", "owl")), classes=3)
    assert caption("samples", named).endswith("a column for each class, cat, dog, owl")
    digits = IMAGES._replace(class_names=tuple("0123456789"))
    assert class_names(digits, range(10)) == "0 to 9" and class_names(digits, [3, 5]) == "3, 5"
    assert "\udcef" not in class_names(IMAGES._replace(class_names=("b\udcefrd", "cat")), [0, 1])
    assert class_names(IMAGES, [3, 5]) == "3, 5" and len(class_names(IMAGES, range(1, 1000))) <= 120


def test_tensorboard_shows_the_description_of_a_picture(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    assert give_picture(logger, "samples", torch.zeros(3, 8, 8, dtype=torch.uint8), 7, "what one sees")
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path)).Reload()
    metadata = events.SummaryMetadata("samples")
    assert metadata.summary_description == "what one sees"
    # of an image without both TensorBoard's server makes metadata of its own, without the description
    assert metadata.plugin_data.plugin_name == "images" and metadata.data_class == DATA_CLASS_BLOB_SEQUENCE


@pytest.mark.parametrize("kind", [WandbLogger, MLFlowLogger, CometLogger])
def test_other_loggers_are_given_pictures(kind):
    logger, calls = kind.__new__(kind), []
    call = SimpleNamespace(log_image=lambda *a, **k: calls.append((a, k)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "experiment", call)
        patch.setattr(kind, "run_id", "1", raising=False)
        if kind is WandbLogger:
            patch.setattr(kind, "log_image", lambda self, *a, **k: calls.append((a, k)))
        assert give_picture(logger, "samples", torch.zeros(3, 8, 8, dtype=torch.uint8), 7, "text")
    assert calls[0][1]["step"] == 7


# Between drawn codes


def test_interpolations_end_at_the_drawn_codes():
    model = Player()
    picture = views.drawn_interpolations(model, seed=3)
    assert picture.shape == size(8, views.STEPS)
    z = model.decoded[0][0].unflatten(0, (8, views.STEPS))
    for row in (0, 7):
        for column in (0, -1):
            expected = whole_tile(model.decode(z[row, column][None])[0])
            assert torch.equal(tile(picture, row, column % views.STEPS), expected)
    assert z[:, [0, -1]].flatten().std() > 0.8 and not torch.equal(z[0, 0], z[0, -1])
    assert torch.equal(picture, views.drawn_interpolations(model, seed=3))
    assert not torch.equal(picture, views.drawn_interpolations(model, seed=4))


def test_the_way_between_is_an_arc():
    a, b = torch.tensor([[3.0, 0.0], [1.0, 1.0], [1.0, 2.0]]), torch.tensor([[0.0, 3.0], [2.0, 2.0], [-1.0, -2.0]])
    arc = views.spherical(a, b, 5)
    assert torch.equal(arc[:, 0], a) and torch.equal(arc[:, -1], b)
    assert_close(arc[0].norm(dim=1), torch.full((5,), 3.0))
    assert_close(arc[0, 2], torch.tensor([1.0, 1.0]) * 3 / 2**0.5)
    assert_close(arc[1, 2], torch.tensor([1.5, 1.5]))  # parallel: straight
    assert_close(arc[2, 1], torch.tensor([0.5, 1.0]))  # opposite: straight


def test_interpolations_keep_the_rows_class_and_codes():
    model = Player(classes=10, codes=((4,), 2))
    assert views.drawn_interpolations(model, seed=0).shape == size(10, views.STEPS)
    z, y = (part.unflatten(0, (10, views.STEPS)) for part in model.decoded[0])
    assert torch.equal(y, torch.arange(10)[:, None].expand(10, views.STEPS))
    codes = z[..., model.latent_dim :]
    assert torch.equal(codes, codes[:, :1].expand_as(codes)) and len(codes[:, 0].unique(dim=0)) == 10
    assert (z[:, 0, : model.latent_dim] != z[:, 1, : model.latent_dim]).all()


# What codes stand for


def test_columns_of_a_category_differ_in_it_alone():
    model = Player(codes=((3, 4), 2))
    picture = views.code_traversals(model, seed=0)
    heights = [size(8, 3)[1], size(8, 4)[1], size(2, views.STEPS)[1]]
    assert picture.shape == (3, sum(heights) + 2 * views.GAP, size(1, views.STEPS)[2])
    for (z, _), first, count in zip(model.decoded[:2], (5, 8), (3, 4), strict=True):
        z = z.unflatten(0, (8, count))
        assert torch.equal(z[..., first : first + count], torch.eye(count).expand(8, count, count))
        others = torch.cat([z[..., :first], z[..., first + count :]], -1)
        assert torch.equal(others, others[:, :1].expand_as(others)) and len(others[:, 0].unique(dim=0)) == 8


def test_continuous_codes_go_from_minus_2_to_2():
    model = Player(codes=((3,), 2))
    views.code_traversals(model, seed=0)
    (category, _), (z, _) = model.decoded
    z = z.unflatten(0, (2, views.STEPS))
    for row, column in enumerate((8, 9)):
        assert_close(z[row, :, column], torch.linspace(-2, 2, views.STEPS))
        others = [k for k in range(10) if k != column]
        drawn = torch.cat([category[0, :5], z[0, 0, 5:8], category[0, 8:]])  # of the first row above
        assert torch.equal(z[row][:, others], drawn[others].expand(views.STEPS, -1))


def test_codes_of_one_kind_and_with_classes():
    only_categories, only_continuous = Player(codes=((25,), 0)), Player(classes=3, codes=((), 2))
    assert views.code_traversals(only_categories, seed=0).shape == size(8, views.CLASSES)
    assert views.code_traversals(only_continuous, seed=0).shape == size(2, views.STEPS)
    assert only_continuous.decoded[0][1].tolist() == [0] * 2 * views.STEPS


# Points in the plane


def test_density_shows_data_where_no_samples_are():
    real = torch.cat([torch.randn(500, 2) * 0.05 + torch.tensor(c) for c in ([-2.0, 0.0], [2.0, 0.0])])
    where = plane.window(real)
    samples, field = real[:500], torch.zeros(8, 8)
    picture = plane.draw_decision_field(real, samples, None, where).permute(1, 2, 0)
    centres = (real.unflatten(0, (2, 500)).mean(1) - where.centre) / where.half
    rows, columns = ((plane.SIZE / 2 * (1 + axis)).long() for axis in (-centres[:, 1], centres[:, 0]))
    left, right = picture[rows, columns].float() / 255
    assert_close(left, torch.tensor(plane.SAMPLE), atol=0.02, rtol=0)
    assert_close(right, torch.tensor(plane.REAL_CORE), atol=0.02, rtol=0)
    assert (picture[0, 0] == 255).all() and (
        plane.draw_decision_field(real, samples, field, where)[:, 0, 0] != 255
    ).any()


def test_the_field_is_red_where_it_is_high_at_any_scale():
    field = torch.linspace(0, 1, 64).expand(64, 64)
    nothing, where = torch.zeros(1, 2), plane.Window(torch.zeros(2), 1.0)
    picture = plane.draw_decision_field(nothing, nothing, field, where)
    low, high = picture[:, 5, 3].float(), picture[:, 5, -3].float()
    assert low[2] > low[0] + 50 and high[0] > high[2] + 50
    assert torch.equal(picture, plane.draw_decision_field(nothing, nothing, (field * 20).exp() - 1e6, where))


def test_the_raster_is_where_points_are_drawn():
    where = plane.window(examples()[0])
    places = plane.raster(where, 6)
    for number in (0, 5, 17):
        assert plane.counts(places[number][None], where, 6).flatten().argmax() == number
    assert plane.counts(places, where, 6).eq(1).all()
    astray = torch.tensor([[1e9, 0.0], [float("nan"), 0.0], [float("-inf"), 0.0]])
    assert plane.counts(astray, where, 6).sum() == 0


def test_the_window_is_that_of_the_data_whatever_the_samples_are():
    model, (x, _) = Player(POINTS), examples()
    drawn = []
    for model.shift in (0.0, 50.0, float("nan")):
        drawn.append(views.density(model, x, seed=0))
    centre, corner = plane.SIZE // 2, (slice(None), slice(0, 60), slice(0, 60))
    assert (drawn[0][:, centre, centre] != drawn[1][:, centre, centre]).any()
    assert torch.equal(drawn[0][corner], drawn[1][corner]) and torch.equal(drawn[1], drawn[2])
    assert drawn[0].shape == (3, plane.SIZE, plane.SIZE)
    assert torch.equal(drawn[0], views.density(Player(POINTS), x, seed=0))


def test_a_place_is_judged_in_the_class_of_the_nearest_example():
    model, (x, y) = Player(POINTS, classes=25), examples()
    views.density(model, x, seed=0, y=y)
    places = plane.raster(plane.window(x), views.FIELD)
    near = (places / 2).round().clamp(-2, 2)
    sure = (places / 2 - near).abs().amax(1) < 0.3
    assert torch.equal(model.judged[0][sure], (5 * (near[:, 0] + 2) + near[:, 1] + 2).long()[sure])


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_examples_and_a_packed_discriminator_are_drawn_too(n):
    x, _ = moons(n, torch.Generator().manual_seed(0))
    picture = views.density(Player(POINTS, pack=2), x, seed=0)
    assert picture.shape == (3, plane.SIZE, plane.SIZE) and (picture[:, 0, 0] == 255).all()


# The animation


def validated(model, callback, iterations, batches):
    trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), sanity_checking=False, loggers=[])
    for model.iteration in iterations:
        model.shift = model.iteration / 100
        for k, (x, y) in enumerate(batches):
            callback.on_validation_batch_end(trainer, model, None, {"x": x, "y": y}, k)
        callback.on_validation_end(trainer, model)
    callback.on_train_end(trainer, model)


def test_the_gif_has_a_frame_for_each_validation_and_keeps_those_before_a_resume(tmp_path):
    batches = [examples(300)] * 2
    validated(Player(POINTS), Pictures(tmp_path), (10, 20, 30), batches)
    frames = sorted((tmp_path / "pictures/density").iterdir())
    assert [path.name for path in frames] == ["00000010.png", "00000020.png", "00000030.png"]
    with Image.open(tmp_path / "density.gif") as gif:
        assert gif.n_frames == 3 and gif.info["loop"] == 0
    before = frames[0].read_bytes()
    validated(Player(POINTS), Pictures(tmp_path), (30, 40), batches)
    assert frames[0].read_bytes() == before
    with Image.open(tmp_path / "density.gif") as gif:
        durations = []
        for k in range(gif.n_frames):
            gif.seek(k)
            durations.append(gif.info["duration"])
        assert gif.width == plane.SIZE and gif.height > plane.SIZE  # below its caption
    assert durations == [120, 120, 120, 2000]  # a GIF counts in hundredths of a second


def test_models_without_frames_leave_no_animation(tmp_path):
    validated(Player(), Pictures(tmp_path), (10,), [(torch.zeros(4, 1, 8, 8), torch.zeros(4))])
    assert not (tmp_path / "density.gif").exists() and (tmp_path / "pictures/samples/00000010.png").exists()


def test_a_long_run_has_frames_from_its_start_to_its_end(tmp_path):
    for k in range(100):
        picture = torch.full((3, 120, 200), 255, dtype=torch.uint8)
        picture[:, :10, 2 * k : 2 * k + 2] = 0
        save_png(picture, tmp_path / f"{k:08d}.png")
    animate(sorted(tmp_path.glob("*.png")), tmp_path / "all.gif")
    with Image.open(tmp_path / "all.gif") as gif:
        assert gif.n_frames == 36
        for frame, number in ((0, 0), (35, 99)):
            gif.seek(frame)
            dark = torch.from_numpy(np.asarray(gif.convert("L")).copy())[5] < 128
            assert dark.nonzero().flatten().tolist() == [2 * number, 2 * number + 1]


def test_points_are_gathered_from_several_batches_once(tmp_path):
    callback, batches = Pictures(tmp_path), [examples(1500)] * 4
    validated(Player(POINTS), callback, (1,), batches)
    assert callback.examples["x"].shape == (views.POINTS, 2) and len(callback.examples["y"]) == views.POINTS
    callback = Pictures(tmp_path)
    validated(Player(POINTS), callback, (1, 2), batches[:2])
    assert len(callback.examples["x"]) == 3000


# sample.py


def asked(**given):
    return SimpleNamespace(**({"seed": 0, "classes": None, "traverse": False, "interpolate": False} | given))


def test_sample_draws_lines_and_codes():
    model, image = Player(classes=10, codes=((3,), 1)), torch.zeros(1, 1, 8, 8)
    made = sample._views(model, image, None, asked(traverse=True, interpolate=True))
    assert set(made) == {"traversals", "interpolations"}
    model.decoded.clear()
    sample._views(model, image, None, asked(interpolate=True, classes=[3, 7]))
    assert model.decoded[0][1][:: views.STEPS].tolist() == [3, 7] * 4


def test_sample_says_what_cannot_be_traversed():
    images, points = torch.zeros(2, 1, 8, 8), torch.zeros(2, 2)
    with pytest.raises(UserError, match=r"--traverse: Player has no encoder .* infogan: try --interpolate"):
        sample._views(Player(), images, None, asked(traverse=True))
    assert set(sample._views(Player(), images, None, asked(interpolate=True))) == {"interpolations"}
    with pytest.raises(UserError, match="--interpolate: vectors have no picture for each example"):
        sample._views(Player(POINTS), points, None, asked(interpolate=True))
