"""Which sweep a command means."""

from pneumo.sweep import identity


def test_a_sweeps_id_depends_on_what_can_change_a_result_alone() -> None:
    one = identity.choices(["optim.lr=1e-3,1e-4", "model=resnet18", "output_dir=/a", "force=true"])
    two = identity.choices(
        ["model=resnet18", "optim.lr=0.0001,0.001", "trainer.device=cpu", "tracking.uri=x"]
    )
    assert one == two == ["model=resnet18", "optim.lr=0.0001,0.001"]
    assert identity.choices(["optim.lr=1e-3", "optim.lr=2e-3"]) == ["optim.lr=0.002"]
    assert identity.choices(["optim.lr=interval(1e-4, 1e-2)"]) == ["optim.lr=interval(1e-4, 1e-2)"]


def test_ids_and_keys_are_those_of_version_0_1() -> None:
    chosen = identity.choices(["optim.lr=1e-3,1e-4", "model=resnet18"])
    assert identity.sweep_id(None, chosen, "pneumo") == "sweep-8139b67377"
    assert identity.sweep_id("dropout_lr", chosen, "pneumo") == "dropout_lr-8139b67377"
    assert identity.job_key(["optim.lr=0.001", "seed=1"]) == "1c2b8aefe6"


def test_another_experiment_is_another_sweep() -> None:
    chosen = identity.choices(["seed=1,2"])
    assert identity.sweep_id(None, chosen, "one") != identity.sweep_id(None, chosen, "two")


def test_the_axes_of_a_sweep_are_the_keys_with_several_values() -> None:
    typed = ["optim.lr=1e-3,1e-4", "model=choice(resnet18, resnet50)", "seed=range(3)", "trainer.epochs=2"]
    assert identity.axes([*typed, "model.dropout=interval(0, 0.5)", "not an override"]) == [
        *("optim.lr", "model", "seed", "model.dropout")
    ]


def test_choices_are_short_and_clear_in_a_name() -> None:
    chosen = ["model.dropout=0.3", "model=resnet50", "optim.lr=0.00031622776", "optim=sgd", "seed=1"]
    assert identity.short(chosen) == ["dropout=0.3", "resnet50", "lr=0.000316", "sgd", "seed=1"]
    assert identity.short(["model.name=a", "data.name=b"]) == ["model.name=a", "data.name=b"]


def test_a_command_without_its_places() -> None:
    typed = [
        "optim.lr=1",
        "output_dir=/a",
        "tracking.uri=x",
        "data.cache_dir=/b",
        "data.root=/c",
        "force=true",
    ]
    assert identity.without_places(typed) == ["optim.lr=1", "data.root=/c"]
