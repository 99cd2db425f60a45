"""The launcher of sweeps: `hydra/launcher=process`. Hydra finds plugins in `hydra_plugins` only."""
