"""Before the first step of a run that starts from another one's weights: how good are they?"""

from __future__ import annotations

import lightning as L

from babygpt_exp.callbacks.metrics import Metrics


class InitialEvaluation(L.Callback):
    """Evaluates at step 0, so that what is gained can be seen."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The weights are there; a run that was stopped in its first step has been here before."""
        if self.metrics.initial_loss is None:
            trainer.validating = True
            trainer.fit_loop.epoch_loop.val_loop.run()
            trainer.training = True
