"""The same quantity has the same tag in all families: tags are words of a closed list."""

import re

import pytest
from helpers import Duel

from lightning_gen.models.autoencoder import AAE
from lightning_gen.models.cyclegan import CycleGAN
from lightning_gen.models.factor import FactorVAE
from lightning_gen.models.gan import GAN
from lightning_gen.models.vae import VAE
from lightning_gen.models.vaegan import VAEGAN
from lightning_gen.models.vqvae import VQVAE
from lightning_gen.training.scalar_tags import OF_EVERY_PLAYER, current_tag

TERMS = {"kl", "capacity", "mi", "tc", "dkl", "dip", "mmd", "code", "decoder", "commitment", "adversarial"}
LOGITS = {f"{what}_{of}" for what in ("logit", "sign") for of in ("real", "fake")}
PENALTIES = {"gp", "dragan", "r1", "r2", "lecam"}
# whose value it is in training -> its names
TRAINING = {
    "": {"reconstruction", "perplexity", "revived", "images_per_second", *TERMS},
    "discriminator": {"adversarial", "accuracy", "logit_rebuilt", "classes_real", "classes_fake", "codes"}
    | (LOGITS | PENALTIES),
    "generator": {"adversarial", "reconstruction", "classes_fake", "codes", "cycle", "identity", "l1", "nce"}
    | {"nce_identity", "feature_matching"},
    "prior": {"bits_per_token"},
}
VALIDATION = {"loss", "reconstruction", "squared_error", "elbo", "nll_is8", "active_units", *TERMS}
VALIDATION |= {"bits_per_token", "bits_per_dim", "usage", "perplexity", "cycle", "identity", "l1", "psnr"}
VALIDATION |= {"logit_gap", "diversity", "duplicates", "nearest", "ema_distance", *LOGITS}
KNOWN = {f"val/{name}" for name in VALIDATION}
for player, names in TRAINING.items():
    KNOWN |= {"/".join(filter(None, ("train", player, name))) for name in {*names, "gradient_norm"}}
    KNOWN |= {"_".join(filter(None, (f"train/{name}", player))) for name in OF_EVERY_PLAYER}
SIDED = {
    "cycle",
    "identity",
    "l1",
    "adversarial",
    "accuracy",
    "nce",
    "psnr",
    "reconstruction",
    *LOGITS,
    *PENALTIES,
}  # of translators


def is_known(tag):
    """Whether a tag, but for the side or the direction at the end of those that have one, is one of the list."""
    plain = re.sub("_(a|b|ab|ba)$", "", tag)
    return tag in KNOWN or (plain in KNOWN and plain.rpartition("/")[2] in SIDED)


@pytest.mark.parametrize(
    "tag",
    [
        "train/generators/cycle",
        "train/loss_generators",
        "train/lr_vae",
        "train/vae/kl",
        "train/kld",
        "train/kl_c",
        "train/critic/gradient_norm",
        "train/discriminator/loss",
        "train/discriminator/lr",
        "train/kl_a",
        "val/loss_a",
        "train/perplexity_ab",
        "val/discriminator/adversarial",
        "val/recon",
    ],
)
def test_another_word_is_noticed(tag):
    assert not is_known(tag)


@pytest.mark.parametrize(
    ("family", "before", "today"),
    [
        (CycleGAN, "loss_discriminators", "loss_discriminator"),
        (CycleGAN, "lr_generators", "lr_generator"),
        (CycleGAN, "discriminators/logit_real_a", "discriminator/logit_real_a"),
        (VQVAE, "autoencoder/commitment", "commitment"),
        (VQVAE, "loss_prior", "loss_prior"),
        (VQVAE, "perplexity", "perplexity"),
        (AAE, "loss_autoencoder", "loss"),
        (FactorVAE, "vae/tc", "tc"),
        (FactorVAE, "critic/accuracy", "discriminator/accuracy"),
        (VAEGAN, "decoder/adversarial", "generator/adversarial"),
        (VAEGAN, "discriminator/logit_sampled", "discriminator/logit_fake"),
        (VAE, "lr_vae", "lr"),
        (VAE, "decoder", "decoder"),
        (GAN, "discriminator/r1", "discriminator/r1"),
        (Duel, "critic/gap", "critic/gap"),
    ],
)
def test_tags_of_before_have_a_name_today(family, before, today):
    assert current_tag(family, f"train/{before}") == f"train/{today}"
    assert current_tag(family, f"val/{before}") == f"val/{before}"
