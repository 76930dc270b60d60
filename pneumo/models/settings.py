"""Settings of the model."""

from dataclasses import asdict, dataclass
from typing import Any

from pneumo import UserError, one_of
from pneumo.models import MODELS


@dataclass(kw_only=True)
class ModelSettings:
    name: str = "resnet18"
    dropout: float = 0.09
    pretrained: bool = False
    weights: str | None = None
    in_channels: int = 3
    freeze: str = "none"

    def __post_init__(self) -> None:
        one_of("model.name", self.name, MODELS)
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout={self.dropout} must be at least 0 and below 1; 0 means none.")
        if self.in_channels not in (1, 3):
            raise UserError(
                f"model.in_channels={self.in_channels} must be 1 or 3: the grey image alone, or repeated for "
                "weights trained on colour."
            )
        one_of("model.freeze", self.freeze, ("none", "backbone"))
        if self.freeze == "backbone" and not (self.pretrained or self.weights):
            raise UserError(
                "model.freeze=backbone trains the head on a backbone with random weights: give "
                "model.weights=FILE or model.pretrained=true."
            )
        if self.pretrained and self.weights:
            raise UserError("model.pretrained=true and model.weights exclude each other: give one of them.")

    def network(self) -> dict[str, Any]:
        """What `build_model` takes: all but how the network is trained."""
        return {key: value for key, value in asdict(self).items() if key != "freeze"}
