"""SSD-Det: spatial self-distillation for object detection with inaccurate bounding boxes (ICCV 2023)."""

__version__ = "0.1.0"
