"""Dictionaries over many devices: equal to those of one, and what is exchanged is what must be."""

import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxplain import sae

WIDTH, LATENTS, ROWS, STEPS = 12, 64, 64, 20
AUTO, EXPLICIT = jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit
ARCHITECTURES = {
    "topk dense": lambda: sae.topk(LATENTS, 4, auxiliary_k=8, implementation="dense"),
    "topk sparse": lambda: sae.topk(LATENTS, 4, auxiliary_k=20, implementation="sparse"),
    "topk in blocks": lambda: sae.topk(
        LATENTS, 4, multi_topk=True, implementation="sparse", block_size=10
    ),
    "batch_topk": lambda: sae.batch_topk(LATENTS, 4, implementation="dense"),
    "batch_topk sparse": lambda: sae.batch_topk(LATENTS, 4, implementation="sparse"),
    "matryoshka": lambda: sae.matryoshka(LATENTS, 4, sizes=(10, 40, LATENTS)),
    "relu": lambda: sae.relu(LATENTS, 0.1, has_ghost_gradients=True),
    "gated": lambda: sae.gated(LATENTS, 0.1),
    "jumprelu": lambda: sae.jumprelu(LATENTS, 0.1, target_l0=4, bandwidth=0.3),
    "p_annealed": lambda: sae.p_annealed(LATENTS, 0.1),
    "transcoder": lambda: sae.transcoder(sae.topk(LATENTS, 4), has_skip=True),
    "crosscoder": lambda: sae.crosscoder(sae.relu(LATENTS, 0.1)),
}
QUICK = ("topk sparse", "batch_topk", "jumprelu")
CASES = [("topk sparse", (8, 1)), ("topk sparse", (1, 8))] + [
    pytest.param(name, (2, 4), marks=[] if name in QUICK else pytest.mark.slow)
    for name in ARCHITECTURES
]
CASES += [pytest.param("batch_topk", shape, marks=pytest.mark.slow) for shape in ((8, 1), (1, 8))]


@pytest.fixture(autouse=True)
def usual_promotion():
    """Adam of optax mixes dtypes that strict promotion does not."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def mesh_of(shape, kind=AUTO):
    return jax.make_mesh(shape, ("data", "latents"), (kind,) * 2)


def over(dictionary, shape, kind=AUTO):
    return sae.sharded(dictionary, mesh_of(shape, kind), rows="data", latents="latents")


def data_of(name, key):
    h = jax.random.normal(key, (ROWS, WIDTH), float)
    if name == "transcoder":
        return h, jnp.sin(h @ jnp.ones((WIDTH, 7), h.dtype) / 3)
    return h.reshape(ROWS, 3, -1) if name == "crosscoder" else h


def trained(dictionary, name, steps=STEPS):
    """The state and the losses of a run in which a third of the latents is dead."""
    training = sae.training(dictionary, optax.adam(1e-2), steps=STEPS, dead_after=3 * ROWS)
    params = dictionary.init(jax.random.key(1), data_of(name, jax.random.key(0)))
    off = jnp.where(jnp.arange(LATENTS) % 3 == 0, -100.0, 0.0)
    bias = "b_gate" if "b_gate" in params else "b_enc"
    state = training.init({**params, bias: params[bias] + off.astype(params[bias].dtype)})
    step = jax.jit(training.step, donate_argnums=0)
    losses = []
    for t in range(steps):
        batch = dictionary.place(data_of(name, jax.random.fold_in(jax.random.key(3), t)))
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return state, np.array(losses), metrics


def largest_difference(left, right):
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return max(float(np.abs(np.asarray(a) * 1.0 - np.asarray(b)).max()) for a, b in pairs)


@pytest.fixture(scope="module")
def on_one_device():
    """Runs of one device, each made once."""
    found = {}

    def run(name):
        if name not in found:
            found[name] = trained(ARCHITECTURES[name](), name)
        return found[name]

    return run


@pytest.mark.parametrize(("name", "shape"), CASES, ids=lambda value: str(value).replace(" ", "_"))
def test_many_devices_train_what_one_does(name, shape, on_one_device, x64):
    """States, codes and reconstructions after 20 steps; dead latents have their part."""
    dictionary = ARCHITECTURES[name]()
    many = over(dictionary, shape)
    state, losses, metrics = trained(many, name)
    one, expected, theirs = on_one_device(name)
    assert largest_difference(state, one) < 1e-9
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-9)
    assert metrics["dead"] > 0.3
    if dictionary.revives:
        assert theirs["auxiliary"] > 0
    # What they are split over is what was asked for, moments and counters included.
    of_latents = jax.P("latents")
    assert state.params["W_dec"].sharding.spec[0] == "latents"
    assert state.params["W_enc"].sharding.spec[-1] == "latents"
    assert state.silent.sharding.is_equivalent_to(
        jax.NamedSharding(mesh_of(shape), of_latents), ndim=1
    )
    for leaf, moment in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(state.optimizer[0].mu), strict=True
    ):
        assert moment.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)
    batch = data_of(name, jax.random.key(9))
    h, more = (batch[0], [batch[0]]) if name == "transcoder" else (batch, [])

    def used(own):
        def both(params, h):
            several = [own.encode(params, h, sparse) for sparse in (None, 3)]
            return several, [own.decode(params, codes, *more) for codes in several]

        return jax.jit(both)

    assert largest_difference(used(many)(state.params, h), used(dictionary)(one.params, h)) < 1e-9


def test_losses_in_float32():
    one = trained(ARCHITECTURES["topk sparse"](), "topk sparse")[1]
    many = trained(over(ARCHITECTURES["topk sparse"](), (2, 4)), "topk sparse")[1]
    np.testing.assert_allclose(many, one, rtol=1e-5)


@pytest.mark.pins
def test_meshes_of_explicit_axes(on_one_device, x64):
    """Where shardings are part of types, nothing else is asked of the user."""
    state, losses, _ = trained(over(ARCHITECTURES["topk sparse"](), (2, 4), EXPLICIT), "topk", 5)
    np.testing.assert_allclose(losses, on_one_device("topk sparse")[1][:5], rtol=0, atol=1e-9)
    assert jax.typeof(state.optimizer[0].nu["W_enc"]).sharding.spec == jax.P(None, "latents")


def test_derivatives_of_codes():
    """Of topk too, whose codes are found outside of the derivative."""
    dictionary = sae.topk(LATENTS, 4, implementation="sparse", block_size=10)
    many = over(dictionary, (2, 4))
    h = jax.random.normal(jax.random.key(0), (ROWS, WIDTH), jnp.float32)
    params = dictionary.init(jax.random.key(1), h)

    def gradient(own):
        f = lambda params, h: jnp.sum(jnp.sin(own.decode(params, own.encode(params, h))))
        return jax.jit(jax.grad(f, argnums=(0, 1)))(params, h)

    found, expected = gradient(many), gradient(dictionary)
    assert jnp.any(expected[1] != 0)
    assert largest_difference(found, expected) < 1e-5


def test_equal_pre_activations_are_chosen_as_on_one_device():
    """Of equal ones the lower latent, wherever it is: 0 and 3 of 16 latents that are all equal."""
    dictionary = sae.topk(16, 3)
    columns = jnp.tile(jnp.eye(4), (1, 4))
    params = {"W_enc": columns, "b_enc": jnp.zeros(16), "W_dec": columns.T, "b_dec": jnp.zeros(4)}
    h = jnp.array([[1.0, 0, 0, 0], [1, 1, 0, 0], [2, 2, 2, 2], [0, 0, 3, 1]])
    found = jax.jit(over(dictionary, (2, 4)).encode)(params, h)
    np.testing.assert_array_equal(found, dictionary.encode(params, h))
    assert jnp.flatnonzero(found[2]).tolist() == [0, 1, 2]


# ---------------------------------------------------------------------------- what is exchanged

KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"


def exchanged(text):
    """The kinds of collectives in a compiled program, each with the shapes of what it gives."""
    found = {}
    for given, kind in re.findall(rf"= (.*?) ({KINDS})(?:-start)?\(", text):
        shapes = re.findall(r"\w+\[([\d,]*)\]", given)
        sizes = [tuple(int(n) for n in shape.split(",") if n and n != "1") for shape in shapes]
        found.setdefault(kind, set()).update(sizes)
    return found


def compiled(dictionary, params=None):
    training = sae.training(dictionary, optax.adam(1e-2))
    h = jax.random.normal(jax.random.key(0), (ROWS, WIDTH), jnp.float32)
    state = training.init(dictionary.init(jax.random.key(1), h) if params is None else params)
    step = jax.jit(training.step, donate_argnums=0)
    return step.lower(state, dictionary.place(h)).compile().as_text()


@pytest.mark.pins
@pytest.mark.parametrize("name", ["topk sparse", "topk dense", "batch_topk", "jumprelu"])
def test_what_a_step_exchanges_is_what_the_method_needs(name):
    """The list of docs/sae.md, for 2 x 4 devices: rows (32, .) and latents 16 on each."""
    rows, own = ROWS // 2, LATENTS // 4
    reconstruction, gradients = (rows, WIDTH), {(own, WIDTH), (WIDTH, own), (own,), (WIDTH,)}
    candidates = {
        "topk sparse": {(rows, 4 * 4), (rows, 4 * own)},  # of k, and of 20 dead ones in 16
        "topk dense": {(rows, 4 * 4), (rows, 4 * 8)},
        "batch_topk": {(rows, 4 * (WIDTH // 2))},  # of dead ones: its own choice asks for counts
        "jumprelu": set(),
    }[name]
    found = exchanged(compiled(over(ARCHITECTURES[name](), (2, 4))))
    assert found.pop("all-reduce") == {(), reconstruction} | gradients
    assert found.pop("all-gather", set()) == candidates
    assert not found


def test_rows_alone_exchange_gradients_alone():
    dictionary = sae.sharded(
        ARCHITECTURES["topk sparse"](), jax.make_mesh((8,), ("data",), (AUTO,)), rows="data"
    )
    found = exchanged(compiled(dictionary))
    assert found == {"all-reduce": {(), (LATENTS, WIDTH), (WIDTH, LATENTS), (LATENTS,), (WIDTH,)}}


def test_shardings_without_the_method_gather_pre_activations():
    """Why `sharded` is: the compiler alone gathers (rows, F). It shows that the parser sees it."""
    dictionary = ARCHITECTURES["topk dense"]()
    h = jax.random.normal(jax.random.key(0), (ROWS, WIDTH), jnp.float32)
    split = over(dictionary, (2, 4)).init(jax.random.key(1), h)
    assert (ROWS, LATENTS) in exchanged(compiled(dictionary, split))["all-gather"]


# ------------------------------------------------------------------------------------- the runs


def test_a_run_with_checkpoints_goes_on(tmp_path):
    """Kept on the devices where they belong, and equal to the last bit."""
    dictionary = over(sae.topk(LATENTS, 4), (2, 4))
    h = np.random.default_rng(0).normal(size=(200, WIDTH)).astype(np.float32)
    settings = {"optimizer": optax.adam(1e-2), "batch_size": 64, "record_every": 2}
    whole = sae.train(jax.random.key(0), dictionary, h, steps=6, **settings)

    class Stop(Exception):
        pass

    def stop(record):
        if record["step"] == 4:
            raise Stop

    folder = {"checkpoint": tmp_path / "run", "checkpoint_every": 2}
    with pytest.raises(Stop):
        sae.train(jax.random.key(0), dictionary, h, steps=6, on_record=stop, **settings, **folder)
    again = sae.train(jax.random.key(0), dictionary, h, steps=6, resume=True, **settings, **folder)
    assert largest_difference(again.state, whole.state) == 0
    for leaf, other in zip(
        jax.tree.leaves(again.params), jax.tree.leaves(whole.params), strict=True
    ):
        assert leaf.sharding == other.sharding
    found = sae.evaluate(dictionary, again.params, h)  # of 200 rows, which two devices share
    alone = sae.evaluate(sae.topk(LATENTS, 4), jax.device_get(again.params), h)
    assert found.fvu.value == pytest.approx(alone.fvu.value, rel=1e-5)


HOST = """
import sys
import jax

port, rank, hosts = (int(word) for word in sys.argv[1:])
jax.config.update("jax_num_cpu_devices", 8 // hosts)
jax.config.update("jax_enable_x64", True)
if hosts > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", hosts, rank)
import jax.numpy as jnp
import numpy as np
import optax

from jaxplain import sae

mesh = jax.make_mesh((2, 4), ("data", "latents"), (jax.sharding.AxisType.Auto,) * 2)
dictionary = sae.sharded(sae.topk(64, 4, auxiliary_k=8), mesh, rows="data", latents="latents")
draw = lambda key: jax.random.normal(key, (64, 12))
h = np.random.default_rng(0).normal(size=(500, 12))
for source, size in ((draw, None), (h, 64)):
    found = sae.train(
        jax.random.key(0), dictionary, source, optimizer=optax.adam(1e-2), steps=20,
        batch_size=size, dead_after=200,
    )
    everywhere = jax.NamedSharding(mesh, jax.P())
    for name, leaf in sorted(jax.jit(lambda p: p, out_shardings=everywhere)(found.params).items()):
        weights = np.sin(np.arange(leaf.size))
        print("sum", name, float(weights @ np.asarray(leaf).reshape(-1)))
"""


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_hosts_train_what_one_does(tmp_path):
    """By jax.distributed, four devices each: rows on two hosts, latents within each."""
    script = tmp_path / "host.py"
    script.write_text(HOST)

    def start(rank, hosts):
        command = [sys.executable, str(script), str(port), str(rank), str(hosts)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    hosts = [start(0, 2), start(1, 2)]
    try:
        told = [host.communicate(timeout=200)[0] for host in hosts]
        alone = start(0, 1)
        hosts.append(alone)
        told.append(alone.communicate(timeout=200)[0])
    finally:
        for host in hosts:
            host.kill()
    sums = [
        [float(line.split()[2]) for line in text.splitlines() if line.startswith("sum ")]
        for text in told
    ]
    assert len(sums[2]) == 8, told[2]
    np.testing.assert_allclose(sums[0], sums[2], rtol=0, atol=1e-9, err_msg=told[0])
    assert sums[1] == sums[0], told[1]


# ------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rows": "hosts"}, r"rows names the axis 'hosts', but the mesh has"),
        ({}, r"name rows= or latents="),
        ({"rows": "data", "latents": "data"}, r"an axis can split one thing once"),
        ({"latents": ("data", "data")}, r"an axis can split one thing once"),
        ({"latents": ("data", "latents")}, r"60 latents are no multiple of the 8 devices"),
    ],
    ids=["axis", "none", "both", "twice", "multiple"],
)
def test_what_a_mesh_cannot_split(arguments, words):
    with pytest.raises(ValueError, match=words):
        sae.sharded(sae.topk(60, 4), mesh_of((2, 4)), **arguments)


def test_batches_that_devices_cannot_share():
    dictionary = over(sae.topk(LATENTS, 4), (8, 1))
    h = jnp.ones((60, WIDTH), jnp.float32)
    params = dictionary.init(jax.random.key(0), h)
    with pytest.raises(ValueError, match=r"60 rows is no multiple of the 8 devices along 'data'"):
        dictionary.loss(params, h)
    with pytest.raises(ValueError, match=r"rows of shape \(n, d\), but has the shape \(12,\)"):
        dictionary.place(h[0])
    with pytest.raises(ValueError, match=r"params have 64 latents, but the dictionary has 32"):
        over(sae.topk(32, 4), (8, 1)).encode(params, h)
    # Codes depend on no other row: any number of them, of any shape, and a single one.
    encode, decode = jax.jit(dictionary.encode), jax.jit(dictionary.decode)
    assert encode(params, h[:5].reshape(5, 1, WIDTH)).shape == (5, 1, LATENTS)
    assert decode(params, encode(params, h[0])).shape == (WIDTH,)
    assert np.asarray(encode(params, h[:0])).shape == (0, LATENTS)
    # Of one device, as a model leaves them.
    there = jax.device_put(h, jax.devices()[0])
    assert dictionary.init(jax.random.key(0), there)["W_dec"].sharding.num_devices == 8


def test_arguments_of_another_kind():
    with pytest.raises(TypeError, match=r"mesh must be a jax.sharding.Mesh"):
        sae.sharded(sae.topk(60, 4), jax.devices(), rows="data")
    with pytest.raises(TypeError, match=r"latents must be the name of an axis"):
        sae.sharded(sae.topk(60, 4), mesh_of((2, 4)), latents=0)
    mixed = jax.make_mesh((2, 4), ("data", "latents"), (AUTO, EXPLICIT))
    with pytest.raises(ValueError, match=r"axes of the mesh must be of one type"):
        sae.sharded(sae.topk(60, 4), mixed, rows="data")
    with pytest.raises(TypeError, match=r"dictionary must be one of jaxplain.sae"):
        sae.sharded(None, mesh_of((2, 4)), rows="data")
