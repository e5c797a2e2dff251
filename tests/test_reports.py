"""The profiles of the reports say what the reports say: each row below quotes a report, and speaks its language.

Where `../shared/reports` is there, the quotations are looked up in it.
"""

import math
import re
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from docs import profiles
from stages.runs import params
from stages.training.params import NO_TABLE

ROOT = Path(__file__).parents[1]
REPORTS = {path.stem: path for path in sorted((ROOT / "profiles").glob("report?.yaml"))}
VALUES = {name: params.load(path) for name, path in REPORTS.items()}
HEADERS = {name: path.read_text().split("\nruntime:")[0] for name, path in REPORTS.items()}


class Said(NamedTuple):
    """A setting as the report gives it; the key is of the profile, `*` stands for any entry."""

    report: str
    words: str  # of the report; with "FACTS: " before them, of the paper behind it, and the header says so
    key: str
    value: Any


class Trained(NamedTuple):
    """How long the report trained which networks."""

    report: str
    words: str
    entries: str  # a pattern of `train_X.NAME`
    epochs: int
    pictures: int  # of all datasets together
    batch: int
    limited: bool  # the report took that many out of more


TRAINED = [
    Trained(
        "report1", "trained on approximately 200,000 face images for about 20 epochs", "train_dcgan.dcgan",
        20, 200_000, 128, False,
    ),
    Trained("report1", "trained the generator-discriminator pair on the CIFAR-10", "train_dcgan.dcgan_cifar",
            20, 50_000, 128, False),
    Trained("report2", "for 50 epochs on a subset of dataset of celebA", "train_dcgan.dcgan", 50, 162_770, 128, False),
    Trained("report3", "with 5000 pictures of the CelebA dataset. The training lasted 15 epochs with a batch size of 8",
            "train_dmfn.(dmfn|dmfn_eta[028])", 15, 5_000, 8, True),
    Trained("report3", "limited the training dataset to 5000 of each quality", "train_dmfn.dmfn_both",
            15, 2 * 5_000, 8, True),
    Trained("report4", "trained for 100 epochs on a set of 5000 training images", "train_context_encoder..*",
            100, 5_000, 32, True),
    Trained("report5", "the model with VanillaCNN for 20 epochs", "train_autoencoder.autoencoder",
            20, 50_000 * 4 // 5, 32, False),
    Trained("report5", "trained the model with partial convolution for 100 epochs", "train_partial_conv.partial_conv",
            100, 50_000 * 4 // 5, 32, False),
]  # fmt: skip

SAID = [
    Said("report1", "cropped to size 64×64 , such that the face was centered", "datasets.celeba.align.side", 64),
    Said("report1", "cropped to size 64×64 , such that the face was centered", "datasets.lfw.align.mode", "face"),
    Said("report1", "images were of dimension 32×32 and were used in its raw form", "datasets.cifar10.align.side", 32),
    Said("report1", "images were of dimension 32×32 and were used in its raw form", "datasets.cifar10.align.mode",
         "centre"),
    Said("report1", "none of the incomplete images shown were taken from the", "datasets.lfw.ingest.use", "train"),
    Said("report1", "CelebA) Dataset [10] and Labeled Faces in the Wild", "train_dcgan.dcgan.also",
         "data/aligned/lfw/train.arrow"),
    Said("report1", "hidden state vector z of dimension 100", "train_dcgan.*.latent", 100),
    Said("report1", "drawn from a uniform distribution", "train_dcgan.*.prior", "uniform"),
    Said("report1", "tensor of dimension $4 \\times 4 \\times 512$", "train_dcgan.*.width", 512 // 2**3),
    Said("report1", "filtered with kernels of size 5×5", "train_dcgan.*.kernel", 5),
    Said("report1", "by virtue of fractionally strided convolutions", "train_dcgan.*.upsampling", "transposed"),
    Said("report1", "in practice we used $\\max \\log(D)$", "train_dcgan.*.saturating", False),
    Said("report1", "a random number between 0.7 and 1.2", "train_dcgan.*.label_smoothing", True),
    Said("report1", "FACTS: Adam 2e-4, beta1 0.5 and batch 128 are the DCGAN paper's", "train_dcgan.*.lr", 2e-4),
    Said("report1", "$$L_c(z|x, M) = \\|M \\odot x + M \\odot G(z)\\|_1 \\quad (4)$$", "search.*.context", "plain"),
    Said("report1", "and is set to 0.1", "search.*.prior_weight", 0.1),
    Said("report1", "FACTS: 1500 iterations", "search.*.iterations", 1500),
    Said("report1", "a chunk of the image has been blacked out in the middle", "datasets.*.mask.kinds.centre",
         {"fraction": 0.5}),
    Said("report1", "trained on human faces trying to complete dog faces", "search.dcgan_dogs.dataset", "dogs"),
    Said("report1", "Even when trying to complete images taken from the training data",
         "search.dcgan_cifar.train_count", 64),
    Said("report1", "performance of the model to complete faces is significantly worse",
         "search.dcgan_cifar_faces.dataset", "small_faces"),
    Said("report2", "resized to (64,64,3) in size", "datasets.celeba.align.side", 64),
    Said("report2", "resized to (64,64,3) in size", "datasets.celeba.align.mode", "centre"),
    Said("report2", "a DCGAN using pytorch tutorial", "train_dcgan.dcgan.kernel", 4),
    Said("report2", "a DCGAN using pytorch tutorial", "train_dcgan.dcgan.prior", "normal"),
    Said("report2", "a DCGAN using pytorch tutorial", "train_dcgan.dcgan.label_smoothing", False),
    Said("report2", "a DCGAN using pytorch tutorial", "train_dcgan.dcgan.label_flip", 0),
    Said("report2", "a box from centre, max size of whose can be 12 x 12", "datasets.celeba.mask.kinds.box.kind",
         "centre"),
    Said("report2", "a box from centre, max size of whose can be 12 x 12", "datasets.celeba.mask.kinds.box.fraction",
         12 / 64),
    Said("report2", "computation is done for 1500 iterations", "search.dcgan.iterations", 1500),
    Said("report2", "Window size = 7 has been used", "search.dcgan.window", 7),
    Said("report2", "FACTS: lambda 0.003", "search.dcgan.prior_weight", 0.003),
    Said("report2", "poisson blending for 500 iterations", "blend.dcgan.iterations", 500),
    Said("report2", "using a standard sobel filter", "blend.dcgan.method", "sobel"),
    Said("report2", "incorporate the dependence of channels during optimization", "blend.dcgan_coupled.method",
         "coupled"),
    Said("report2", "Modified Poisson Blending using Convex Optimization", "blend.dcgan_exact.method", "exact"),
    Said("report2", "we remove random pixels from image", "datasets.celeba.mask.kinds.pixels", {"fraction": 0.8}),
    Said("report3", "requires shapes of size 256x256", "datasets.*.align.side", 256),
    Said("report3", "learning rate is set to $2e-4$", "train_dmfn.*.lr", 2e-4),
    Said("report3", "having $\\beta_1 = 0.5$ and $\\beta_2 = 0.9$", "train_dmfn.*.beta1", 0.5),
    Said("report3", "having $\\beta_1 = 0.5$ and $\\beta_2 = 0.9$", "train_dmfn.*.beta2", 0.9),
    Said("report3", "parameters are $\\lambda = 25$", "train_dmfn.*.self_guided", 25),
    Said("report3", "parameters are $\\lambda = 25$", "train_dmfn.*.vgg_matching", 25),
    Said("report3", "$\\mu = 0.003$ and $\\gamma = 1$", "train_dmfn.*.adversarial", 0.003),
    Said("report3", "$\\mu = 0.003$ and $\\gamma = 1$", "train_dmfn.*.alignment", 1),
    Said("report3", "use the suggested η -value of 5 as a baseline", "train_dmfn.dmfn.d_matching", 5),
    Said("report3", "0 | .0517", "train_dmfn.dmfn_eta0.d_matching", 0),
    Said("report3", "2 | .0559", "train_dmfn.dmfn_eta2.d_matching", 2),
    Said("report3", "8 | .0587", "train_dmfn.dmfn_eta8.d_matching", 8),
    Said("report3", "the pre-trained VGG-model", "train_dmfn.*.perceptual_weights", "imagenet"),
    Said("report3", "only available masking type, is a randomly placed mask", "train_dmfn.*.holes",
         {"random_box": {"max_fraction": 128 / 256, "smallest": 1}}),
    Said("report3", "The eyes are only blocked when testing the code", "datasets.celeba.mask.kinds", {"eye_bar": {}}),
    Said("report3", "the average LPIPS of 30 pictures also from the CelebA dataset", "infer.*.count", 30),
    Said("report3", "the average LPIPS of 30 pictures also from the CelebA dataset", "infer.*.dataset", "celeba"),
    Said("report4", "Each image is 256*256 color image", "datasets.places.align.side", 256),
    Said("report4", "masked out the central 64 * 64 portion", "datasets.places.mask.kinds",
         {"centre": {"fraction": 64 / 256}}),
    Said("report4", "masked out the central 64 * 64 portion", "train_context_encoder.*.fraction", 64 / 256),
    Said("report4", "bottleneck of the encoder architecture was set to 4000", "train_context_encoder.*.bottleneck",
         4000),
    Said("report4", "a $4 \\times 4 \\times 512$ dimensional feature representation", "train_context_encoder.*.width",
         512 // 8),
    Said("report4", "up-convolutional layers (using transposed convolutions)", "train_context_encoder.*.upsampling",
         "transposed"),
    Said("report4", "AlexNet | 1894.29 | 1882.63", "train_context_encoder.vae_alexnet.encoder", "alexnet"),
    Said("report4", "VGG | 1747.96 | 1784.43", "train_context_encoder.vae_vgg.encoder", "vgg"),
    Said("report4", "ResNet | 1725.11 | 1769.02", "train_context_encoder.vae_resnet.encoder", "resnet"),
    Said("report4", "AlexNet | 1798.83 | 1768.69", "train_context_encoder.gan_alexnet.objective", "gan"),
    Said("report4", "ResNet | 3030.98 | 3038.22", "train_context_encoder.gan_resnet.objective", "gan"),
    Said("report4", "sum of the reconstruction loss and the KL-divergence loss", "train_context_encoder.vae_*.kl", 1),
    Said("report4", "FACTS: weights 0.999 / 0.001", "train_context_encoder.gan_*.reconstruction", 0.999),
    Said("report4", "FACTS: weights 0.999 / 0.001", "train_context_encoder.gan_*.adversarial", 0.001),
    Said("report4", "FACTS: G's learning rate 10x D's", "train_context_encoder.gan_*.lr_ratio", 10),
    Said("report4", "the test data was 2000 images", "infer.*.count", 2000),
    Said("report4", "averaged over all the batches present in the training and test set", "infer.*.train_count", 2000),
    Said("report5", "the image size n = 32", "datasets.cifar10.align.side", 32),
    Said("report5", "black lines of random length and thinckness", "datasets.cifar10.mask.kinds", {"lines": {}}),
    Said("report5", "black lines of random length and thinckness", "train_*.*.holes", {"lines": {}}),
    Said("report5", "incremental channel of 3,32,64,128,256,512", "train_*.*.width", 32),
    Said("report5", "The decoder contains contranspose2D layers", "train_autoencoder.autoencoder.upsampling",
         "transposed"),
    Said("report5", "Adam optimizer with default parameters", "train_*.*.lr", 1e-3),
    Said("report5", "mean_square_error as the loss function", "train_*.*.loss", "mse"),
    Said("report5", "mean_square_error as the loss function", "train_*.*.hole_weight", 1),
    Said("report5", "provides good accuracy in train, validation and test", "infer.*.train_count", 10_000),
    Said("report5", "provides good accuracy in train, validation and test", "infer.*.count", None),
]  # fmt: skip


def sections(report: str) -> dict[str, Any]:
    """Every section of the profile as its stage reads it, defaults filled in, by its dotted key."""
    values, found = VALUES[report], {}
    for section in (*params.TRAININGS, "search", "infer", "blend"):
        kind = import_module(f"stages.{section}").Params
        for name in values[section]:
            found[f"{section}.{name}"] = vars(params.section(values, f"{section}.{name}", kind))
    return found | {f"datasets.{name}": entry for name, entry in values["datasets"].items()}


def trainings(report: str) -> dict[str, dict[str, Any]]:
    return {key: entry for key, entry in sections(report).items() if key.startswith("train_")}


def at(report: str, key: str) -> dict[str, Any]:
    """The values of a key; there is at least one entry that it is of."""
    section, entry, *way = key.split(".")
    pattern = re.compile(f"{section}.{entry}".replace(".", r"\.").replace("*", "[^.]*"))
    found = {name: value for name, value in sections(report).items() if pattern.fullmatch(name)}
    assert found, key
    for step in way:
        found = {name: value[step] for name, value in found.items()}
    return found


@pytest.mark.parametrize("said", SAID, ids=lambda said: f"{said.report}-{said.key}")
def test_a_setting_is_the_reports(said: Said) -> None:
    for name, value in at(said.report, said.key).items():
        assert value == said.value, name


@pytest.mark.parametrize("trained", TRAINED, ids=lambda trained: f"{trained.report}-{trained.entries}")
def test_a_training_is_as_long_as_the_reports(trained: Trained) -> None:
    entries = {key: entry for key, entry in trainings(trained.report).items() if re.fullmatch(trained.entries, key)}
    assert entries
    for key, entry in entries.items():
        assert entry["batch"] == trained.batch, key
        assert entry["steps"] == math.ceil(trained.epochs * trained.pictures / trained.batch), key
        datasets = 1 if entry["also"] == NO_TABLE else 2
        assert entry["pictures"] == (trained.pictures // datasets if trained.limited else None), key


@pytest.mark.parametrize("report", REPORTS)
def test_every_training_has_its_report_and_none_mirrors_or_averages(report: str) -> None:
    for key, entry in trainings(report).items():
        assert [one for one in TRAINED if one.report == report and re.fullmatch(one.entries, key)], key
        assert not entry["hflip"], key
        assert entry["ema"] == 0, key


@pytest.mark.parametrize("report", REPORTS)
def test_every_system_is_completed_and_blended_and_what_is_no_system_is_called_a_baseline(report: str) -> None:
    values = VALUES[report]
    systems = {**values["search"], **values["infer"]}
    used = {entry.get("model") or Path(entry["checkpoint"]).stem for entry in systems.values()} - {"no_checkpoint"}
    assert used == {key.split(".")[1] for key in trainings(report)}
    assert {entry["system"] for entry in values["blend"].values()} == set(systems)
    baselines = {entry["method"] for entry in values["infer"].values() if entry["network"] == "classical"}
    said = HEADERS[report].lower().replace("# ", "")
    for method in baselines:
        assert re.search(rf"{method}[^.]*\bbaseline", said, re.DOTALL), method


@pytest.mark.parametrize("report", REPORTS)
def test_training_pictures_that_are_completed_were_learned(report: str) -> None:
    """The sample with holes is part of the first n that a training learns, where it is no larger."""
    for key, entry in sections(report).items():
        if not entry.get("train_count"):
            continue
        sample = VALUES[report]["datasets"][entry["dataset"]]["mask"]["train_sample"]
        limits = [one["pictures"] for one in trainings(report).values() if one["dataset"] == entry["dataset"]]
        assert entry["train_count"] <= sample <= min(limit or sample for limit in limits), key


@pytest.mark.parametrize("said", [*SAID, *TRAINED], ids=lambda said: f"{said.report}-{said[2]}")
def test_the_report_says_so(said: Said | Trained, shared: Path) -> None:
    (file,) = (shared / "reports").glob(f"{said.report.removeprefix('report')}-*.txt")
    source, words = (shared / "FACTS.md", said.words[7:]) if said.words.startswith("FACTS: ") else (file, said.words)
    assert plain(words) in plain(source.read_text()), said.words


def plain(text: str) -> str:
    """Text in one line, without the bars and tabs of tables."""
    return " ".join(text.replace("|", " ").split())


@pytest.mark.parametrize("report", REPORTS)
def test_the_header_says_what_the_profile_needs(report: str) -> None:
    path = REPORTS[report]
    assert profiles.page(path) == path.read_text(), "run `python -m docs.profiles`"
    assert path.read_text().count("\n# Needs about ") == 1
