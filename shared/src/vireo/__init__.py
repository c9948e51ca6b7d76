"""The thin library under the Vireo papers: data loading, backbones, evaluation, training runs, reports."""

__version__ = "0.1.0"
