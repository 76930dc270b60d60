"""The MLflow loader under its name in version 0.1: models that 0.1 registered name this module."""

from pneumo.inference.pyfunc import _load_pyfunc

__all__ = ["_load_pyfunc"]
