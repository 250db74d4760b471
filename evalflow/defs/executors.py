"""The executor named in the settings. Every step reads and writes files, so any of them is safe."""

import importlib

import dagster as dg

from evalflow.errors import UnreachableError

_PACKAGED = {
    "dask": ("dagster_dask", "dask_executor"),
    "celery": ("dagster_celery", "celery_executor"),
    "k8s": ("dagster_k8s", "k8s_job_executor"),
}


def executor_of(name: str) -> dg.ExecutorDefinition:
    """The Dagster executor for ``execution.executor``.

    Raises:
        UnreachableError: its package is not installed.
    """
    if name == "in_process":
        return dg.in_process_executor
    if name == "multiprocess":
        return dg.multiprocess_executor
    package, attribute = _PACKAGED[name]
    try:
        executor: dg.ExecutorDefinition = getattr(importlib.import_module(package), attribute)
    except ImportError as error:
        raise UnreachableError(
            f"execution.executor = {name!r} needs the package {package}; run `pip install 'evalflow[{name}]'`."
        ) from error
    return executor
