"""The backbones as timm models."""
