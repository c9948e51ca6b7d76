"""``g2sd-eval``: judge a finished run of any kind on its evaluation data, or on other data.

g2sd-eval run=outputs/finetune                                   # a classifier: top-1 and top-5
g2sd-eval run=outputs/distill                                    # a distillation or pre-training: k-NN and linear probe
g2sd-eval run=outputs/distill untrained=true                     # the same of fresh weights, to compare with
g2sd-eval run=outputs/segment                                    # mean IoU
g2sd-eval run=outputs/detect                                     # AP of boxes and masks
g2sd-eval run=outputs/finetune data.root=/data/imagenet          # the same data elsewhere
g2sd-eval run=null setting=sd_small weights=vit_s_sd.pth data.root=/data/imagenet    # a released classifier
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("g2sd.conf", "eval")
def main(config: DictConfig) -> None:
    """Print the metrics of a run; write them as JSON."""
    from vireo.evaluation.runs import report_on, subject_of

    from .evaluation import EVALUATORS
    from .load import config_and_kind

    report_on(subject_of(config, config_and_kind, "g2sd-finetune"), config, EVALUATORS)


if __name__ == "__main__":
    main()
