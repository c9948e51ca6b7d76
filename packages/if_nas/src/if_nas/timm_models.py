"""The published networks as timm models."""
