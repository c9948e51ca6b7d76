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

from typing import TYPE_CHECKING

from vireo.engine.cli import entry_point

if TYPE_CHECKING:
    from omegaconf import DictConfig


@entry_point("itpn.conf", "eval")
def main(config: DictConfig) -> None:
    """Print the metrics of a run; write them as JSON."""
    from vireo.evaluation.runs import report_on, subject_of

    from .evaluation import EVALUATORS
    from .load import config_and_kind

    report_on(subject_of(config, config_and_kind, "itpn-finetune"), config, EVALUATORS)


if __name__ == "__main__":
    main()
