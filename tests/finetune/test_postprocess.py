"""The published rule, written with NumPy on the reference's layout, against bindings' leaves."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppuda_jax as pj
from ppuda_jax.finetune.postprocess import orthogonalise, postprocess
from ppuda_jax.graphs.arch_graph import ArchGraph
from tests.close import assert_close


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
        x = nn.Conv(5, (3, 3), use_bias=False)(x)
        x = nn.Dense(40)(x.mean((1, 2)))
        return nn.Dense(7)(nn.relu(x))


def _published(tensors, beta, orthogonal, from_layer, noise):
    """`tensors` by name in the network's order, in the reference's layout."""
    total = sum(t.ndim > 1 for t in tensors.values())
    layer, spread, result = 0, None, {}
    for name, w in tensors.items():
        layer += w.ndim > 1
        if layer == total or (w.ndim == 1 and "BatchNorm" not in name):
            result[name] = w
            continue
        flat = w.reshape(len(w), -1)
        tall = flat.shape[0] >= flat.shape[1]
        if w.ndim > 1:
            spread = np.corrcoef(flat if tall else flat.T).std(ddof=1)
        w = w + beta * spread * noise[name]
        if w.ndim > 1 and orthogonal and layer >= from_layer:
            flat = w.reshape(len(w), -1)
            q, r = np.linalg.qr(flat if tall else flat.T)
            q = q * np.sign(np.diag(r))
            w = (q if tall else q.T).reshape(w.shape)
        result[name] = w
    return result


_LAYOUT = {4: lambda x: x.transpose(3, 2, 0, 1), 2: np.transpose, 1: lambda x: x}


@pytest.fixture(scope="module")
def net():
    images, module = jnp.ones((4, 8, 8, 3)), Net()
    variables = jax.jit(module.init)(jax.random.key(0), images)
    graph = ArchGraph.from_graphs_tuple(pj.trace(_apply, variables, images))
    return variables["params"], graph


def _apply(variables, x):
    return Net().apply(variables, x, mutable=["batch_stats"])[0]


def _tensors(params, graph):
    """Name -> NumPy array in the reference's layout, in the network's order."""
    leaves = {b.path: np.asarray(params[b.path[0]][b.path[1]]) for b in graph.bindings}
    return {"/".join(path): _LAYOUT[x.ndim](x) for path, x in leaves.items()}


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("from_layer", [1, 2])
def test_the_published_rule(net, beta, orthogonal, from_layer):
    params, graph = net
    key = jax.random.key(3)
    noise = {
        "/".join(b.path): np.asarray(jax.random.normal(jax.random.fold_in(key, n), b.shape))
        for n, b in enumerate(graph.bindings)
    }
    given = _tensors(params, graph)
    got = postprocess(params, graph, key, beta=beta, orthogonal=orthogonal, from_layer=from_layer)
    want = _published(given, beta, orthogonal, from_layer, noise)
    for name, tensor in _tensors(got, graph).items():
        assert_close(tensor, want[name], 1e-5)


def test_layers_before_the_first_get_no_noise(net):
    params, graph = net
    got = postprocess(
        params, graph, jax.random.key(0), beta=1.0, orthogonal=False, noise_from_layer=2
    )
    same = {
        name: np.array_equal(a, _tensors(params, graph)[name])
        for name, a in _tensors(got, graph).items()
    }
    assert same["Conv_0/kernel"] and same["BatchNorm_0/scale"]
    assert not same["Conv_1/kernel"] and same["Dense_1/kernel"]


@pytest.mark.parametrize("shape", [(6, 3, 3, 3), (40, 5), (5, 40), (3, 1, 2, 2)])
def test_orthogonal_layers(shape):
    got = orthogonalise(jax.random.normal(jax.random.key(1), shape)).reshape(shape[0], -1)
    gram = got @ got.T if got.shape[0] <= got.shape[1] else got.T @ got
    assert_close(gram, np.eye(len(gram)), 1e-5)
    assert_close(orthogonalise(got), got, 1e-5)


def test_the_leaves_of_another_library():
    model = eqx.nn.MLP(6, 4, 9, 2, key=jax.random.key(0))
    arrays, static = eqx.partition(model, eqx.is_array)

    def apply(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    graph = pj.trace(apply, arrays, jnp.ones((2, 6)))
    got = postprocess(arrays, graph, jax.random.key(0), beta=0)
    for before, after in zip(arrays.layers[:-1], got.layers, strict=False):
        assert_close(after.weight, orthogonalise(before.weight), 1e-6)
        assert np.array_equal(after.bias, before.bias)
    assert np.array_equal(got.layers[-1].weight, arrays.layers[-1].weight)


def test_bad_arguments(net):
    params, graph = net
    with pytest.raises(ValueError, match="beta is a size of noise .* received -1"):
        postprocess(params, graph, jax.random.key(0), beta=-1)
    other = {**params, "Conv_0": {**params["Conv_0"], "kernel": jnp.ones((3, 3, 3, 9))}}
    message = r"1 leaves differ, expected Conv_0/kernel \(3, 3, 3, 6\), received \(3, 3, 3, 9\)"
    with pytest.raises(ValueError, match=message):
        postprocess(other, graph, jax.random.key(0))
    missing = {name: leaf for name, leaf in params.items() if name != "Dense_1"}
    with pytest.raises(ValueError, match="Dense_1/kernel .* which is missing"):
        postprocess(missing, graph, jax.random.key(0))
