"""The architectures that the authors released, and how one names an architecture.

``if_*`` and ``taas_sample_*`` were found by interleaving-free search in the L-chain space, ``taas_no_sample_*`` by the
same search without it (DNAS); ``keep1`` and ``keep2`` have so many inputs a node (section 3.7). ``geno_*`` are made by
hand or for analyses; ``geno_cifar`` is the one for CIFAR. All are kept as released (section 8, item 17).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from vireo.errors import InputError

from .genotype import Genotype
from .micro_genotype import MICRO_GENOTYPES, MicroGenotype, read_any_genotype

GENOTYPE_FILE = "genotype.json"  # in the folder of a search


class _Published(Mapping[str, Genotype]):
    """Name to genotype; the file is read on first use."""

    @cached_property
    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(files("if_nas").joinpath("genotypes.json").read_text())
        return content

    def __getitem__(self, name: str) -> Genotype:
        return Genotype.from_dict(self._content[name], name)

    def __contains__(self, name: object) -> bool:
        return name in self._content

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


GENOTYPES: Mapping[str, Genotype] = _Published()
"""The released architectures by the authors' names."""


def find_architecture(reference: str | Path) -> Genotype | MicroGenotype:
    """The architecture that a command line names: stages of an L-chain, or cells.

    Args:
        reference: a released architecture, a JSON file, or the folder of a search.

    Raises:
        InputError: none of these, or a file that holds no genotype.
    """
    if isinstance(reference, str) and reference in GENOTYPES:
        return GENOTYPES[reference]
    if isinstance(reference, str) and reference in MICRO_GENOTYPES:
        return MICRO_GENOTYPES[reference]
    path = Path(reference)
    if reference and path.is_dir():
        return read_any_genotype(path / GENOTYPE_FILE)
    if path.is_file() or path.suffix == ".json":
        return read_any_genotype(path)
    names = [*GENOTYPES, *MICRO_GENOTYPES]
    near = get_close_matches(str(reference), names, 3, 0.5) or names[:4]
    remedy = f"give a JSON file, the folder of a search, or a released name such as {', '.join(near)}"
    raise InputError("is no genotype", str(reference) or "an empty name", remedy)
