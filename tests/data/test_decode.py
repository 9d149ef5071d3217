# SPDX-License-Identifier: Apache-2.0
# SPDX-FileCopyrightText: The qkit authors
import numpy as np
import pytest
from PIL import Image

from qkit.data.decode import BadImageError, decode


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / "a.tiff"
    Image.new("RGB", (4, 3), "white").convert(mode).save(path)
    image = decode(path)
    assert (image.mode, image.size) == ("RGB", (4, 3))
    assert (np.asarray(image) == 255).all()


def test_transparent_palette_keeps_its_colours(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=b"\x00\x80")
    assert np.asarray(decode(tmp_path / "a.png")).tolist() == [[[10, 20, 30], [40, 50, 60]]]


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
def test_truncated_file_names_file_cause_and_remedy(tmp_path, truncate, suffix):
    path = truncate(tmp_path / f"half.{suffix}")
    with pytest.raises(BadImageError) as caught:
        decode(path)
    text = f"cannot read image '{path}': {caught.value.reason}. Repair or remove it, or pass "
    assert str(caught.value) == text + "--skip-bad."
    assert caught.value.path == path
    assert caught.value.reason
    assert "\n" not in caught.value.reason


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_file_that_is_no_image(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(BadImageError, match=r"a.jpg': not an image in a known format. Repair"):
        decode(path)


def test_file_that_is_gone(tmp_path):
    with pytest.raises(BadImageError, match=r"gone.jpg': No such file or directory. Repair"):
        decode(tmp_path / "gone.jpg")


# 48 pixels: an error above twice the limit, a warning (made an error in tests) above the limit.
@pytest.mark.parametrize("limit", [20, 40])
def test_decompression_bomb(tmp_path, paint, monkeypatch, limit):
    path = paint(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(BadImageError, match=r"bomb.png': Image size \(48 pixels\) exceeds limit"):
        decode(path)


def test_any_damage_ends_in_a_bad_image_error_or_pixels(tmp_path, paint):
    content = paint(tmp_path / "a.png", size=(16, 16)).read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(200):
        damaged = bytearray(content)
        damaged[rng.integers(60)] = rng.integers(256)
        (tmp_path / "b.png").write_bytes(damaged)
        try:
            outcomes.add(decode(tmp_path / "b.png").mode)
        except BadImageError:
            outcomes.add("bad")
    assert outcomes == {"RGB", "bad"}
