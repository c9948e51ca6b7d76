"""Tiles as image files of their own, so that training does not decode large images again and again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vireo.errors import InputError

from .coco_content import Content


def write_crops(content: Mapping[str, Any], images: str | Path, folder: str | Path, on_error: str = "raise") -> Content:
    """Write the tiles of a COCO dict as PNG files: the same pixels, each image decoded once.

    Args:
        content: images with a ``corner``; those without are copied as they are, as PNG.
        images: folder of the whole images.
        folder: where ``NAME_ID.png`` are written; ID is that of the tile.
        on_error: ``raise`` at an image that cannot be used, or ``skip`` its tiles.

    Returns:
        The content with the new file names and without corners.

    Raises:
        InputError: an image that cannot be used, or a folder that cannot be written to.
    """
    from .tile_dataset import CachedImages, FolderImages, TileDataset

    import cv2  # isort: skip

    source, target = Path(images), Path(folder)
    if source.resolve() == target.resolve():
        raise InputError("the crops would lie among the images", str(target), "choose another folder")
    tiles = TileDataset(CachedImages(FolderImages(source)), content)
    rows, skipped = [], []
    for i, row in enumerate(content["images"]):
        try:
            pixels = tiles.load_image(i).permute(1, 2, 0).contiguous().numpy()
        except InputError as error:
            if on_error == "raise":
                raise
            skipped.append(f"{error.where}: {error.what}")
            continue
        name = f"{PurePosixPath(row['file_name']).with_suffix('')}_{row['id']}.png"
        file = target / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            written = cv2.imwrite(str(file), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        except OSError:
            written = False
        if not written:
            raise InputError("cannot be written", str(file), "choose a folder that is writable and has free space")
        rows.append({**{key: value for key, value in row.items() if key != "corner"}, "file_name": name})
    if not rows:
        raise InputError("no tile is left", str(source), "correct the images that were skipped")
    kept = {row["id"] for row in rows}
    annotations = [row for row in content["annotations"] if row["image_id"] in kept]
    return Content({**content, "images": rows, "annotations": annotations}, tuple(dict.fromkeys(skipped)))
