import json
import os
import pickle
import traceback
from argparse import Namespace

import pytest
import torch
from safetensors.torch import save_file

from simvtp.conversion import read_weights

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


class Attack:
    """Runs a command when it is unpickled in earnest."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def same(tensors):
    assert tensors.keys() == WEIGHTS.keys()
    assert all(torch.equal(tensors[name], WEIGHTS[name]) for name in WEIGHTS)


@pytest.mark.parametrize("key", ["model", "module", "state_dict", "model_state_dict", None])
@pytest.mark.parametrize("old_format", [False, True])
def test_files_of_torch_save(tmp_path, key, old_format):
    value = WEIGHTS if key is None else {"epoch": 3, key: WEIGHTS, "args": Namespace(lr=0.1)}
    file = tmp_path / "weights.anything"
    torch.save(value, file, _use_new_zipfile_serialization=not old_format)
    weights = read_weights(file)
    same(weights.tensors)
    assert (weights.files, weights.config) == ((file,), {})


def test_safetensors_are_known_by_their_bytes(tmp_path):
    save_file(WEIGHTS, tmp_path / "weights.pth")
    same(read_weights(tmp_path / "weights.pth").tensors)


def test_folder_of_deepspeed(tmp_path):
    state = {"module": WEIGHTS, "param_shapes": [{"a.bias": torch.Size([2])}], "ds_config": {}}
    torch.save(state, tmp_path / "mp_rank_00_model_states.pt")
    same(read_weights(tmp_path).tensors)
    torch.save(state, tmp_path / "mp_rank_01_model_states.pt")
    with pytest.raises(ValueError, match="split over several devices"):
        read_weights(tmp_path)


PREFIXES = [
    *("module.", "_orig_mod.", "model.", "backbone.", "_orig_mod.module.", "module._orig_mod."),
    *("model._orig_mod.module.backbone.", "module.module.model.model.", "ema_model.module."),
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("form", ["torch", "safetensors", "shards", "torch shards"])
def test_prefixes_are_taken_off_until_none_is_left(tmp_path, prefix, form):
    named = {f"{prefix}{name}": tensor for name, tensor in WEIGHTS.items()}
    write, suffix = (save_file, "safetensors") if "torch" not in form else (torch.save, "bin")
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    if "shards" in form:
        files = {name: f"{stem}-{number}.{suffix}" for number, name in enumerate(named)}
        for name, file in files.items():
            write({name: named[name]}, tmp_path / file)
        index = tmp_path / f"{stem}.{suffix}.index.json"
        index.write_text(json.dumps({"weight_map": files}))
    else:
        write(named, tmp_path / f"{stem}.{suffix}")
    same(read_weights(tmp_path).tensors)


@pytest.mark.parametrize("name", ["a.{}.weight", "{}.a.{}.weight", "model.{}.a.weight"])
@pytest.mark.parametrize(
    "wrapper", ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]
)
def test_wrappers_of_parts_are_taken_off_inside_names(tmp_path, name, wrapper):
    other = "model.a.bias" if name.startswith("model") else "a.bias"
    state = {name.replace("{}", wrapper): WEIGHTS["a.weight"], other: WEIGHTS["a.bias"]}
    save_file(state, tmp_path / "weights")
    same(read_weights(tmp_path / "weights").tensors)


def test_a_prefix_that_not_all_names_have_stays(tmp_path):
    save_file({"model.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "weights")
    assert set(read_weights(tmp_path / "weights").tensors) == {"model.a", "b"}
    save_file({"model": torch.ones(1)}, tmp_path / "weights")
    assert set(read_weights(tmp_path / "weights").tensors) == {"model"}


def test_two_tensors_that_have_one_name_without_their_wrappers(tmp_path):
    state = {"a.weight": torch.ones(1), "a._orig_mod.weight": torch.zeros(1)}
    save_file(state, tmp_path / "weights")
    with pytest.raises(ValueError, match=r"two names for a\.weight: a.*_orig_mod"):
        read_weights(tmp_path / "weights")


def test_two_shards_that_hold_one_tensor(tmp_path):
    for number in range(2):
        save_file(WEIGHTS, tmp_path / f"{number}.safetensors")
    names = {"a.weight": "0.safetensors", "a.bias": "1.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ValueError, match=r"1\.safetensors repeats a\.bias"):
        read_weights(tmp_path)


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema", "ema", "anything"])
def test_files_of_averaged_weights_alone(tmp_path, key):
    model = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(3, 2))
    torch.save({key: model.state_dict(), "epoch": 3}, tmp_path / "weights.pth")
    weights = read_weights(tmp_path / "weights.pth")
    assert (set(weights.tensors), weights.state, weights.others) == ({"weight", "bias"}, key, ())


def test_further_weights_are_listed_and_can_be_chosen(tmp_path):
    other = {name: tensor + 1 for name, tensor in WEIGHTS.items()}
    value = {"model_ema": other, "model": WEIGHTS, "optimizer": {"state": {0: torch.ones(1)}}}
    torch.save(value, tmp_path / "weights.pth")
    weights = read_weights(tmp_path / "weights.pth")
    same(weights.tensors)
    assert (weights.state, weights.others) == ("model", ("model_ema",))
    weights = read_weights(tmp_path / "weights.pth", state="model_ema")
    assert all(torch.equal(weights.tensors[name], other[name]) for name in other)
    assert (weights.state, weights.others) == ("model_ema", ("model",))
    with pytest.raises(ValueError, match="under 'ema'; it has model_ema, model"):
        read_weights(tmp_path / "weights.pth", state="ema")
    torch.save({"student": WEIGHTS, "teacher": other}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="--state takes one of student, teacher"):
        read_weights(tmp_path / "weights.pth")


def torch_module(file):
    torch.save(torch.nn.Linear(2, 2), file)


def torch_dtype_function(file):
    file.write_bytes(pickle.dumps({"a": print}, protocol=2))


def unknown_opcode(file):
    file.write_bytes(pickle.dumps({"a": {1, 2}}, protocol=4))


@pytest.mark.parametrize("write", [torch_module, torch_dtype_function, unknown_opcode])
def test_advice_to_read_files_in_earnest_never_arrives(tmp_path, write):
    write(tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth") as caught:
        read_weights(tmp_path / "weights.pth")
    shown = "".join(traceback.format_exception(caught.value))
    assert "weights_only" not in str(caught.value)
    assert "Re-running" not in shown
    assert "arbitrary code" not in shown


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("inside", ["weights", "namespace"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, old_format, inside):
    trace, file = tmp_path / "trace", tmp_path / "weights.pth"
    attack = Attack(trace)
    arguments = Namespace(lr=0.1, model=attack if inside == "namespace" else None)
    value = {"model": {**WEIGHTS, "b": attack} if inside == "weights" else WEIGHTS}
    torch.save({**value, "args": arguments}, file, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(ValueError, match=r"asks for posix\.system, which could run any code"):
        read_weights(file)
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()


def test_a_bare_pickle_is_refused_and_does_not_run(tmp_path):
    trace, file = tmp_path / "trace", tmp_path / "weights.bin"
    file.write_bytes(pickle.dumps(Attack(trace), protocol=2))
    with pytest.raises(ValueError, match=r"weights\.bin"):
        read_weights(file)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: file.write_bytes(b""), "is empty"),
        (lambda file: file.write_bytes(b"\x00" * 100), "cannot be read as a file of torch.save"),
        (lambda file: file.write_text("weights"), "cannot be read as a file of torch.save"),
        (lambda file: file.write_text('12345678{"a": 1}'), "not a whole safetensors file"),
        (lambda file: torch.save([1, 2], file), "must hold named tensors, got list"),
        (lambda file: torch.save({}, file), "it holds none"),
        (lambda file: torch.save({"lr": 0.1, "step": 3}, file), "these are none: lr, step"),
        (lambda file: torch.save({"model": {"a": 3}}, file), "these are none: a"),
        (lambda file: torch.save(torch.nn.Linear(2, 2), file), "asks for torch.nn"),
    ],
)
def test_files_that_hold_no_weights(tmp_path, write, message):
    write(tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "weights.pth")


@pytest.mark.parametrize("form", ["torch", "old torch", "safetensors"])
def test_truncated_files(tmp_path, form):
    file = tmp_path / "weights"
    if form == "safetensors":
        save_file(WEIGHTS, file)
    else:
        torch.save(WEIGHTS, file, _use_new_zipfile_serialization=form == "torch")
    whole = file.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="weights"):
            read_weights(file)


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="nothing is downloaded"):
        read_weights(tmp_path / "none.pth")
    (tmp_path / "base.pth").touch()
    with pytest.raises(ValueError, match=r"holds none of .*which may be one of base\.pth"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold a JSON object"),
        ('{"weight_map": 3}', "must hold a weight_map"),
        ('{"weight_map": {"a.bias": "model-2.safetensors"}}', "model-2.*no file beside it"),
        ('{"weight_map": {"a.bias": "../out.safetensors"}}', "not a file beside it"),
        (json.dumps({"weight_map": {"c": "part.safetensors"}}), "1 tensors that its files lack.*c"),
    ],
)
def test_bad_lists_of_shards(tmp_path, index, message):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(WEIGHTS, tmp_path / "out.safetensors")
    save_file(WEIGHTS, folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=message):
        read_weights(folder)
