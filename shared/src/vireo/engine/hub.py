"""Models with ``from_pretrained``, ``save_pretrained`` and ``push_to_hub``, as safetensors and ``config.json``."""
