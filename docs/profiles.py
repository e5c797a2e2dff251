"""Write what each report's profile needs into its header: `python -m docs.profiles`, from the project's root.

All is computed from the profile's parameters. Disk is the sum of what the stages write, where the pictures are as many
and as large as published; the pictures themselves, the states of trainings, histories, scores and pages are left out.
Memory is that of the training which takes most: the weights of its networks, once more for their average, their
gradients and Adam's two moments, and what a step keeps for its gradients, counted on PyTorch's meta device, where
nothing is really computed. It is an estimate: convolutions take some room of their own, and PyTorch 0.9 GB.

Held against real runs: a checkpoint is as large as computed, a folder within a tenth; and the peak that a training's
record names, less PyTorch's, is 1.05 times (context encoders) to 1.3 times (DMFN) what was computed.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stages.runs import params
from stages.training.params import Training

PROFILES = Path(__file__).parents[1] / "profiles"
BLOCK = re.compile(r"^# Needs .*?(?=^#$)", re.MULTILINE | re.DOTALL)  # up to the next empty line of the header
ROW = 150  # bytes that a table has of a picture or hole beside its pixels, about: its key, its landmarks
GB = 1e9


class Source(NamedTuple):
    """How many pictures a source has as published, in train, val and test, and how large a file of it is in bytes."""

    train: int
    val: int
    test: int
    size: int


# Partitions are the official ones; where there is none, all pictures stand under `train`. Sizes are the published
# archives' over their pictures; a picture of CIFAR-10 becomes a PNG.
SOURCES = {
    "celeba": Source(162_770, 19_867, 19_962, 7_200),
    "celeba_hq": Source(24_183, 2_993, 2_824, 90_000),  # CelebAMask-HQ's JPEGs of 1024 pixels
    "lfw": Source(13_233, 0, 0, 8_800),
    "cifar10": Source(50_000, 0, 10_000, 2_500),
    "places": Source(36_500, 0, 0, 14_000),  # the validation pictures of Places365, of 256 pixels
}


def needs(values: dict[str, Any]) -> str:
    """The header's lines on disk and memory, of the parameters in a profile."""
    unknown = [name for name, entry in values["datasets"].items() if entry["ingest"]["source"] not in SOURCES]
    disk = {kind: sum(sizes) / GB for kind, sizes in written(values).items()}
    memory = {name: needed / GB for name, _, needed in trainings(values)}
    most = max(memory, key=lambda name: memory[name])
    parts = ", ".join(f"{kind} {_rounded(size)}" for kind, size in disk.items() if size >= 0.05)
    text = (
        f"Needs about {_rounded(sum(disk.values()))} GB of disk ({parts}), and twice that where DVC copies into its "
        f"cache; about {_rounded(memory[most])} GB of memory in training ({most}), beside PyTorch itself."
    )
    text += f" The pictures of {', '.join(unknown)} are not counted." if unknown else ""
    text += " Computed by `python -m docs.profiles`."
    return "\n".join(textwrap.wrap(text, 120, initial_indent="# ", subsequent_indent="# ")) + "\n"


def written(values: dict[str, Any]) -> dict[str, list[float]]:
    """Bytes that the stages write, by what they are."""
    found: dict[str, list[float]] = {kind: [] for kind in ("ingested", "aligned", "holes", "completed", "checkpoints")}
    for entry in values["datasets"].values():
        if entry["ingest"]["source"] not in SOURCES:
            continue
        splits, mask = pictures(entry["ingest"]), entry["mask"]
        side = entry["align"]["side"] ** 2
        found["ingested"].append(sum(splits) * SOURCES[entry["ingest"]["source"]].size)
        found["aligned"].append(sum(splits) * (3 * side + ROW))
        with_holes = min(splits[0], mask["train_sample"]) + splits[1] + splits[2]
        found["holes"].append(with_holes * len(mask["kinds"]) * (side / 8 + ROW))
    blends = [entry["system"] for entry in values["blend"].values()]
    for name, entry in {**values["search"], **values["infer"]}.items():
        of = values["datasets"][entry["dataset"]]
        if of["ingest"]["source"] in SOURCES:
            tests = pictures(of["ingest"])[2]
            rows = min(entry.get("count") or tests, tests) + entry.get("train_count", 0)
            rows *= len(entry.get("kinds") or of["mask"]["kinds"])
            tables = 2 + blends.count(name)  # completed, the system's own pictures, and each blending
            found["completed"].append(rows * (3 * of["align"]["side"] ** 2 + ROW) * tables)
    found["checkpoints"] = [weights for _, weights, _ in trainings(values)]
    return found


def pictures(ingest: dict[str, Any]) -> tuple[int, int, int]:
    """How many pictures train, validate and test, by a dataset's section `ingest`."""
    source, shares = SOURCES[ingest["source"]], ingest["split"]
    train, val, test = source[:3]
    if ingest["use"] == "evaluate":
        return 0, 0, train + val + test
    if not test:
        val, test = round(train * shares["val"]), round(train * shares["test"])
        return train - val - test, val, test
    if not val:
        val = round(train * shares["val"])
        return train - val, val, test
    return train, val, test


def trainings(values: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Of each training its name, the bytes of its checkpoint and those of memory that it takes."""
    for section in params.TRAININGS:
        for name, entry in values[section].items():
            given = params.section(values, f"{section}.{name}", import_module(f"stages.{section}").Params)
            size = values["datasets"][entry["dataset"]]["align"]["side"]
            with torch.device("meta"):
                networks, fixed, step = STEPS[section](given, size)
                kept = saved(step, [*networks, *fixed])
            main, *judges = (sum(map(_bytes, network.state_dict().values())) for network in networks)
            frozen = sum(_bytes(tensor) for network in fixed for tensor in network.state_dict().values())
            # The main network has an average beside it, a discriminator has not; each has a gradient and two moments.
            yield name, main + sum(judges), 5 * main + 4 * sum(judges) + frozen + kept


def saved(step: Callable[[], Any], networks: list[nn.Module]) -> int:
    """Bytes of all that a step's passes keep for their gradients, but for the networks' own weights."""
    held: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage()._cdata] = tensor
        return tensor

    known = {tensor.untyped_storage()._cdata for network in networks for tensor in network.state_dict().values()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        passed = step()  # held until all is counted: an address may be used again
    total = sum(tensor.untyped_storage().nbytes() for place, tensor in held.items() if place not in known)
    del passed
    return total


Step = tuple[list[nn.Module], list[nn.Module], Callable[[], Any]]
"""The networks that are trained, the main one first; those that are not; the passes of which a step keeps the most."""


def dcgan(given: Any, size: int) -> Step:
    from stages.models.dcgan import Discriminator, Generator

    generator = Generator(size, given.latent, given.width, given.kernel, given.upsampling)
    judge = Discriminator(size, given.d_width or given.width, given.kernel, given.d_norm)
    z, real = torch.empty(given.batch, given.latent), _pictures(given, size)
    return [generator, judge], [], lambda: (fake := generator(z), judge(real), judge(fake.detach()))


def dmfn(given: Any, size: int) -> Step:
    from stages.losses.perceptual import Features
    from stages.models.dmfn import DMFN, Discriminator
    from stages.train_dmfn import LAYERS, OF_VGG, generator_loss, vgg_features

    network = DMFN(size, given.width, given.blocks, given.combine, given.upsampling)
    judge = Discriminator(size, given.d_width)
    vgg: list[nn.Module] = [Features("vgg19", LAYERS, "random", "meta")] if set(given.terms()) & set(OF_VGG) else []
    image, hole = _pictures(given, size), _holes(given, size)

    def step() -> list[Any]:
        completed = torch.where(hole, network(image, hole), image)
        real_logits, real_maps = judge(image, hole)
        fake_logits, fake_maps = judge(completed, hole)
        features = vgg_features(vgg[0] if vgg else None, completed, image)
        logits, maps = (fake_logits, real_logits.detach()), (fake_maps, [one.detach() for one in real_maps])
        return [generator_loss(given, (completed, image), logits, maps, features), real_logits]

    return [network, judge], vgg, step


def context_encoder(given: Any, size: int) -> Step:
    from stages.models.context_encoder import ContextEncoder, Discriminator

    chosen = ("encoder", "objective", "bottleneck", "width", "fraction", "overlap", "upsampling")
    network = ContextEncoder(size, **{key: getattr(given, key) for key in chosen})
    image, hole = _pictures(given, size), _holes(given, size)
    noise = torch.empty(given.batch, network.latent)
    if given.objective == "vae":
        return [network], [], lambda: network.patch(image, hole, noise)
    judge = Discriminator(network.patch_side, given.d_width or given.width)

    def step() -> list[Any]:
        made = network.patch(image, hole, noise).pixels
        return [made, judge(network.inner(image)), judge(made.detach())]

    return [network, judge], [], step


def autoencoder(given: Any, size: int) -> Step:
    from stages.models.autoencoder import Autoencoder

    network = Autoencoder(size, given.width, given.upsampling)
    return [network], [], lambda: [network(_pictures(given, size), _holes(given, size))]


def partial_conv(given: Any, size: int) -> Step:
    from stages.models.partial_conv import PartialConvUNet

    network = PartialConvUNet(size, given.width, given.refine, given.residual)
    return [network], [], lambda: [network(_pictures(given, size), _holes(given, size))]


STEPS = {
    f"train_{function.__name__}": function for function in (dcgan, dmfn, context_encoder, autoencoder, partial_conv)
}


def _pictures(given: Training, size: int) -> Tensor:
    return torch.empty(given.batch, 3, size, size).to(memory_format=torch.channels_last)


def _holes(given: Training, size: int) -> Tensor:
    return torch.empty(given.batch, 1, size, size, dtype=torch.bool)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _rounded(size: float) -> str:
    """Two digits, as an estimate has."""
    return f"{size:.1f}" if size < 10 else f"{round(size, 1 - int(math.log10(size))):.0f}"


def page(path: Path) -> str:
    """The profile's text with what it needs in its header."""
    needed = needs(params.load(path))
    return BLOCK.sub(lambda _: needed, path.read_text("utf-8"), count=1)


if __name__ == "__main__":
    for profile in sorted(PROFILES.glob("report*.yaml")):
        profile.write_text(page(profile), "utf-8")
