"""Pictures of detections, training curves and the HTML page of a run."""

from vireo.report.curves import plot_curves, plot_lines
from vireo.report.draw import (
    as_picture,
    class_colour,
    draw_detections,
    draw_segmentation,
    grid,
    side_by_side,
    stacked,
    write_picture,
)
from vireo.report.html import Table, write_report, write_run_report

__all__ = [
    "Table",
    "as_picture",
    "class_colour",
    "draw_detections",
    "draw_segmentation",
    "grid",
    "plot_curves",
    "plot_lines",
    "side_by_side",
    "stacked",
    "write_picture",
    "write_report",
    "write_run_report",
]
