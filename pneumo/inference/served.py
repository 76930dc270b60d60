"""Where version 0.1 kept the MLflow loader: models that it registered name this module."""

from pneumo.inference.pyfunc import Served, _load_pyfunc

__all__ = ["Served", "_load_pyfunc"]
