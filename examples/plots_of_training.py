"""
Pictures of a training run
==========================

:obj:`fastmlp.MLP.fit` returns the losses of all epochs, and a :obj:`fastmlp.Monitor`
among its callbacks records what happens inside the layers. :obj:`fastmlp.plot` draws
both: learning curves, histograms, dead units, sizes of updates, and the loss around the
path of training.
"""

import fastmlp as fm
import matplotlib.pyplot as plt
import numpy as np

# %%
# A run to look at
# ----------------
#
# A network learns to tell a disc from its surroundings, from points with some wrong
# labels. The monitor records each epoch and the path of the parameters.

rng = np.random.default_rng(0)
x = rng.uniform(-1, 1, (300, 2))
labels = (np.hypot(*x.T) < 0.7).astype(int)
wrong = rng.random(300) < 0.12
labels[wrong] = 1 - labels[wrong]
training, validation = (x[:150], labels[:150]), (x[150:], labels[150:])

mlp = fm.MLP([2, 24, 24, 1], activation="relu", seed=0)
monitor = fm.Monitor(path=True)
history = mlp.fit(
    *training,
    loss=fm.BinaryCrossEntropy(),
    optimizer=fm.Adam(lr=0.01),
    epochs=120,
    validation_data=validation,
    metrics=["accuracy"],
    callbacks=[monitor],
    seed=0,
)
print(f"validation accuracy {history.metrics['val_accuracy'][-1]:.1%}")
assert history.metrics["val_accuracy"][-1] > 0.7

# %%
# Learning curves
# ---------------
#
# :obj:`fastmlp.plot.learning_curves` draws the losses, marks the best epoch, and shows
# the metrics in a second panel. Here the validation loss rises again while the training
# loss still falls: :obj:`fastmlp.EarlyStopping` would help.

fm.plot.learning_curves(history)
assert min(history.val_loss) < 0.8 * history.val_loss[-1]

# %%
# Histograms
# ----------
#
# :obj:`fastmlp.plot.histograms` draws the weights, activations and gradients of each
# layer after the last recorded epoch, or after the one that ``epoch`` names.

fm.plot.histograms(monitor)

# %%
# For a model, it draws the current weights.

fm.plot.histograms(mlp)

# %%
# Dead units
# ----------
#
# A relu unit that is inactive for all rows of a batch has no gradient and may never
# come back. :obj:`fastmlp.plot.dead_units` shows their share. With a learning rate that
# is far too high, many units die in the first steps.

careless = fm.MLP([2, 24, 24, 1], activation="relu", seed=0)
watch = fm.Monitor()
careless.fit(
    *training,
    loss=fm.BinaryCrossEntropy(),
    optimizer=fm.Adam(lr=0.3),
    epochs=120,
    callbacks=[watch],
    seed=0,
)
figure, panels = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
fm.plot.dead_units(monitor, ax=panels[0]).set_title("Dead units, lr = 0.01")
fm.plot.dead_units(watch, ax=panels[1]).set_title("Dead units, lr = 0.3")
assert sum(dead[-1] for dead in watch.dead.values()) > 10

# %%
# Sizes of updates
# ----------------
#
# :obj:`fastmlp.plot.update_ratios` draws, on a log scale, the norm of each layer's last
# update divided by the norm of its weights. By a rule of thumb the ratio should be
# about one thousandth; much larger ratios hint at a learning rate that is too high.

figure, panels = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
fm.plot.update_ratios(monitor, ax=panels[0]).set_title("Updates, lr = 0.01")
fm.plot.update_ratios(watch, ax=panels[1]).set_title("Updates, lr = 0.3")

# %%
# The loss around the path
# ------------------------
#
# :obj:`fastmlp.plot.loss_surface` evaluates the loss on a plane through the trained
# parameters. With a path, the plane is that of the path's first two principal
# components.

fm.plot.loss_surface(mlp, *training, fm.BinaryCrossEntropy(), path=monitor)
plt.show()
