"""Tests of `predict --set KEY=VALUE` and `--tiling`."""

import pytest

from c3s3_seg.batch.overrides import PredictKeys
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.inference import BackendRequest, Settings


def test_keys_reach_the_settings() -> None:
    words = ["tiling.overlap=0.25", "tiling.weighting=gaussian", "postprocess.keep_largest=false"]
    keys = PredictKeys.parse([*words, "postprocess.min_volume_ml=0.5", "batch.limit=3"])
    assert keys.batch.limit == 3
    expected = Settings(overlap=0.25, weighting="gaussian", keep_largest=False, min_volume_ml=0.5)
    assert keys.settings(Settings(), "default") == expected
    assert PredictKeys.parse([]).settings(Settings(uncertainty=True), "default") == Settings(uncertainty=True)


def test_keys_of_the_network_reach_settings_and_backend() -> None:
    keys = PredictKeys.parse(["network.on_device=false", "network.cuda_graphs=false"])
    assert keys.settings(Settings(), "default").on_device is False
    asked = keys.request(BackendRequest("torch", "cuda"))
    assert asked == BackendRequest("torch", "cuda", cuda_graphs=False)
    assert PredictKeys.parse([]).request(asked).channels_last


def test_presets_and_keys_of_the_tiles() -> None:
    accurate = PredictKeys.parse([]).settings(Settings(), "accurate")
    assert (accurate.overlap, accurate.weighting) == (0.5, "gaussian")
    denser = PredictKeys.parse(["tiling.overlap=0.75"]).settings(Settings(), "accurate")
    assert (denser.overlap, denser.weighting) == (0.75, "gaussian")
    stride = PredictKeys.parse(["tiling.stride=[8, 8, 4]"]).settings(Settings(), "accurate")
    assert (stride.overlap, stride.stride) == (None, (8, 8, 4))
    paper = PredictKeys.parse(["postprocess.fill_holes=true"]).settings(Settings(), "paper")
    assert (paper.stride, paper.fill_holes) == ((18, 18, 4), True)
    with pytest.raises(InputError, match=r"tiles of --tiling paper are fixed, and tiling\.overlap was set"):
        PredictKeys.parse(["tiling.overlap=0.5"]).settings(Settings(), "paper")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "fill_holes=true",
            r"there is no key 'fill_holes'.*Allowed here: tiling, postprocess, batch, network",
        ),
        ("postprocess.holes=true", "Allowed here: keep_largest, min_volume_ml, fill_holes"),
        ("postprocess.fill_holes=1", "postprocess.fill_holes = 1"),
        ("tiling.stride=[8, 8]", "tiling.stride"),
        ("tiling.stride=[8, 8, 0]", "a whole number from 1 on"),
        ("batch.limit=0", "a whole number from 1 on"),
        ("tiling.weighting=flat", "'constant' or 'gaussian'"),
        ("overlap", "wanted key=value"),
    ],
)
def test_what_is_no_setting_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PredictKeys.parse([text])
