"""What is not a number never becomes a black pixel, a score or a checkpoint: one line names the picture."""

from pathlib import Path

import numpy as np
import pretend
import pytest
import small_training
import torch

from stages import blend, evaluate, infer, search
from stages.images import table
from stages.images.tensors import to_pictures
from stages.models.autoencoder import Autoencoder
from stages.models.classical import mean_picture
from stages.models.dcgan import Discriminator, Generator
from stages.runs.errors import InputError
from stages.runs.params import Runtime
from stages.training import checkpoint

NAN, INF = float("nan"), float("inf")
RUNTIME = Runtime(threads=1)
SIZE = 32
BROKEN = 3  # the number of the one picture that a network fails at


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("data")
    pretend.dataset(home, size=SIZE)
    pretend.system(home, "soft", noise=20, size=SIZE)
    return home


def tables(data: Path) -> tuple[Path, Path]:
    return data / "aligned" / "faces", data / "masks" / "faces"


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_the_first_picture_with_such_a_value_is_named(value: float) -> None:
    tensor = torch.zeros(5, 3, 4, 4).to(memory_format=torch.channels_last)
    tensor[2, 1, 3, 0] = tensor[4] = value
    with pytest.raises(InputError, match=r"^picture 2 is not a finite number everywhere: train .* or use fp32$"):
        to_pictures(tensor, lambda row: f"picture {row}")


def test_finite_values_are_clipped() -> None:
    tensor = torch.tensor([-1e30, -1.0, 0.0, 1.0, 1e30]).expand(2, 3, 1, 5)
    assert to_pictures(tensor, str)[1, 0, :, 2].tolist() == [0, 0, 128, 255, 255]


def overflowing(data: Path, path: Path) -> Path:
    """A checkpoint of an autoencoder that makes grey of dark pictures, and of one with a white pixel no number."""
    torch.manual_seed(0)
    network = Autoencoder(SIZE, 2)
    for weight in network.parameters():
        weight.data.mul_(1e12)
    network.encoder[0].bias.data.fill_(-1e12)  # what is dark does not pass the first ReLU
    network.encoder[0].weight.data.fill_(1.01e12 / 27)  # nine white pixels of three channels do
    for layer in network.modules():
        if isinstance(layer, torch.nn.ConvTranspose2d | torch.nn.Conv2d) and layer is not network.encoder[0]:
            layer.bias.data.zero_()
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    checkpoint.save(path, tensors, {"network": "autoencoder", "arguments": {"size": SIZE, "width": 2}})
    return path


def test_infer_names_the_picture(data: Path, tmp_path: Path) -> None:
    """Of six pictures one is white at its edge, and the network overflows there."""
    model = overflowing(data, tmp_path / "a.safetensors")
    aligned = tmp_path / "aligned"
    aligned.mkdir()
    with table.writing_pictures(aligned / "test.arrow", (SIZE, SIZE), table.ALIGNED) as writer:
        for number in range(6):
            picture = np.full((SIZE, SIZE, 3), 20, np.uint8)
            picture[:5, :5] = 255 if number == BROKEN else 20
            writer.append(picture, *pretend.key(number), None, None)
    params = infer.Params("autoencoder", "faces", str(model), batch=4, kinds=("centre",))
    said = rf"^'{BROKEN:04}\.png', hole 'centre': what .*a\.safetensors makes of it is not a finite number everywhere: "
    with pytest.raises(InputError, match=said):
        infer.infer(model, aligned, data / "masks" / "faces", tmp_path / "out", params, RUNTIME, "a")
    assert not list((tmp_path / "out").glob("*.arrow")) or not (tmp_path / "out" / "completed.arrow").stat().st_size


def dcgan(path: Path, broken: str) -> Path:
    """A checkpoint whose weights are all finite, those of the network named so large that sums overflow."""
    torch.manual_seed(0)
    shape = {"size": SIZE, "latent": 4, "width": 2, "kernel": 4}
    networks = {"generator": Generator(**shape), "discriminator": Discriminator(SIZE, 2, 4)}
    for parameter in networks[broken].parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(1e38)
    tensors = {f"{name}.{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}
    checkpoint.save(path, tensors, {"network": "dcgan", "arguments": shape, "params": {"prior": "normal"}})
    return path


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("generator", r"what the generator of 'gan' makes of random z number \d is not a finite number"),
        ("discriminator", r"'0000\.png', hole 'centre': the search through .* is not a finite number .* lr"),
    ],
)
def test_search_names_the_picture(data: Path, tmp_path: Path, broken: str, said: str) -> None:
    model = dcgan(tmp_path / "a.safetensors", broken)
    params = search.Params("gan", "faces", iterations=3, starts=4, kinds=("centre",))
    with pytest.raises(InputError, match=f"^{said}"):
        search.search(model, *tables(data), tmp_path / "out", params, RUNTIME, "a")


def test_a_discriminator_that_has_no_say_may_overflow(data: Path, tmp_path: Path) -> None:
    model = dcgan(tmp_path / "a.safetensors", "discriminator")
    params = search.Params("gan", "faces", iterations=1, starts=4, kinds=("centre",), prior_weight=0.0)
    search.search(model, *tables(data), tmp_path / "out", params, RUNTIME, "a")
    assert len(table.Table(tmp_path / "out" / "completed.arrow")) == 6


@pytest.mark.parametrize("method", ["sobel", "coupled"])
def test_a_descent_that_leaves_the_numbers_names_its_rate(data: Path, tmp_path: Path, method: str) -> None:
    with table.writing_pictures(tmp_path / "guide.arrow", (SIZE, SIZE), table.COMPLETED) as guides:
        guides.append(np.zeros((SIZE, SIZE, 3), np.uint8), *pretend.key(0), "centre", "test")  # not as what is known
    params = blend.Params("soft", "faces", method, iterations=4, lr=1.7e308)
    said = r"^'0000\.png', hole 'centre': blending left the range of numbers: lower blend\.soft\.lr$"
    with np.errstate(all="ignore"), pytest.raises(InputError, match=said):
        blend.blend(*tables(data), tmp_path, tmp_path / "out", params, "soft")


def test_an_lpips_that_is_no_number_is_no_missing_score(data: Path) -> None:
    raw, mixed = (table.Table(data / folder / "soft" / f"{file}.arrow") for folder, file in (
        ("inpainted", "completed"), ("blended", "blended"),
    ))  # fmt: skip
    distance = np.zeros(12)
    distance[5] = NAN
    said = r"^'0002\.png', hole 'pixels', raw: its LPIPS is not a number; set lpips: none$"
    with pytest.raises(InputError, match=said):
        evaluate.measure(raw, mixed, *(table.Table(p / "test.arrow") for p in tables(data)), lpips=lambda *_: distance)


def test_no_pictures_have_no_mean(data: Path) -> None:
    with pytest.raises(InputError, match=r"train\.arrow: holds no pictures"):
        mean_picture(table.Table(data / "aligned" / "faces" / "train.arrow"))


def train(tmp_path: Path, stage: str, **section: object) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    with table.writing_pictures(tmp_path / "train.arrow", (SIZE, SIZE), table.ALIGNED) as writer:
        for i, picture in enumerate(pixels):
            writer.append(picture, f"id{i}", f"{i}.png", None, None)
    given = {"dataset": "x", "steps": 1, "batch": 4, "width": 4, "holes": {"centre": {}}, **section}
    small_training.run(stage, tmp_path, tmp_path, given)


def test_a_sample_sheet_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    """The only step's loss is finite; the weights after it are too large to multiply."""
    with pytest.raises(InputError, match=r"^the sample sheet of step 1 is not a finite number everywhere"):
        train(tmp_path, "train_autoencoder", lr=1e30)
    assert not (tmp_path / "out" / "samples").exists()


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    """The discriminator's, which no picture shows, are infinite after the only step."""
    said = r"^after the last step discriminator\.[\w.]+ is not finite; lower the lr or use fp32$"
    with pytest.raises(InputError, match=said):
        train(tmp_path, "train_dmfn", blocks=1, d_width=2, d_lr=1e39)
    assert not (tmp_path / "out" / small_training.OUTPUTS["model"]).exists()
