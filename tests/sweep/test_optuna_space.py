"""The space of a search."""

import pytest
from hydra.errors import HydraException

optuna = pytest.importorskip("optuna", reason="needs pip install 'pneumo[optuna]'")
from pneumo.sweep import optuna_space  # noqa: E402


def test_space_in_hydras_syntax() -> None:
    params = {
        "optim.lr": "tag(log, interval(1e-4, 3e-3))",
        "trainer.epochs": "int(interval(2, 8))",
        "trainer.batch_size": "range(16, 65, 16)",
        "model": "choice(resnet18, densenet121)",
        "model.dropout": "0.0,0.09",
        "seed": 3,
    }
    space, fixed = optuna_space.parse(params, ["seed=4", "model.dropout=0.3", "augment=none,light"], None)
    found = {dimension.key: dimension.distribution for dimension in space}
    assert found == {
        "optim.lr": optuna.distributions.FloatDistribution(1e-4, 3e-3, log=True),
        "trainer.epochs": optuna.distributions.IntDistribution(2, 8),
        "trainer.batch_size": optuna.distributions.IntDistribution(16, 64, step=16),
        "model": optuna.distributions.CategoricalDistribution(["resnet18", "densenet121"]),
        "augment": optuna.distributions.CategoricalDistribution(["none", "light"]),
    }
    assert fixed == ["seed=4", "model.dropout=0.3"]
    with pytest.raises(HydraException, match="has no space"):
        optuna_space.parse({}, ["seed=4"], None)
