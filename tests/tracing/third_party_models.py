"""Networks of other authors (Haiku, Equinox) and of Flax's own layers, linen and nnx.

`CASES[name]` is (build, kinds, unbound), as in `plain_cases`.
"""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

CASES = {}
IMAGE = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
LARGE = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
KEY = jax.random.PRNGKey(0)


def case(*unbound, **kinds):
    def register(build):
        CASES[build.__name__] = (build, kinds, set(unbound))
        return build

    return register


def haiku(function, inputs, init=None):
    init = hk.transform_with_state(init or function).init
    params, state = jax.eval_shape(init, KEY, inputs)
    net = hk.transform_with_state(function)
    return (
        lambda v, x: net.apply(v["params"], v["state"], None, x)[0],
        {"params": params, "state": state},
        inputs,
    )


def linen(net, inputs, **options):
    variables = jax.eval_shape(lambda key, x: net.init(key, x, **options), KEY, inputs)
    return lambda v, x: net.apply(v, x, **options), variables, inputs


@case(conv=21, bn=20, max_pool=1, sum=8, glob_avg=1, bias=1)
def haiku_resnet18():
    return haiku(lambda x: hk.nets.ResNet18(10)(x, is_training=True), IMAGE)


@case(conv=54, bn=53, max_pool=1, sum=16, glob_avg=1, bias=1)
def haiku_resnet50():
    return haiku(lambda x: hk.nets.ResNet50(1000)(x, is_training=True), LARGE)


@case(conv=54, bn=49, max_pool=1, sum=16, glob_avg=1, bias=1)
def haiku_resnet50_v2_in_evaluation():
    def net(training):
        return lambda x: hk.nets.ResNet50(1000, resnet_v2=True)(x, is_training=training)

    return haiku(net(False), LARGE, init=net(True))


@case(conv=15, sep_conv=13, bn=27, glob_avg=1, bias=1)
def haiku_mobilenet():
    return haiku(lambda x: hk.nets.MobileNetV1(num_classes=10)(x, is_training=True), LARGE)


@case(conv=3, bias=3)
def haiku_mlp():
    return haiku(lambda x: hk.nets.MLP([64, 32, 10])(hk.Flatten()(x)), IMAGE)


@case(conv=14, bias=14, pos_enc=1, sum=5, ln=4, msa=2, glob_avg=1)
def haiku_transformer():
    def net(x):
        x = hk.Conv2D(64, 4, 4)(x).reshape(2, 64, 64)
        x = x + hk.get_parameter("position", [1, 64, 64], init=jnp.zeros)
        for _ in range(2):
            y = hk.LayerNorm(-1, True, True)(x)
            init = hk.initializers.VarianceScaling(1.0)
            x = x + hk.MultiHeadAttention(4, 16, w_init=init)(y, y, y)
            y = hk.LayerNorm(-1, True, True)(x)
            x = x + hk.Linear(64)(jax.nn.gelu(hk.Linear(128)(y)))
        return hk.Linear(10)(x.mean(1))

    return haiku(net, IMAGE)


@case(conv=3, bias=5, ln=2, bn=1, sep_conv=3, max_pool=1, avg_pool=1, glob_avg=1)
def haiku_layers():
    def net(x):
        x = hk.InstanceNorm(True, True)(jax.nn.relu(hk.GroupNorm(4)(hk.Conv2D(32, 3)(x))))
        x = hk.SeparableDepthwiseConv2D(1, 3)(hk.DepthwiseConv2D(1, 3)(x))
        x = hk.RMSNorm(-1)(hk.Conv2DTranspose(16, 3, 2)(x))
        x = hk.AvgPool((2, 2, 1), (2, 2, 1), "SAME")(hk.MaxPool((2, 2, 1), (2, 2, 1), "SAME")(x))
        return hk.Linear(10)(x.mean((1, 2)))

    return haiku(net, IMAGE)


@case(conv=2, bias=2)
def haiku_lstm():
    def net(x):
        cell = hk.LSTM(32)
        steps = x.reshape(2, 32, 96)
        out, _ = hk.dynamic_unroll(cell, steps, cell.initial_state(2), time_major=False)
        return hk.Linear(10)(out[:, -1])

    return haiku(net, IMAGE)


class EquinoxNet(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    slope: eqx.nn.PReLU
    dilated: eqx.nn.Conv2d
    pool: eqx.nn.MaxPool2d
    ln: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, key):
        self.conv = eqx.nn.Conv2d(3, 16, 3, padding=1, key=key)
        self.norm = eqx.nn.GroupNorm(4, 16)
        self.slope = eqx.nn.PReLU()
        self.dilated = eqx.nn.Conv2d(16, 16, 3, groups=16, padding=2, dilation=2, key=key)
        self.pool = eqx.nn.MaxPool2d(2, 2)
        self.ln = eqx.nn.LayerNorm(16)
        self.attention = eqx.nn.MultiheadAttention(4, 16, use_query_bias=True, key=key)
        self.mlp = eqx.nn.MLP(16, 16, 32, 2, key=key)
        self.head = eqx.nn.Linear(16, 10, key=key)

    def __call__(self, x):
        x = self.slope(self.norm(self.conv(x)))
        x = self.pool(x + jax.nn.silu(self.dilated(x))).reshape(16, -1).T
        y = jax.vmap(self.ln)(x)
        x = x + self.attention(y, y, y)
        x = x + jax.vmap(self.mlp)(x)
        return self.head(x.mean(0))


_EQUINOX = {
    "conv": 9,
    "bias": 7,
    "ln": 2,
    "dil_conv": 1,
    "sum": 3,
    "max_pool": 1,
    "msa": 1,
    "glob_avg": 1,
}


@case("slope/negative_slope", **_EQUINOX)
def equinox_single_image():
    x = jax.ShapeDtypeStruct((3, 16, 16), jnp.float32)
    return lambda model, x: model(x), EquinoxNet(KEY), x


@case("slope/negative_slope", **_EQUINOX)
def equinox_partition():
    params, static = eqx.partition(EquinoxNet(KEY), eqx.is_array)
    x = jax.ShapeDtypeStruct((2, 3, 16, 16), jnp.float32)
    return lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, x


class EquinoxBatchNorm(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        self.conv = eqx.nn.Conv2d(3, 8, 3, key=key)
        self.norm = eqx.nn.BatchNorm(8, "batch", mode="batch")
        self.head = eqx.nn.Linear(8, 10, key=key)

    def __call__(self, x, state):
        x, state = self.norm(self.conv(x), state)
        return self.head(jax.nn.relu(x).mean((1, 2))), state


def _equinox_batch_norm(prepare):
    model, state = eqx.nn.make_with_state(EquinoxBatchNorm)(KEY)
    x = jax.ShapeDtypeStruct((2, 3, 16, 16), jnp.float32)

    def apply(model, x):
        batched = jax.vmap(prepare(model), axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        return batched(x, state)[0]

    return apply, model, x


@case(conv=2, bias=2, bn=1, glob_avg=1)
def equinox_batch_norm():
    return _equinox_batch_norm(lambda model: model)


@case(conv=2, bias=2, bn=1, glob_avg=1)
def equinox_batch_norm_in_evaluation():
    return _equinox_batch_norm(eqx.nn.inference_mode)


@case(conv=3, bias=3, sum=4)
def equinox_gru():
    cell = eqx.nn.GRUCell(8, 16, key=KEY)
    head = eqx.nn.Linear(16, 10, key=KEY)

    def apply(model, x):
        state, _ = jax.lax.scan(lambda h, v: (model[0](v, h), None), jnp.zeros(16), x)
        return model[1](state)

    return apply, (cell, head), jax.ShapeDtypeStruct((5, 8), jnp.float32)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 16, (3, 3), rngs=rngs)
        self.bn = nnx.BatchNorm(16, rngs=rngs)
        self.gn = nnx.GroupNorm(16, num_groups=4, rngs=rngs)
        self.up = nnx.ConvTranspose(16, 16, (2, 2), (2, 2), rngs=rngs)
        self.ln = nnx.LayerNorm(16, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(4, 16, decode=False, rngs=rngs)
        self.rms = nnx.RMSNorm(16, rngs=rngs)
        self.head = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        x = self.up(self.gn(nnx.relu(self.bn(self.conv(x)))))
        x = nnx.max_pool(x, (4, 4), (4, 4))
        x = x.reshape(x.shape[0], -1, 16)
        x = self.rms(x + self.attention(self.ln(x)))
        return self.head(x.mean(1))


def _nnx(training):
    net = NnxNet(nnx.Rngs(0))
    _ = net.train() if training else net.eval()
    graphdef, params, rest = nnx.split(net, nnx.Param, ...)
    return lambda p, x: nnx.merge(graphdef, p, rest, copy=True)(x), params, IMAGE


_NNX = {"conv": 7, "bias": 7, "bn": 1, "ln": 3, "max_pool": 1, "msa": 1, "sum": 1, "glob_avg": 1}


@case(**_NNX)
def nnx_split():
    return _nnx(training=True)


@case(**_NNX)
def nnx_split_in_evaluation():
    return _nnx(training=False)


class LinenNet(nn.Module):
    running: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(16, (3, 3), strides=2)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=self.running)(x))
        gate = nn.sigmoid(nn.Dense(16)(nn.relu(nn.Dense(4)(x.mean((1, 2))))))
        x = nn.GroupNorm(4)(x * gate[:, None, None])
        x = nn.avg_pool(nn.ConvTranspose(16, (2, 2), (2, 2))(x), (4, 4), (4, 4))
        x = x.reshape(x.shape[0], -1, 16)
        x = x + self.param("position", nn.initializers.normal(), (1, x.shape[1], 16))
        y = nn.LayerNorm()(x)
        x = nn.RMSNorm()(x + nn.MultiHeadDotProductAttention(4)(y))
        return nn.Dense(10)(nn.Dropout(0.1, deterministic=True)(x).mean(1))


_LINEN = {
    "conv": 9,
    "bias": 9,
    "bn": 1,
    "cse": 1,
    "ln": 3,
    "avg_pool": 1,
    "pos_enc": 1,
    "sum": 2,
    "msa": 1,
    "glob_avg": 1,
}


@case(**_LINEN)
def linen_in_evaluation():
    return linen(LinenNet(running=True), IMAGE)


@case(**_LINEN)
def linen_in_training():
    net = LinenNet(running=False)
    variables = jax.eval_shape(net.init, KEY, IMAGE)
    return lambda v, x: net.apply(v, x, mutable=["batch_stats"])[0], variables, IMAGE


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(12)(nn.gelu(nn.Dense(24)(nn.LayerNorm()(x)))), None


class ScannedNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        layers = nn.scan(
            nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=4
        )
        x, _ = layers()(x, None)
        return nn.Dense(10)(x[:, 0])


@case(conv=9, bias=9, ln=4, sum=4)
def linen_scan_with_remat():
    return linen(ScannedNet(), jax.ShapeDtypeStruct((2, 9, 12), jnp.float32))


class GatedRecurrence(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.RNN(nn.OptimizedLSTMCell(16))(x)[:, -1])


@case(conv=9, bias=5, sum=5)
def linen_lstm():
    return linen(GatedRecurrence(), jax.ShapeDtypeStruct((2, 7, 12), jnp.float32))


class TextNet(nn.Module):
    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(50, 16)(ids) + nn.Embed(12, 16)(jnp.arange(ids.shape[1]))[None]
        x = nn.SelfAttention(4)(x)
        return nn.Dense(3)(nn.WeightNorm(nn.Dense(16))(x).mean(1))


@case(conv=7, pos_enc=1, sum=1, msa=1, bias=6, ln=1, glob_avg=1)
def linen_text():
    return linen(TextNet(), jax.ShapeDtypeStruct((2, 9), jnp.int32))
