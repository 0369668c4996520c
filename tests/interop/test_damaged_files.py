"""Damaged or forged files: each is rejected with a message."""

import hashlib
import json
import pickle

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import schedules
from fastmlp._formats import safetensors
from file_cases import parts_of_a_training, run, state


def split(content):
    """The header and the bytes of the arrays."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header, body):
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + body


def hashed(header, body):
    """The header with its correct hash, computed here from the definition."""
    texts = header.get("__metadata__")
    if not isinstance(texts, dict) or "sha256" not in texts:
        return header
    others = [[key, text] for key, text in sorted(texts.items()) if key != "sha256"]
    names = sorted(header.keys() - {"__metadata__"})
    try:
        table = [[name, header[name]["dtype"], header[name]["shape"]] for name in names]
        spans = [slice(*header[name]["data_offsets"]) for name in names]
    except (KeyError, TypeError):
        return header
    text = json.dumps([others, table], separators=(",", ":"))
    content = text.encode() + b"".join(body[span] for span in spans)
    texts["sha256"] = hashlib.sha256(content).hexdigest()
    return header


def in_header(change):
    """A false entry in the header, which includes the texts."""

    def forge(content, rehash):
        header, body = split(content)
        body = change(header) or body
        if rehash:
            hashed(header, body)
        return joined(header, body)

    return forge


def in_text(change):
    """A false entry in the description of the model."""

    def change_header(header):
        texts = header["__metadata__"]
        tree = json.loads(texts["fastmlp"])
        texts["fastmlp"] = json.dumps(change(tree) or tree)

    return in_header(change_header)


def put(*place):
    """A false entry at a place, given by its keys, then the value."""
    *keys, last, value = place

    def change(tree):
        for key in keys:
            tree = tree[key]
        assert last in tree if isinstance(tree, dict) else last < len(tree)
        tree[last] = value

    return change


def drop(*keys):
    def change(tree):
        for key in keys[:-1]:
            tree = tree[key]
        del tree[keys[-1]]

    return change


def layer(**fields):
    return in_text(lambda tree: tree["layers"].__setitem__(2, fields))


def raw(change):
    return lambda content, rehash: change(content)


def with_length(length):
    return raw(lambda content: length.to_bytes(8, "little") + content[8:])


def with_text(old, new):
    def change(content):
        header, body = split(content)
        text = json.dumps(header).replace(old, new, 1)
        assert text != json.dumps(header)
        return len(text).to_bytes(8, "little") + text.encode() + body

    return raw(change)


def nested(tree):
    item = 3
    for _ in range(300):
        item = {"kind": "Residual", "layers": [item]}
    tree["layers"][1] = item


def too_deep(content):
    header, body = split(content)
    header["__metadata__"]["fastmlp"] = "[" * 100_000
    return joined(hashed(header, body), body)


def with_array(header, name="9.weight"):
    end = max(e["data_offsets"][1] for n, e in header.items() if n[0] != "_")
    header[name] = {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}


def shifted(header):
    """A gap of eight bytes before the last array."""
    last = max(
        (name for name in header if name[0] != "_"),
        key=lambda name: header[name]["data_offsets"],
    )
    offsets = header[last]["data_offsets"]
    header[last]["data_offsets"] = [offset + 8 for offset in offsets]


def renamed(header):
    header["0.wait"] = header.pop("0.weight")


def overlapping(header):
    header["0.weight"]["data_offsets"] = header["0.bias"]["data_offsets"]
    header["0.weight"]["shape"] = header["0.bias"]["shape"]


def batch_norm(**fields):
    given = {"kind": "BatchNorm", "eps": 1e-5, "momentum": 0.1, "affine": True}
    return layer(**{**given, **fields})


def residual(*layers):
    return in_text(put("layers", 3, {"kind": "Residual", "layers": list(layers)}))


DENSE = {"kind": "Dense", "n": 3, "activation": None, "bias": False, "init": None}


# Faults of a model file, and words of the error message.
FORGERIES = {
    "frozen: not a list": (in_text(lambda t: t.update(frozen="0.weight")), "frozen"),
    "frozen: another layer": (
        in_text(lambda t: t.update(frozen=["9.weight"])),
        r"frozen\[0\] must be",
    ),
    "frozen: a statistic": (
        in_text(lambda t: t.update(frozen=["0.weight", "4.running_mean"])),
        r"frozen\[1\] must",
    ),
    "no header": (with_length(0), "header's length must be from 2 .* got 0"),
    "header too long": (with_length(10**5), "header's length must be .* got 100000"),
    "longest header": (with_length(2**64 - 1), "header's length .* got 18446744"),
    "short header": (with_length(64), "the header is not valid JSON"),
    "no text": (raw(lambda c: c[:8] + b"\xff" + c[9:]), "the header is not UTF-8"),
    "no JSON": (raw(lambda c: c[:8] + b"[" + c[9:]), "the header is not valid JSON"),
    "header is a list": (
        raw(lambda c: joined([1], b"")),
        "the header must be one JSON object",
    ),
    "header begins with a space": (
        raw(lambda c: joined({}, b"")[:8] + b" {}     "),
        "header must be",
    ),
    "duplicate name": (with_text('"0.bias"', '"0.weight"'), "'0.weight' occurs twice"),
    "NaN": (with_text('"shape": [3]', '"shape": [NaN]'), "NaN is not a JSON number"),
    "no metadata": (
        in_header(drop("__metadata__")),
        "__metadata__ must be a JSON object",
    ),
    "metadata is a list": (
        in_header(put("__metadata__", [])),
        "__metadata__ must be a J",
    ),
    "number in metadata": (
        in_header(put("__metadata__", "format", 1)),
        "'format'. must be",
    ),
    "no hash": (
        in_header(drop("__metadata__", "sha256")),
        r"not have the entry __metadata__\['sha256'\]",
    ),
    "no model": (
        in_header(drop("__metadata__", "fastmlp")),
        r"not have the entry __metadata__\['fastmlp'\]",
    ),
    "unknown dtype": (
        in_header(put("0.bias", "dtype", "F31")),
        "0.bias: dtype .* 'F31'",
    ),
    "dtype is a number": (
        in_header(put("0.bias", "dtype", 4)),
        "0.bias: dtype .* got 4",
    ),
    "larger dtype": (
        in_header(put("0.bias", "dtype", "F64")),
        "0.bias: shape .* needs",
    ),
    "integer dtype": (
        in_header(put("0.bias", "dtype", "I32")),
        "0.bias must be a float",
    ),
    "negative shape": (in_header(put("0.bias", "shape", [-3])), "0.bias: shape .*-3"),
    "float in shape": (in_header(put("0.bias", "shape", [3.0])), "0.bias: shape .*3.0"),
    "bool in shape": (
        in_header(put("0.bias", "shape", [True])),
        "0.bias: shape .*True",
    ),
    "shape is a number": (
        in_header(put("0.bias", "shape", 3)),
        "0.bias: shape .* got 3",
    ),
    "shape too large": (in_header(put("0.bias", "shape", [2**62])), "0.bias: .* needs"),
    "shape overflows": (
        in_header(put("0.bias", "shape", [2**32, 2**32, 3])),
        "0.bias: shape .* needs 221360928884514619392 bytes",
    ),
    "transposed shape": (
        in_header(put("0.weight", "shape", [2, 3])),
        "0.weight must be",
    ),
    "flattened shape": (
        in_header(put("0.weight", "shape", [6])),
        r"0.weight .*\(3, 2\)",
    ),
    "one offset": (in_header(put("0.bias", "data_offsets", [3])), "must be two ints"),
    "reversed offsets": (
        in_header(put("0.bias", "data_offsets", [12, 0])),
        "0.bias: .*needs",
    ),
    "offsets beyond the end": (
        in_header(put("0.bias", "data_offsets", [2**40, 2**40 + 12])),
        "0.weight: data_offsets must begin at 8, .* got 20",
    ),
    "no offsets": (
        in_header(drop("0.bias", "data_offsets")),
        "0.bias must have the fields dtype",
    ),
    "extra field": (
        in_header(lambda h: h["0.bias"].update(x=1)),
        "0.bias must have the fields dtype",
    ),
    "no entry": (in_header(put("0.bias", None)), "0.bias must have the fields dtype"),
    "overlap": (in_header(overlapping), "data_offsets must begin at"),
    "a gap": (in_header(shifted), "data_offsets must begin at"),
    "extra bytes": (
        raw(lambda c: c + b"\0"),
        "describes .* bytes of arrays, .* extra bytes",
    ),
    "missing bytes": (
        raw(lambda c: c[:-1]),
        "describes .* bytes of arrays, .* is incomplete",
    ),
    "missing array": (
        in_header(lambda h: put("0.bias", "shape", [3])(h) or renamed(h)),
        "it lacks 1: 0.weight",
    ),
    "extra array": (in_header(with_array), "unexpected arrays: 9.weight"),
    "other arrays": (
        in_header(lambda h: with_array(h, "checkpoint.optimizer.slots")),
        "unexpected arrays: checkpoint.optimizer.slots",
    ),
    "format": (in_text(put("format", "slowmlp")), "format must be 'fastmlp', got 's"),
    "description is a list": (in_text(lambda tree: [tree]), "format must be 'fastmlp'"),
    "version": (in_text(put("version", 2)), "version must be 1, got 2"),
    "bool version": (in_text(put("version", True)), "version must be 1, got True"),
    "no version": (in_text(drop("version")), "version must be 1, got None"),
    "no layers": (in_text(drop("layers")), "missing: layers"),
    "extra entry": (in_text(lambda s: s.update(pickle="")), "unexpected: pickle"),
    "duplicate entry": (
        with_text(r"{\"format\"", r"{\"version\":1,\"format\""),
        "'version' occurs twice|sha256",
    ),
    "too deep": (raw(too_deep), "fastmlp is nested too deeply"),
    "deep": (in_text(nested), "it lacks|deep|recursion"),
    "layers is a number": (in_text(put("layers", 3)), "layers must be a list, got 3"),
    "empty layers": (in_text(put("layers", [])), "layers must be a sequence"),
    "no input width": (
        in_text(put("layers", 0, DENSE)),
        r"layers\[0\] must be an int, the",
    ),
    "width 0": (in_text(put("layers", 1, 0)), r"layers\[1\] must be at least 1, got 0"),
    "negative width": (
        in_text(put("layers", 0, -2)),
        r"layers\[0\] must be at least 1",
    ),
    "float width": (in_text(put("layers", 1, 3.0)), r"layers\[1\] must be an int"),
    "bool width": (in_text(put("layers", 4, True)), r"layers\[4\] must be an int"),
    "str width": (in_text(put("layers", 1, "3")), r"layers\[1\] must be an int"),
    "huge width": (
        in_text(put("layers", 0, 2**62)),
        r"0.weight must be .* of shape \(3, 4611686018427387904\).* got a float32",
    ),
    "other width": (
        in_text(put("layers", 1, 4)),
        "it lacks [0-9]+: 3.projection.weight",
    ),
    "unknown layer": (layer(kind="Conv"), r"layers\[2\].kind must be one of"),
    "layer without kind": (layer(n=3), r"layers\[2\].kind must be a name"),
    "layer of another class": (
        layer(kind="object"),
        r"layers\[2\].kind must be one of",
    ),
    "kind is a list": (layer(kind=["Dense"]), r"layers\[2\].kind must be a name"),
    "dense with extra field": (
        layer(**DENSE, x=1),
        r"layers\[2\] must have .*unexpected: x",
    ),
    "dense with missing field": (
        layer(kind="Dense", n=3),
        r"layers\[2\] must have .*missing: act",
    ),
    "activation": (layer(**{**DENSE, "activation": "rel"}), r"layers\[2\]: activation"),
    "bias is a number": (
        layer(**{**DENSE, "bias": 1}),
        r"layers\[2\]: bias must be True",
    ),
    "unknown init": (
        layer(**{**DENSE, "init": "he"}),
        r"layers\[2\]: init must be one",
    ),
    "init of no kind": (
        layer(**{**DENSE, "init": {}}),
        r"layers\[2\].init.kind must be a name",
    ),
    "init of an unknown kind": (
        layer(**{**DENSE, "init": {"kind": "Normals"}}),
        r"init.kind must be one of .* got 'Normals'; did you mean 'Normal'",
    ),
    "init with too few fields": (
        layer(**{**DENSE, "init": {"kind": "Normal", "std": 1.0}}),
        "init must have the fields kind, std, mean; missing: mean",
    ),
    "init out of range": (
        layer(**{**DENSE, "init": {"kind": "Orthogonal", "gain": -1.0}}),
        r"init: gain must be finite and > 0",
    ),
    "biases by a matrix": (
        layer(
            **{**DENSE, "bias": True, "bias_init": {"kind": "Identity", "gain": 1.0}}
        ),
        r"layers\[2\]: bias_init must not depend",
    ),
    "default bias_init": (
        in_text(lambda s: s.update(bias_init="auto")),
        "bias_init must be one of normal",
    ),
    "eps 0": (batch_norm(eps=0), r"layers\[2\]: eps must be finite and > 0, got 0"),
    "momentum 2": (batch_norm(momentum=2), r"layers\[2\]: momentum .* got 2"),
    "affine": (batch_norm(affine=False), "2.bias|2.weight"),
    "other norm": (layer(kind="LayerNorm", eps=1e-5, affine=True), "2.running_mean"),
    "dropout": (layer(kind="Dropout", p=1.0), r"layers\[2\]: p must be"),
    "schedule": (
        layer(kind="Dropout", p={"schedule": "exec", "lr": 0.1}),
        r"layers\[2\]\.p\.schedule must be one of",
    ),
    "schedule without a name": (
        layer(kind="Dropout", p={"lr": 0.1}),
        r"layers\[2\]: p must be a number",
    ),
    "abstract schedule": (
        layer(kind="Dropout", p={"schedule": "Schedule"}),
        r"layers\[2\]: Schedule is abstract",
    ),
    "schedule with a state": (
        layer(kind="Dropout", p={"schedule": "ReduceOnPlateau"}),
        r"layers\[2\]\.p must have the fields schedule, lr",
    ),
    "fields of a schedule": (
        layer(kind="Dropout", p={"schedule": "Constant", "rate": 0.1}),
        r"layers\[2\]\.p must have the fields schedule, lr; missing: lr",
    ),
    "schedule in a schedule": (
        layer(
            kind="Dropout",
            p={
                "schedule": "LinearWarmup",
                "after": {"schedule": "Constant", "lr": -1.0},
                "steps": 2,
                "start_factor": 0.0,
            },
        ),
        r"layers\[2\]\.p\.after: lr must be finite and >= 0",
    ),
    "values of a schedule": (
        layer(kind="Dropout", p={"schedule": "Constant", "lr": 1.0}),
        r"layers\[2\]: p must be finite and >= 0 and < 1",
    ),
    "function": (
        layer(kind="Activation", function="exec"),
        r"layers\[2\].function must be one of",
    ),
    "function without name": (layer(kind="Activation", function=None), "missing: name"),
    "function's name": (
        layer(kind="Activation", function=None, name=3),
        r"layers\[2\].name must be a str",
    ),
    "custom function": (
        in_text(
            lambda s: s["layers"].insert(
                3, {"kind": "Activation", "function": None, "name": "os.system"}
            )
        ),
        "it lacks [0-9]+: .*body.0.weight",
    ),
    "body empty": (residual(), r"layers\[3\].layers must be a sequence"),
    "body's width": (residual({**DENSE, "n": 0}), r"layers\[3\].layers\[0\]: Dense: n"),
    "body's bias": (residual({**DENSE, "bias": True}), "it lacks 1: 3.body.0.bias"),
    "default activation": (in_text(put("activation", "no")), "^.*: activation must be"),
    "output activation": (
        in_text(put("output_activation", 1)),
        "output_activation must",
    ),
    "default init": (in_text(put("init", None)), "init must be a name"),
    "default bias": (
        in_text(put("bias", False)),
        "unexpected arrays: 0.bias",
    ),
    "default bias 1": (in_text(put("bias", 1)), "bias must be True or False, got 1"),
    "dtype": (in_text(put("dtype", "float16")), "dtype must be one of"),
    "wider dtype": (in_text(put("dtype", "float64")), "must be a float64 array"),
    "training": (in_text(put("training", [])), "training must be a JSON object"),
    "no seed": (
        in_text(drop("training", "seed")),
        "training must have .*missing: seed",
    ),
    "seed": (in_text(put("training", "seed", -1)), "training.seed must be at least 0"),
    "seed too large": (in_text(put("training", "seed", 2**64)), "below 2..64, got"),
    "float seed": (in_text(put("training", "seed", 1.0)), "training.seed must be an"),
    "epochs": (in_text(put("training", "epochs", -1)), "training.epochs must be at le"),
    "too many epochs": (
        in_text(put("training", "epochs", 2**32)),
        "epochs must be below",
    ),
    "state": (
        in_text(put("training", "state", [1, 2])),
        "training.state must be a list of three",
    ),
    "passes": (in_text(put("training", "state", 1, None)), r"training.state\[1\] must"),
    "tracked": (
        in_text(put("training", "state", 2, 1)),
        "2.num_batches_tracked must be 1",
    ),
    "within": (in_text(put("training", "within", 3)), "training.within must be a JSO"),
    "within with two marks": (
        in_text(put("training", "within", {"a": 1, "b": 2})),
        "training.within must have exactly one key",
    ),
    "unknown mark": (
        in_text(put("training", "within", {"pickle": "x"})),
        "training.within is not a value .* kind is 'pickle'",
    ),
    "history": (in_text(put("history", [1.0])), "history must be a JSON object"),
    "checkpoint": (in_text(put("checkpoint", {"dict": {}})), "checkpoint must have"),
}


def refused(path, content, words, load=fm.load):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        load(path)
    assert str(caught.value).startswith(f"path: {path}")


@pytest.mark.parametrize("name", FORGERIES)
def test_false_entries_are_refused(name, model, tmp_path):
    forge, words = FORGERIES[name]
    # With the hash that matches the false entry, and with the original hash.
    refused(tmp_path / "a", forge(model, True), words)
    refused(tmp_path / "a", forge(model, False), ".")


def test_undamaged_files_are_loaded(model, tmp_path):
    """The helper functions leave a file valid if they change nothing."""
    path = tmp_path / "a"
    path.write_bytes(in_text(lambda tree: None)(model, True))
    mlp = fm.load(path)
    path.write_bytes(model)
    assert state(fm.load(path)) == state(mlp)
    header, body = split(model)
    assert joined(hashed(header, body), body) == model


def part(name, change):
    """A false entry in a part of a checkpoint."""
    return in_text(lambda tree: change(tree["checkpoint"][name]))


def stop_state(*place):
    """A false entry in the state of early stopping."""
    marked = ("dict", "state", "dict")
    return in_text(
        lambda tree: put(*marked, *place)(tree["checkpoint"]["callbacks"][0])
    )


def schedule(*place):
    marked = ("dict", "hyper", "dict", "lr", "schedule")
    return part("optimizer", put(*marked, *place))


def slot(*place):
    return part("optimizer", put("dict", "slots", 0, "dict", *place))


ADAM = "checkpoint.optimizer.slots.0."


CHECKPOINT_FORGERIES = {
    "within": (
        in_text(put("training", "within", "dict", "steps", 99)),
        "training.within.steps must be at most 5, the number of steps .*, got 99",
    ),
    "float steps": (
        in_text(put("training", "within", "dict", "steps", 1.0)),
        "training.within.steps must be an int",
    ),
    "total": (in_text(put("training", "within", "dict", "total", "1")), "within.total"),
    "of": (in_text(put("training", "within", "dict", "of", [1])), "within.of must be"),
    "str in of": (
        in_text(put("training", "within", "dict", "of", 1, "x")),
        r"within.of\[1\] must be an int",
    ),
    "losses": (
        in_text(put("history", "dict", "loss", 1)),
        "history.loss must be a list",
    ),
    "a loss": (
        in_text(put("history", "dict", "loss", 0, "low")),
        r"history.loss\[0\] must be a number",
    ),
    "missing loss": (
        in_text(put("history", "dict", "loss", [1.0])),
        "seconds must be as long as",
    ),
    "metrics": (in_text(put("history", "dict", "metrics", [])), "history.metrics must"),
    "a metric": (
        in_text(put("history", "dict", "metrics", "dict", {"val_r2": 3})),
        "history.metrics.val_r2 must be a list",
    ),
    "unknown number": (
        in_text(put("history", "dict", "loss", 0, {"number": "1e5"})),
        "history.loss.0 is not a value .* kind is 'number'",
    ),
    "no callbacks": (in_text(drop("checkpoint", "callbacks")), "missing: callbacks"),
    "model": (in_text(put("checkpoint", "steps", [])), "does not match mlp"),
    "kind": (
        part("optimizer", put("dict", "kind", "sgd")),
        "must be 'adam', got 'sgd'",
    ),
    "step": (part("optimizer", put("dict", "step", -1)), r"state\['step'\] must be"),
    "str step": (
        part("optimizer", put("dict", "step", "5")),
        r"state\['step'\] must",
    ),
    "betas": (
        part("optimizer", put("dict", "hyper", "dict", "betas", "tuple", 0, 1.5)),
        r"betas\[0\] must be",
    ),
    "hyper": (
        part("optimizer", drop("dict", "hyper", "dict", "eps")),
        "must have the ke",
    ),
    "schedule": (schedule("kind", "Step"), "class Step, but the optimizer"),
    "schedule's steps": (
        schedule("fields", "dict", "steps", 0),
        "steps must be at least",
    ),
    "schedule within": (
        schedule("fields", "dict", "after", "schedule", "fields", "dict", "lr", -1.0),
        "lr must be finite and >= 0",
    ),
    "schedule's fields": (
        schedule("fields", {"dict": {}}),
        "checkpoint.optimizer.hyper.lr must have .*missing: after",
    ),
    "no slots": (
        part("optimizer", put("dict", "slots", {"dict": {}})),
        "unexpected arrays: checkpoint.optimizer.slots",
    ),
    "no array": (slot("exp_avg", {"array": "9"}), "the array '9' is missing"),
    "array of another slot": (
        slot("exp_avg", {"array": f"{ADAM}ema"}),
        "is used more than once",
    ),
    "array of the model": (
        slot("exp_avg", {"array": "0.bias"}),
        "array '0.bias' is missing",
    ),
    "array is a number": (slot("exp_avg", 1.0), "unexpected arrays"),
    "slot's dtype": (
        in_header(put(f"{ADAM}exp_avg", "dtype", "I32")),
        r"slots'\]\[0\]\['exp_avg'\] must be a 1-D array of float32",
    ),
    "slot's shape": (
        in_header(lambda h: h[f"{ADAM}exp_avg"]["shape"].insert(0, 1)),
        r"slots'\]\[0\]\['exp_avg'\] must be a 1-D array",
    ),
    "bytes": (
        slot(
            "exp_avg",
            {"bytes": {"array": f"{ADAM}exp_avg", "dtype": "O", "shape": [1]}},
        ),
        "dtype must be a boolean, numeric, .* got 'O'",
    ),
    "bytes of another size": (
        slot(
            "exp_avg",
            {"bytes": {"array": f"{ADAM}exp_avg", "dtype": "<f4", "shape": [2**70]}},
        ),
        "shape must be at most .* got an int of 71 bits",
    ),
    "callbacks": (
        part("callbacks", put(0, {"dict": {}})),
        "unexpected arrays: check",
    ),
    "callbacks is a dict": (
        in_text(put("checkpoint", "callbacks", {"dict": {}})),
        "unexpected arrays",
    ),
    "callback without kind": (
        part("callbacks", drop(0, "dict", "kind")),
        r"callbacks\[0\] must have the fields kind, state; missing: kind",
    ),
    "callback's kind": (
        part("callbacks", put(0, "dict", "kind", "Odd")),
        "must match those of the checkpoint .Odd, Checkpoint",
    ),
    "callback's state": (
        part("callbacks", put(1, "dict", "state", 3)),
        r"callbacks\[1\].state must be a JSON object",
    ),
    "checkpoint's epoch": (
        part("callbacks", put(1, "dict", "state", "dict", "epoch", 0.5)),
        r"callbacks\[1\].state.epoch must be an int",
    ),
    "best": (stop_state("best", "low"), r"callbacks\[0\].state.best must be a float"),
    "best epoch": (
        stop_state("best_epoch", 9),
        "best_epoch must be at most .*epoch, 3",
    ),
    "kept": (
        stop_state("kept", [1]),
        "unexpected arrays: checkpoint.callbacks.0",
    ),
    "kept with missing field": (
        part(
            "callbacks",
            drop(0, "dict", "state", "dict", "kept", "dict", "training_state"),
        ),
        r"callbacks\[0\].state.kept must have .*missing: training_state",
    ),
    "kept state": (
        stop_state("kept", "dict", "training_state", [1, 2]),
        "kept.training_state must be a list of three ints, got a list of length 2",
    ),
    "kept statistics": (
        stop_state("kept", "dict", "buffers", None),
        "unexpected arrays: checkpoint.callbacks.0.state.kept.buffers",
    ),
    "kept parameters": (
        in_header(
            lambda h: h["checkpoint.callbacks.0.state.kept.params"]["shape"].insert(
                0, 1
            )
        ),
        r"callbacks\[0\].state.kept.params must be a float32 array of shape",
    ),
    "kept optimiser": (
        stop_state("kept", "dict", "optimizer", "dict", "step", -1),
        r"state\['step'\] must be at least 0",
    ),
}


@pytest.mark.parametrize("name", CHECKPOINT_FORGERIES)
def test_false_entries_of_checkpoints_are_refused(name, checkpoint, tmp_path):
    forge, words = CHECKPOINT_FORGERIES[name]
    mlp, opt, stop = parts_of_a_training(seed=9)
    before = state(mlp), pickle.dumps(opt.state_dict()), stop.state_dict()
    hooks = [stop, fm.Checkpoint("a")]

    def load(path):
        fm.Checkpoint.load(path, mlp, opt, hooks)

    refused(tmp_path / "a", forge(checkpoint, True), words, load)
    refused(tmp_path / "a", forge(checkpoint, False), ".", load)
    # Nothing has changed.
    assert (state(mlp), pickle.dumps(opt.state_dict()), stop.state_dict()) == before
    assert mlp.history is None
    (tmp_path / "a").write_bytes(checkpoint)
    load(tmp_path / "a")
    assert len(mlp.history) == 3


@pytest.mark.filterwarnings("ignore:.*also holds the state of")
@pytest.mark.parametrize("field", ["_now", "_best", "_bad", "_resting"])
def test_false_observations_of_a_schedule_are_refused(field, tmp_path):
    path = tmp_path / "a"

    def rate():
        return schedules.ReduceOnPlateau(0.01)

    mlp, opt, stop = parts_of_a_training(rate=rate)
    run(mlp, opt, stop, fm.Checkpoint(path), 2)
    content = path.read_bytes()
    fm.Checkpoint.load(path, mlp, opt)
    for value in ("x", None) if field == "_best" else ("x", None, -1, -1.0):
        forged = schedule("fields", "dict", field, value)(content, True)
        words = rf"lr\.{field} must be"
        refused(path, forged, words, lambda p: fm.Checkpoint.load(p, mlp, opt))


WRONG = (None, True, -1, 0.5, "x", [], {}, 2**70, [[]], {"dict": {}})


def places(tree, place=()):
    """All places of a JSON tree, each given by its keys."""
    yield place
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    for key, item in tree.items() if isinstance(tree, dict) else ():
        yield from places(item, (*place, key))


def test_wrong_values_are_refused_or_harmless(model, checkpoint, tmp_path):
    """Any value at any place in the text gives an error or a model, never a crash."""
    path = tmp_path / "a"
    mlp, opt, stop = parts_of_a_training(seed=9)
    hooks = [stop, fm.Checkpoint("a")]
    refusals, harmless = 0, []
    for content, load in (
        (model, fm.load),
        (checkpoint, lambda p: fm.Checkpoint.load(p, mlp, opt, hooks)),
    ):
        tree = json.loads(split(content)[0]["__metadata__"]["fastmlp"])
        for place in list(places(tree))[1:]:
            for value in WRONG:
                path.write_bytes(in_text(put(*place, value))(content, True))
                try:
                    load(path)
                except ValueError as error:
                    refusals += str(error).startswith(f"path: {path}")
                else:
                    harmless.append((place[0], place[-1]))
    assert refusals > 2000
    # The others are possible values, such as another eps or loss.
    possible = {
        "layers": {"activation", "affine", "eps", "init", "momentum", "p"},
        "bias": {"bias"},
        "training": {"within", "total", "divisor", 0, 1, 2},
        "history": {"history", "dict", "val_loss", "metrics", 0, 1, 2},
        "checkpoint": {"checkpoint", "model", "lr"},
    }
    assert all(last in possible[first] for first, last in harmless)


def test_a_file_cut_anywhere_is_refused(model, checkpoint, tmp_path):
    path = tmp_path / "a"
    for end in range(len(model)):
        refused(path, model[:end], "is not a model")
    # Cut at every byte near the end of the header, and at some bytes elsewhere.
    mlp, opt, _ = parts_of_a_training()
    length = 8 + int.from_bytes(checkpoint[:8], "little")
    cuts = {*range(0, len(checkpoint), 7), *range(length - 20, length + 20)}
    for end in sorted(cuts):
        refused(
            path,
            checkpoint[:end],
            "not a checkpoint",
            lambda p: fm.Checkpoint.load(p, mlp, opt),
        )


def test_a_flipped_bit_anywhere_is_refused(model, tmp_path):
    path = tmp_path / "a"
    for at in range(len(model)):
        # All bits of the header's length, and one bit of every other byte, in rotation.
        for bit in range(8) if at < 8 else [at % 8]:
            changed = bytearray(model)
            changed[at] ^= 1 << bit
            with pytest.raises(
                ValueError, match="is not a model file that this version"
            ):
                load_bytes(bytes(changed), path)


def load_bytes(content, path):
    path.write_bytes(content)
    return fm.load(path)


def test_other_programs_files_are_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "a"
    save_file({"0.weight": np.ones((2, 3), "f"), "0.bias": np.ones(2, "f")}, path)
    with pytest.raises(ValueError, match=r"__metadata__ must be a JSON object"):
        fm.load(path)
    save_file({"0.weight": np.ones((2, 3), "f")}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"does not have the entry .*'sha256'\]"):
        fm.load(path)
    path.write_bytes(pickle.dumps(fm.MLP([2, 1])))
    with pytest.raises(ValueError, match=r"is not a model file that this version"):
        fm.load(path)


def test_large_lengths_are_refused_before_anything_is_read(tmp_path):
    """The file is as long as its header claims, but sparse."""
    path = tmp_path / "a"
    with path.open("wb") as file:
        file.write((safetensors.HEADER_LIMIT + 1).to_bytes(8, "little"))
        file.truncate(2 * safetensors.HEADER_LIMIT)
    with pytest.raises(ValueError, match=r"length must be from 2 to 10000000 bytes"):
        fm.load(path)
