"""Released architectures, and what names an architecture."""

from __future__ import annotations

from pathlib import Path

import pytest

from if_nas.genotype import write_genotype
from if_nas.published import GENOTYPE_FILE, GENOTYPES, find_architecture
from vireo.errors import InputError

# section 6: nodes of each stage and longest paths
PUBLISHED = {
    "if_l4_keep1": ((18, 17, 18), (18, 17, 18)),
    "if_l6_keep1": ((14, 14, 14), (14, 14, 13)),
    "if_l8": ((14, 14, 14), (12, 12, 14)),
    "if_l8_keep1": ((12, 12, 14), (12, 12, 14)),
    "taas_sample_l4": ((14, 18, 16), (14, 18, 16)),
    "taas_sample_l4_v2": ((14, 18, 16), (14, 18, 16)),
    "taas_no_sample_l4": ((14, 13, 14), (7, 7, 7)),
    "taas_no_sample_l4_v2": ((13, 15, 12), (7, 8, 7)),
    "taas_no_sample_l4_keep1": ((6, 6, 6), (6, 6, 6)),
    "taas_no_sample_l8_keep1": ((5, 5, 5), (5, 5, 5)),
    "taas_no_sample_l8_keep2": ((10, 9, 10), (8, 8, 8)),
    "geno_image": ((20, 22, 20), (20, 22, 20)),
    "geno_image_normal": ((18, 20, 18), (18, 20, 18)),
}


def test_nodes_and_depths_are_those_of_the_paper() -> None:
    assert {name: (GENOTYPES[name].num_nodes, GENOTYPES[name].depths) for name in PUBLISHED} == PUBLISHED
    assert "if_l9" not in GENOTYPES


def test_names_files_and_folders(tmp_path: Path) -> None:
    wanted = GENOTYPES["if_l8"]
    write_genotype(tmp_path / GENOTYPE_FILE, wanted, note="mine")
    assert find_architecture("if_l8") == wanted
    assert find_architecture(tmp_path / GENOTYPE_FILE) == find_architecture(str(tmp_path)) == wanted


def test_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"if_l9: is no genotype.*if_l8"):
        find_architecture("if_l9")
    with pytest.raises(InputError, match=r"found\.json: cannot be read"):
        find_architecture(tmp_path / "found.json")
    with pytest.raises(InputError, match=r"genotype\.json: cannot be read"):
        find_architecture(tmp_path)
    for content, message in (("", "is not JSON"), ("{}", "no stage1"), ('{"stage1": {}}', "has no node")):
        (tmp_path / "found.json").write_text(content)
        with pytest.raises(InputError, match=message):
            find_architecture(tmp_path / "found.json")
