"""One augmented crop for training: this package compared with MONAI, TorchIO and batchgeneratorsv2.

    pip install -e '.[train,bench]'
    python benchmarks/augmentation.py [--runs 40] [--threads 1]

From a labelled phantom on the model's grid (112 x 104 x 56, image and soft target of two classes)
each library makes a crop of 64 x 64 x 48: rotation, scale and an elastic map, then gamma, a bias field
(batchgeneratorsv2 has none), gain, offset and noise. The peers first cut out a cube with a margin,
as their own pipelines do. The libraries run in turn; figures are medians in milliseconds.
"""

import argparse
from collections.abc import Callable
from math import degrees
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

from c3s3_seg.phantom import simulate
from c3s3_seg.training.cases import TrainingCase
from c3s3_seg.training.config import load_config
from c3s3_seg.training.data import Sampler, Views
from c3s3_seg.training.settings import AugmentConfig, DataConfig

PATCH = (64, 64, 48)
CUT = (96, 96, 56)  # the reach of a turned and magnified crop, within the scan
CONFIG = AugmentConfig(elastic_mm=2.5, bias=0.15)
Draw = Callable[[], Tensor]


def a_case() -> TrainingCase:
    """Return a phantom as training holds a case in memory."""
    phantom = simulate(0)
    scan = torch.from_numpy(phantom.scan.array.astype("float32"))
    organ = torch.from_numpy(phantom.truth.array.astype("float32"))
    stack = torch.stack([(scan - scan.mean()) / scan.std(), 1 - organ, organ])
    spacing = torch.tensor(phantom.scan.geometry.spacing_mm, dtype=torch.float32)
    return TrainingCase(stack, organ.nonzero(), spacing)


def ours(case: TrainingCase) -> Draw:
    task = load_config(Path("left-atrium")).task
    data = DataConfig(folder="", foreground_crops=0.5)
    sampler = Sampler([case], [], task=task, data=data, augment=CONFIG, seed=1)
    numbers = iter(range(1_000_000))
    return lambda: sampler.batch(next(numbers), Views(labelled=1)).views[0]


def monai(case: TrainingCase) -> Draw:
    from monai import transforms as t

    turn, (low, high) = CONFIG.rotation_rad, CONFIG.scale
    pipeline = t.Compose(
        [
            t.RandCropByPosNegLabeld(["image", "target"], "organ", CUT, allow_smaller=True),
            t.Rand3DElasticd(
                ["image", "target"], (8, 10), (20, 60), spatial_size=PATCH, prob=1, padding_mode="zeros",
                rotate_range=(turn,) * 3, scale_range=((low - 1, high - 1),) * 3,
            ),
            t.RandAdjustContrastd("image", prob=1, gamma=CONFIG.gamma, retain_stats=True),
            t.RandBiasFieldd("image", prob=1, coeff_range=(0, CONFIG.bias)),
            t.RandScaleIntensityd("image", CONFIG.gain, prob=1),
            t.RandShiftIntensityd("image", CONFIG.offset, prob=1),
            t.RandGaussianNoised("image", prob=1, std=CONFIG.noise),
        ]
    )  # fmt: skip
    image, target = case.stack[:1], case.stack[1:]
    return lambda: pipeline({"image": image, "target": target, "organ": target[1:]})[0]["image"]


def torchio(case: TrainingCase) -> Draw:
    import torchio as tio

    subject = tio.Subject(
        image=tio.ScalarImage(tensor=case.stack[:1]),
        target=tio.ScalarImage(tensor=case.stack[1:]),
        organ=tio.LabelMap(tensor=case.stack[2:].round()),
    )
    crop = tio.data.LabelSampler(CUT, "organ")
    geometry = tio.RandomAffineElasticDeformation(
        affine_kwargs={"scales": CONFIG.scale, "degrees": degrees(CONFIG.rotation_rad)},
        elastic_kwargs={"num_control_points": 7, "max_displacement": 5},
    )
    # These would change the target too if it were passed as an image.
    intensity = tio.Compose(
        [tio.RandomGamma(0.35), tio.RandomBiasField(CONFIG.bias), tio.RandomNoise(0, CONFIG.noise)]
    )
    cut = tio.CropOrPad(PATCH)

    def draw() -> Tensor:
        turned = cut(geometry(next(crop(subject, 1))))
        return intensity(tio.Subject(image=turned["image"]))["image"].data

    return draw


def batchgenerators(case: TrainingCase) -> Draw:
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.cropping import crop_tensor

    turn = CONFIG.rotation_rad
    pipeline = ComposeTransforms(
        [
            SpatialTransform(
                PATCH, 0, random_crop=False, p_elastic_deform=1, elastic_deform_scale=(0.15, 0.2),
                elastic_deform_magnitude=(2, 5), p_rotation=1, rotation=(-turn, turn), p_scaling=1,
                scaling=CONFIG.scale, p_synchronize_scaling_across_axes=1,
            ),
            GammaTransform(CONFIG.gamma, 0, True, 1, 1),
            MultiplicativeBrightnessTransform((1 - CONFIG.gain, 1 + CONFIG.gain), True),
            GaussianNoiseTransform((0, CONFIG.noise)),
        ]
    )  # fmt: skip

    def draw() -> Tensor:
        centre = case.foreground[torch.randint(len(case.foreground), ())].tolist()
        cut = crop_tensor(case.stack, centre, list(CUT), pad_mode="constant")
        return pipeline(image=cut[:1].clone(), regression_target=cut[1:])["image"]

    return draw


def timed(draw: Draw) -> float:
    before = perf_counter()
    found = tuple(draw().shape[-3:])
    if found != PATCH:
        raise SystemExit(f"wanted a crop of {PATCH}, got {found}")
    return 1000 * (perf_counter() - before)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    case = a_case()
    makers = (ours, monai, torchio, batchgenerators)
    draws = {make.__name__: make(case) for make in makers}
    for draw in draws.values():
        timed(draw)
    rows = [{name: timed(draw) for name, draw in draws.items()} for _ in range(words.runs)]
    print("| | ms a crop | times ours |\n|---|---|---|")
    for name in draws:
        ratio = median(row[name] / row["ours"] for row in rows)
        print(f"| {name} | {median(row[name] for row in rows):.1f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
