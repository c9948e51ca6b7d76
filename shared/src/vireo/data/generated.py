"""Pictures the project makes itself: shapes on textured backgrounds, with exact boxes and masks.

Every picture is a function of (seed, index) alone. Geometry and pixels come from separate random streams, so all boxes
are known at construction (about 0.1 ms a picture) and nothing is rendered before it is asked for.
"""

from __future__ import annotations

import json
from pathlib import Path
from xml.sax.saxutils import escape

import cv2
import numpy as np
import torch
from torch import Tensor

from vireo.data.records import DetectionDataset, DetectionRecord
from vireo.data.shapes import KINDS, Shape, draw_layout, pixel_distance, render, window
from vireo.errors import InputError

_GEOMETRY, _PIXELS = 0, 1


class GeneratedShapes(DetectionDataset):
    """Ellipses, rectangles and triangles: a detection and segmentation data set.

    A box bounds the outline of its shape exactly, in continuous coordinates. A mask holds the pixels whose centre lies
    inside the outline; its own bounds are those of the box, up to a sharp tip thinner than a pixel. Shapes hardly
    overlap (``max_iou``); where they do, the smaller one is painted on top and both masks are whole.

    Args:
        length: number of pictures.
        image_size: ``(H, W)`` in pixels.
        seed: another seed gives other pictures.
        num_objects: least and most objects of a picture.
        object_size: range of the longer box side in pixels.
        max_iou: greatest IoU of two boxes of a picture.
        class_colours: let each class vary about a colour of its own, so that it is told apart by more than its outline.
        masks: give ``masks`` uint8 ``(N, H, W)`` in the target.

    Raises:
        InputError: a range is empty, or objects do not fit into the image.
    """

    def __init__(
        self,
        length: int,
        image_size: tuple[int, int] = (160, 160),
        seed: int = 0,
        *,
        num_objects: tuple[int, int] = (1, 4),
        object_size: tuple[float, float] = (24, 70),
        max_iou: float = 0.1,
        class_colours: bool = False,
        masks: bool = False,
    ) -> None:
        where = "GeneratedShapes"
        if length < 1:
            raise InputError(f"length {length} is not positive", where, "Ask for at least one picture")
        if seed < 0:
            raise InputError(f"seed {seed} is negative", where, "Use 0 or more")
        if not 1 <= num_objects[0] <= num_objects[1]:
            raise InputError(f"num_objects {tuple(num_objects)} is no range from 1", where, "Use e.g. (1, 4)")
        if not 2 <= object_size[0] <= object_size[1] <= min(image_size):
            what = f"object_size {tuple(object_size)} is no range from 2 to the shorter image side ({min(image_size)})"
            raise InputError(what, where, "Use smaller objects or a larger image_size")
        self.seed, self.masks, self.class_colours = seed, masks, class_colours
        self.height, self.width = image_size
        self.num_objects, self.object_size, self.max_iou = num_objects, object_size, max_iou
        records, next_id = [], 1
        for index in range(length):
            records.append(self._record(index, next_id))
            next_id += len(records[-1])
        super().__init__(KINDS, range(1, len(KINDS) + 1), records)

    def load_image(self, index: int) -> Tensor:
        """Render the picture of sample ``index``; ``uint8 (3, H, W)`` RGB, channels-last in memory as decoders do."""
        picture = self._picture(index)
        pixels = render(self._rng(picture, _PIXELS), self.height, self.width, self._shapes(picture), self.class_colours)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def load_masks(self, index: int) -> Tensor | None:
        """``uint8 (N, H, W)`` of 0 and 1 with ``masks=True``, else None."""
        return self._masks(self._picture(index)) if self.masks else None

    def semantic(self, index: int) -> tuple[Tensor, Tensor]:
        """``(image, label map)``: uint8 ``(H, W)``, 0 background and class index + 1 where that class is visible."""
        picture = self._picture(index)
        labels = torch.zeros(self.height, self.width, dtype=torch.uint8)
        for shape, mask in zip(self._shapes(picture), self._masks(picture)):
            labels[mask.bool()] = shape.kind + 1
        return self.load_image(index), labels

    def export(self, folder: str | Path, split: str = "train") -> Path:
        """Write the data set as files in both formats the readers know.

        ``JPEGImages/*.jpg``, ``annotations/<split>.json`` (COCO, with polygons), ``Annotations/*.xml`` and
        ``ImageSets/Main/<split>.txt`` (VOC; its coordinates are whole pixels). Several splits can share a folder.

        Returns:
            The path of the COCO json.
        """
        folder = Path(folder)
        for name in ("JPEGImages", "Annotations", "annotations", "ImageSets/Main"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        ground_truth = self.coco()
        stems = []
        for index, record in enumerate(self.records):
            stem = f"{split}_{Path(record.file_name).stem}"
            pixels = self.load_image(index).permute(1, 2, 0).numpy()
            path = folder / "JPEGImages" / f"{stem}.jpg"
            if not cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95]):
                raise InputError("image cannot be written", str(path), "Check that the folder is writable")
            (folder / "Annotations" / f"{stem}.xml").write_text(_voc_xml(record, path.name, self.classes), "utf-8")
            ground_truth["images"][index]["file_name"] = path.name
            stems.append(stem)
        outlines = [shape.polygon() for i in range(len(self)) for shape in self._shapes(self._picture(i))]
        for annotation, outline in zip(ground_truth["annotations"], outlines, strict=True):
            annotation["segmentation"] = [outline.round(2).ravel().tolist()]
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n", "utf-8")
        annotation_file = folder / "annotations" / f"{split}.json"
        annotation_file.write_text(json.dumps(ground_truth), "utf-8")
        return annotation_file

    def _picture(self, index: int) -> int:
        """The number of the picture behind sample ``index``; they differ in a subset made by ``with_records``."""
        return self.records[index].image_id - 1

    def _rng(self, picture: int, stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence((self.seed, picture, stream))))

    def _shapes(self, picture: int) -> list[Shape]:
        rng = self._rng(picture, _GEOMETRY)
        return draw_layout(rng, self.height, self.width, self.num_objects, self.object_size, self.max_iou)

    def _masks(self, picture: int) -> Tensor:
        shapes = self._shapes(picture)
        masks = np.zeros((len(shapes), self.height, self.width), np.uint8)
        for mask, shape in zip(masks, shapes):
            rows, columns = window(shape, self.height, self.width)
            mask[rows, columns] = pixel_distance(shape, rows, columns) < 0
        return torch.from_numpy(masks)

    def _record(self, picture: int, first_id: int) -> DetectionRecord:
        shapes = self._shapes(picture)
        return DetectionRecord(
            f"{picture:06d}.jpg",
            self.width,
            self.height,
            picture + 1,
            boxes=np.array([shape.box for shape in shapes], np.float32),
            labels=np.array([shape.kind for shape in shapes], np.int64),
            ids=np.arange(first_id, first_id + len(shapes)),
            iscrowd=np.zeros(len(shapes), np.bool_),
            area=np.array([shape.area for shape in shapes], np.float32),
        )


def _voc_xml(record: DetectionRecord, file_name: str, classes: tuple[str, ...]) -> str:
    objects = "".join(
        f"  <object>\n    <name>{escape(classes[label])}</name>\n    <difficult>{int(crowd)}</difficult>\n    <bndbox>"
        f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>\n  </object>\n"
        for label, crowd, (x1, y1, x2, y2) in zip(
            record.labels.tolist(), record.iscrowd.tolist(), (record.boxes.round().astype(int) + 1).tolist()
        )
    )
    size = f"<width>{record.width}</width><height>{record.height}</height><depth>3</depth>"
    return f"<annotation>\n  <filename>{escape(file_name)}</filename>\n  <size>{size}</size>\n{objects}</annotation>\n"
