"""The launchers of sweeps. Hydra finds plugins in `hydra_plugins` only."""
