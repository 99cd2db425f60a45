"""The sweeper that learns: `hydra/sweeper=optuna`. Hydra finds plugins in `hydra_plugins` only."""
