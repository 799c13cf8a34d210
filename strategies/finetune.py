"""Fine-tuning: federated averaging over the sites present, nothing against forgetting."""

from dataclasses import dataclass

from fedcl.learning.strategy import Strategy


@dataclass
class Finetune(Strategy):
    """The lower bound (FedAvg, McMahan et al., AISTATS 2017): what is not seen is forgotten."""
