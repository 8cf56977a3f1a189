"""Test readers of images and captions."""

import json

import numpy as np
import pytest

from seqjax.datasets import read_captions, read_coco, read_image
from seqjax.datasets.sources.emoji import kind_of

IMAGES = [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "b.jpg"}]


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def coco(folder, annotations, images=IMAGES):
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


def test_coco_has_several_captions_per_image(folder):
    found = read_coco(
        coco(folder, [{"image_id": i, "caption": c} for i, c in ((8, "b"), (7, "a "), (8, "c"))])
    )
    assert found.paths == [folder / "b.jpg", folder / "a.jpg", folder / "b.jpg"] and found.captions == [
        "b",
        "a",
        "c",
    ]


@pytest.mark.parametrize(
    ("annotations", "images", "message"),
    [
        ([], IMAGES, "expected an object with the list 'annotations', got none"),
        ([{"image_id": 7, "caption": "x"}], [], "expected an object with the list 'images'"),
        (
            [{"image_id": 9, "caption": "x"}],
            IMAGES,
            r"expected the id of an image, got 9 in annotations\[0\]",
        ),
        ([{"image_id": 7, "text": "x"}], IMAGES, r"expected the field 'caption', got .* in annotations\[0\]"),
        (
            [{"image_id": 7, "caption": " "}],
            IMAGES,
            r"expected a caption, got an empty one in annotations\[0\]",
        ),
        (
            [{"image_id": 7, "caption": "x"}],
            [{"id": 7}],
            r"expected the field 'file_name', got .* in images\[0\]",
        ),
    ],
)
def test_wrong_coco_files_are_refused_in_one_line(annotations, images, message, folder):
    with pytest.raises(ValueError, match=message) as caught:
        read_coco(coco(folder, annotations, images))
    assert "\n" not in str(caught.value)


def test_truncated_coco_files_are_refused(folder):
    (folder / "x.json").write_text('{"images": [\n{"id"')
    with pytest.raises(
        ValueError, match="read_coco: expected JSON, got .* in line 2 of .*x.json'. The file may be"
    ):
        read_coco(folder / "x.json")


def test_images_that_are_not_there_are_named(folder):
    path = coco(folder, [{"image_id": 7, "caption": "x"}])
    with pytest.raises(FileNotFoundError, match=r"expected the image '.*gone/a.jpg' of annotations\[0\]"):
        read_coco(path, images=folder / "gone")
    (folder / "t.csv").write_text("file,caption\nc.jpg,x\n")
    with pytest.raises(
        FileNotFoundError, match="expected the image '.*c.jpg' of line 2 of '.*t.csv', got none"
    ):
        read_captions(folder)


def test_a_folder_has_a_table(folder):
    (folder / "metadata.csv").write_text('file_name,text\na.jpg,"a dog, a cat"\nb.jpg,b\n')
    assert read_captions(folder) == ([folder / "a.jpg", folder / "b.jpg"], ["a dog, a cat", "b"])
    (folder / "other.tsv").write_text("file\tcaption\nb.jpg\tother\n")
    assert read_captions(folder, "other.tsv").captions == ["other"]
    with pytest.raises(
        ValueError, match="expected one .csv or .tsv table in .*, got metadata.csv, other.tsv"
    ):
        read_captions(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name,caption\na.jpg,x\n",
            r"expected a column of images \(file_name, .*got name, caption in line 1",
        ),
        ("file,words\na.jpg,x\n", r"expected a column of captions \(caption, .*Rename the column"),
        ("file,caption\na.jpg,\n", "expected a caption, got an empty field in line 2"),
    ],
)
def test_wrong_tables_are_refused(text, message, folder):
    (folder / "t.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_captions(folder)


def test_folders_that_do_not_exist_are_named(folder):
    with pytest.raises(FileNotFoundError, match="expected a folder, got .*gone"):
        read_captions(folder / "gone")


def test_images_are_colors_on_white(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4)).astype(np.uint8)
    pixels[..., 3] = 0
    pixels[:3, :, 3] = 255
    image.fromarray(pixels, "RGBA").save(tmp_path / "x.png")
    found = read_image(tmp_path / "x.png")
    assert found.shape == (6, 4, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found[:3], pixels[:3, :, :3])
    assert (found[3:] == 255).all()
    image.fromarray(pixels[..., 0]).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png"), np.repeat(pixels[..., :1], 3, -1))
    assert read_image(tmp_path / "x.png", size=(2, 8)).shape == (2, 8, 3)


def test_damaged_images_are_refused_in_one_line(tmp_path):
    pytest.importorskip("PIL.Image")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match="read_image: expected a complete image, got '.*x.png'") as caught:
        read_image(tmp_path / "x.png")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"read_image\(size\): expected a whole number of at least 1, got 0"):
        read_image(tmp_path / "x.png", size=(0, 4))


@pytest.mark.parametrize(
    ("caption", "kind"),
    [
        ("man artist medium-dark skin tone", ("artist", "man", "medium-dark")),
        ("woman", ("", "woman", "")),
        ("men wrestling", ("wrestling", "", "")),
        ("man dark skin tone beard", ("beard", "man", "dark")),
        ("grinning face", ("grinning face", "", "")),
    ],
)
def test_captions_name_profession_gender_and_tone(caption, kind):
    assert kind_of(caption) == kind
