"""``launcher=slurm`` and ``slurm_local``, where the plugin of submitit is installed."""

from __future__ import annotations

from contextlib import suppress

from hydra.core.config_store import ConfigStore

with suppress(ImportError):
    from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf

    from hydra_plugins.dgn_launchers._submitit import SlurmLauncher, SlurmLocalLauncher

    for _name, _node, _class in (
        ("dgn_slurm", SlurmQueueConf, SlurmLauncher),
        ("dgn_slurm_local", LocalQueueConf, SlurmLocalLauncher),
    ):
        _target = f"{_class.__module__}.{_class.__name__}"
        ConfigStore.instance().store(group="hydra/launcher", name=_name, node=_node(_target_=_target), provider="dgn")
