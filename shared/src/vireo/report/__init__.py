"""Pictures of detections, training curves and the HTML page of a run."""

from vireo.report.curves import plot_curves, plot_lines
from vireo.report.draw import class_colour, draw_detections, grid, stacked, write_picture
from vireo.report.html import Table, write_report, write_run_report

__all__ = [
    "Table",
    "class_colour",
    "draw_detections",
    "grid",
    "plot_curves",
    "plot_lines",
    "stacked",
    "write_picture",
    "write_report",
    "write_run_report",
]
