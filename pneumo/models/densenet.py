"""DenseNet-121: torchvision's backbone (Huang et al. 2017, arXiv:1608.06993), dropout and a linear head."""

import torch
import torchvision
from torch import Tensor, nn

from pneumo.models.precision import head_logits


class DenseNet(nn.Module):
    """Images [B, in_channels, S, S] -> logits [B, num_classes]; `backbone` returns [B, 1024]."""

    def __init__(self, *, num_classes: int, in_channels: int, dropout: float) -> None:
        super().__init__()
        network = torchvision.models.densenet121(weights=None)
        self.features = network.features
        if in_channels != 3:
            self.features.conv0 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
            nn.init.kaiming_normal_(self.features.conv0.weight)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(network.classifier.in_features, num_classes)

    def backbone(self, x: Tensor) -> Tensor:
        """The globally averaged features [B, 1024]."""
        x = nn.functional.relu(self.features(x))  # not in place: explanations read the input
        return torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)

    def forward(self, x: Tensor) -> Tensor:
        return head_logits(self.classifier, self.dropout(self.backbone(x)))


def build(name: str, *, num_classes: int, in_channels: int, dropout: float) -> DenseNet:
    return DenseNet(num_classes=num_classes, in_channels=in_channels, dropout=dropout)
