"""JAX: the whole step in one jitted function."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from .base import Rival
from .tasks import Task, Workload

State = tuple[Any, Any, Any, jax.Array]  # parameters, two moments, step count


def forward(workload: Workload, params: Any, x: jax.Array) -> jax.Array:
    """Return the network's output."""
    activation = jnp.tanh if workload.activation == "tanh" else jax.nn.relu
    *hidden, (weight, bias) = params
    for w, b in hidden:
        x = activation(x @ w + b)
    return x @ weight + bias


def loss_of(workload: Workload, params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the training loss."""
    output = forward(workload, params, x)
    if workload.loss == "mse":
        return jnp.mean((output - y) ** 2)
    picked = jnp.take_along_axis(jax.nn.log_softmax(output), y[:, None], axis=1)
    return -jnp.mean(picked)


# The old state's memory is reused for the new one.
@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def train_step(
    workload: Workload, state: State, x: jax.Array, y: jax.Array
) -> tuple[State, jax.Array]:
    """Forward, backward and update; returns the new state and the loss."""
    params, m, v, steps = state
    loss, grads = jax.value_and_grad(functools.partial(loss_of, workload))(params, x, y)
    lr = workload.lr
    if workload.optimizer == "sgd":
        params = jax.tree.map(lambda p, g: p - lr * g, params, grads)
        return (params, m, v, steps), loss
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
    return (params, m, v, steps), loss


class JaxRival(Rival):
    """Data live on the device; a burst of steps is waited for once, at its end."""

    def __init__(self, task: Task, threads: int | None) -> None:
        super().__init__(task, threads)
        self.x, self.y = jnp.asarray(task.x), jnp.asarray(task.y)
        self.forward = jax.jit(functools.partial(forward, task.workload))
        self.reset()

    def versions(self) -> dict[str, str]:
        """Return versions and settings."""
        return {"jax": jax.__version__}

    def reset(self) -> None:
        """Go back to the first parameters and a fresh optimiser."""
        # A copy: donated arrays must not be the task's own memory.
        params = jax.tree.map(
            lambda array: jnp.array(array, copy=True), self.task.params
        )
        moments = (
            jax.tree.map(jnp.zeros_like, params),
            jax.tree.map(jnp.zeros_like, params),
        )
        if self.task.workload.optimizer == "sgd":
            moments = ((), ())
        self.state: State = (params, *moments, jnp.zeros((), jnp.float32))
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
        # The loss comes before the update: wait for the parameters as well.
        jax.block_until_ready((result, self.state))
