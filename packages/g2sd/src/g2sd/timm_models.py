"""Encoders of G2SD in timm's registry."""
