"""``itpn-eval``: judge a finished run of any kind on its evaluation data, or on other data.

itpn-eval run=outputs/finetune                                   # a classifier: top-1 and top-5
itpn-eval run=outputs/pretrain                                   # a pre-training: k-NN and linear probe, frozen
itpn-eval run=outputs/pretrain untrained=true                    # the same of fresh weights, to compare with
itpn-eval run=outputs/segment                                    # mean IoU
itpn-eval run=outputs/detect                                     # AP of boxes and masks
itpn-eval run=outputs/finetune data.root=/data/imagenet          # the same data elsewhere
itpn-eval run=null setting=fast_base_512 weights=fast_itpn_base.pt data.root=/data/imagenet    # a released classifier
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("itpn.conf", "eval")
def main(config: DictConfig) -> None:
    """Print the metrics of a run; write them as JSON."""
    from rich.console import Console
    from rich.table import Table

    from vireo.engine import print_skipped, skipped_lines
    from vireo.engine.devices import evaluation_fabric
    from vireo.engine.folder import require_writable
    from vireo.engine.logs import flatten, write_json
    from vireo.engine.rendezvous import leave_group

    from .evaluation import EVALUATORS, subject_of

    subject = subject_of(config)
    title = f"{subject.name}{' (untrained)' if config.untrained else ''}"
    folder = Path(config.run) if config.run is not None else Path()
    out = Path(config.out or folder / ("eval_untrained.json" if config.untrained else "eval.json"))
    require_writable(out.parent, "out=...")
    fabric, here = evaluation_fabric(config)
    judged = EVALUATORS[subject.kind](subject, config, fabric, here)
    skipped = skipped_lines(*judged.sources)
    leave_group()
    if fabric.global_rank:
        return
    metrics = judged.metrics()
    print_skipped(skipped)
    print(f"{title}: {judged.images} images")
    table = Table("metric", judged.unit)
    for name, value in flatten(metrics).items():
        if isinstance(value, int | float) and judged.shows(name):
            table.add_row(name, f"{value:.{judged.digits}f}")
    Console().print(table)
    content = {"run": subject.name, "kind": subject.kind, "untrained": config.untrained, "metrics": metrics}
    write_json(out, {**content, **judged.details})


if __name__ == "__main__":
    main()
