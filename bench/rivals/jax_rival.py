"""JAX: the whole step in one jitted function."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from .base import Rival
from .tasks import Task, Workload

# Parameters, two moments, step count, and for some layers running statistics of batch
# norms (by hidden layer) and the key of dropout's random numbers.
State = tuple[Any, Any, Any, jax.Array, Any, Any]

EPS = 1e-5
MOMENTUM = 0.1


def normalize(x: jax.Array, mean: jax.Array, var: jax.Array, affine: Any) -> jax.Array:
    """Return rows or columns of mean 0 and variance 1, scaled and shifted."""
    scale, shift = affine
    return (x - mean) * jax.lax.rsqrt(var + EPS) * scale + shift


def hidden_layer(
    workload: Workload, params: Any, x: jax.Array, running: Any, key: Any
) -> tuple[jax.Array, Any]:
    """Return the layer's output in training, and its new running statistics."""
    w, b, *affine = params
    x = x @ w + b
    x = jnp.tanh(x) if workload.activation == "tanh" else jax.nn.relu(x)
    if workload.norm == "layer_norm":
        mean, var = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
        x = normalize(x, mean, var, affine)
    if workload.norm == "batch_norm":
        mean, var = x.mean(axis=0), x.var(axis=0)
        x = normalize(x, mean, var, affine)
        new = mean, var * (len(x) / (len(x) - 1))  # running variances are unbiased
        running = jax.tree.map(lambda r, n: r + MOMENTUM * (n - r), running, new)
    if key is not None:
        kept = jax.random.bernoulli(key, 1.0 - workload.rate, x.shape)
        x = jnp.where(kept, x / (1.0 - workload.rate), 0.0)
    return x, running


def forward(
    workload: Workload, params: Any, x: jax.Array, running: Any = (), key: Any = None
) -> tuple[jax.Array, Any]:
    """Return the network's output, and new running statistics if there are any."""
    *hidden, (weight, bias) = params
    keys = [None] * len(hidden) if key is None else jax.random.split(key, len(hidden))
    new = list(running)
    for group in workload.groups:
        block_input = x
        for layer in group:
            old = running[layer] if running else ()
            x, stats = hidden_layer(workload, hidden[layer], x, old, keys[layer])
            if running:
                new[layer] = stats
        if len(group) > 1:
            x = block_input + x
    return x @ weight + bias, new


def loss_of(
    workload: Workload, params: Any, x: jax.Array, y: jax.Array, running: Any, key: Any
) -> tuple[jax.Array, Any]:
    """Return the training loss, and new running statistics."""
    output, running = forward(workload, params, x, running, key)
    if workload.loss == "mse":
        return jnp.mean((output - y) ** 2), running
    picked = jnp.take_along_axis(jax.nn.log_softmax(output), y[:, None], axis=1)
    return -jnp.mean(picked), running


# The old state's memory is reused for the new one.
@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    workload: Workload, state: State, x: jax.Array, y: jax.Array
) -> tuple[State, jax.Array]:
    """Forward, backward and update; returns the new state and the loss."""
    params, m, v, steps, running, key = state
    used = None
    if key is not None:
        key, used = jax.random.split(key)
    slope = jax.value_and_grad(functools.partial(loss_of, workload), has_aux=True)
    (loss, running), grads = slope(params, x, y, running, used)
    lr = workload.lr
    if workload.optimizer == "sgd":
        params = jax.tree.map(lambda p, g: p - lr * g, params, grads)
        return (params, m, v, steps, running, key), loss
    steps = steps + 1.0
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
    first, second = 1.0 - 0.9**steps, 1.0 - 0.999**steps
    params = jax.tree.map(
        lambda p, m, v: p - lr * (m / first) / (jnp.sqrt(v / second) + 1e-8),
        params,
        m,
        v,
    )
    return (params, m, v, steps, running, key), loss


class JaxRival(Rival):
    """Data are on the device; `wait` is called only at the end of a run of steps."""

    def __init__(self, task: Task, threads: int | None) -> None:
        super().__init__(task, threads)
        jax.config.update("jax_enable_x64", task.workload.dtype == "float64")
        self.x, self.y = jnp.asarray(task.x), jnp.asarray(task.y)
        workload = task.workload
        self.forward = jax.jit(lambda params, x: forward(workload, params, x)[0])
        self.reset()

    def versions(self) -> dict[str, str]:
        """Return versions and settings."""
        return {"jax": jax.__version__}

    def reset(self) -> None:
        """Restore the initial parameters and reset the optimiser."""
        # Copied, because donated arrays must not share the task's memory.
        params = jax.tree.map(
            lambda array: jnp.array(array, copy=True), self.task.params
        )
        moments = (
            jax.tree.map(jnp.zeros_like, params),
            jax.tree.map(jnp.zeros_like, params),
        )
        if self.task.workload.optimizer == "sgd":
            moments = ((), ())
        workload = self.task.workload
        running: Any = []
        if workload.norm == "batch_norm":
            running = [(jnp.zeros(o), jnp.ones(o)) for o in workload.widths[1:-1]]
        key = jax.random.key(0) if "dropout" in workload.blocks else None
        steps = jnp.zeros((), self.x.dtype)
        self.state: State = (params, *moments, steps, running, key)
        jax.block_until_ready(self.state)

    def train_step(self) -> jax.Array:
        """Take one step."""
        self.state, loss = train_step(self.task.workload, self.state, self.x, self.y)
        return loss

    def infer(self) -> jax.Array:
        """Return the network's output."""
        return self.forward(self.state[0], self.x).block_until_ready()

    def wait(self, result: jax.Array) -> None:
        """Wait for the result and for the parameters."""
        # The loss is ready before the update: wait for the parameters as well.
        jax.block_until_ready((result, self.state))
