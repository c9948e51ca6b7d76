"""Models with ``from_pretrained``, ``save_pretrained`` and ``push_to_hub``, as safetensors and ``config.json``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.constants import SAFETENSORS_SINGLE_FILE
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)

from vireo.engine.checkpoint import load_weights, save_weights
from vireo.errors import InputError

_DOWNLOAD = ("revision", "cache_dir", "force_download", "local_files_only", "token")


class Pretrained(PyTorchModelHubMixin):
    """Mixin for an ``nn.Module`` whose constructor takes plain values (they become ``config.json``).

    ``class Net(nn.Module, Pretrained)`` gains ``Net.from_pretrained(folder or repository)``,
    ``net.save_pretrained(folder)`` and ``net.push_to_hub(repository)``. Weights load strictly, from safetensors only.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any) -> Self:
        """Build the model from ``config.json`` and load ``model.safetensors`` of a folder or a hub repository.

        Args:
            pretrained_model_name_or_path: a folder (also that of a finished run), or ``owner/name`` on the hub.
            **options: of ``huggingface_hub`` (``revision``, ``token``, ``local_files_only``, ...) and constructor
                arguments that replace stored ones.

        Raises:
            InputError: no such folder or repository, no network and nothing cached, or weights that do not fit.
        """
        where = str(pretrained_model_name_or_path)
        folder = Path(where)
        if folder.is_dir():
            absent = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
            if absent:
                raise InputError(
                    f"holds no {' and no '.join(absent)}", where, "give a folder written by save_pretrained or a run"
                )
        try:
            return super().from_pretrained(where, **options)
        except InputError:
            raise
        except RepositoryNotFoundError as error:
            raise InputError(
                "no such repository on the hub, or it is private", where, "check name and token"
            ) from error
        except HFValidationError as error:
            raise InputError("neither a folder nor a repository name", where, "check the path") from error
        except (EntryNotFoundError, HfHubHTTPError, ConnectionError, OSError) as error:
            remedy = "connect to the network, or give a folder with config.json and model.safetensors"
            raise InputError("cannot be downloaded and is not in the local cache", where, remedy) from error

    @classmethod
    def _from_pretrained(cls, *, model_id: str, map_location: str = "cpu", strict: bool = True, **options: Any) -> Self:
        download = {key: options.pop(key) for key in _DOWNLOAD if key in options}
        model: Any = cls(**options)
        if Path(model_id).is_dir():
            file = str(Path(model_id) / SAFETENSORS_SINGLE_FILE)
        else:
            file = hf_hub_download(model_id, SAFETENSORS_SINGLE_FILE, **download)
        load_weights(model, file, strict)
        loaded: Self = model.to(map_location).eval()
        return loaded

    def _save_pretrained(self, save_directory: Path) -> None:
        save_weights(self.state_dict(), save_directory / SAFETENSORS_SINGLE_FILE)  # type: ignore[attr-defined]
