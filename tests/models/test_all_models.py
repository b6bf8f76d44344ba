"""What every model of the registration table must do, on tiny configurations."""

import inspect
import json

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file, save_file
from tiny_models import TINY_MODELS, build, heads, targets
from torch.utils.data import Dataset
from transformers import AutoConfig, Trainer, TrainerCallback, TrainingArguments

from ecg_transformers.registration import MODELS

every_model = pytest.mark.parametrize("entry", MODELS, ids=lambda entry: entry.model_type)
every_head = pytest.mark.parametrize(
    "entry, auto_class", heads(), ids=lambda value: value if isinstance(value, str) else value.model_type
)
trainable_heads = pytest.mark.parametrize(
    "entry, auto_class",
    [head for head in heads() if head[1] != "AutoModel"],
    ids=lambda value: value if isinstance(value, str) else value.model_type,
)


def tensors_of(output):
    """All tensors of an output, in order."""
    if isinstance(output, torch.Tensor):
        return [output]
    values = output.to_tuple() if hasattr(output, "to_tuple") else output
    return [tensor for value in values for tensor in tensors_of(value)]


def assert_same(first, second, atol=0.0, rtol=0.0):
    first, second = tensors_of(first), tensors_of(second)
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=rtol)


def without(output, names):
    return tuple(value for name, value in output.items() if name not in names)


def run(model, inputs, **options):
    with torch.no_grad():
        return model(**inputs, **options)


def tiny(entry):
    return TINY_MODELS[entry.model_type]


def inputs_of(entry, auto_class, records, padded=False):
    """The tiny inputs that a head takes; a head may read one of two modalities only."""
    taken = inspect.signature(entry.get_model_class(auto_class).forward).parameters
    return {name: value for name, value in tiny(entry).inputs(records, padded).items() if name in taken}


def per_record(entry, output):
    """All tensors of an output that hold a row per record, and nothing that pairs records."""
    return tensors_of([value for name, value in output.items() if name not in tiny(entry).joint_outputs])


def settled(entry, auto_class):
    """Fields with which a head in training gives the same loss again, and the same in parts of a batch."""
    return tiny(entry).deterministic | tiny(entry).additive.get(auto_class, {})


@every_model
def test_every_model_is_tiny_here(entry):
    for auto_class in entry.model_classes:
        assert sum(parameter.numel() for parameter in build(entry, auto_class).parameters()) < 100_000


@every_head
def test_saving_and_loading(entry, auto_class, tmp_path):
    model = build(entry, auto_class)
    model.save_pretrained(tmp_path)
    inputs = inputs_of(entry, auto_class, 2, padded=True)
    expected = run(model, inputs)
    for loader in (type(model), getattr(transformers, auto_class)):
        again, info = loader.from_pretrained(tmp_path, output_loading_info=True)
        assert type(again) is type(model)
        assert not any(info.values())
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), name
        for name, buffer in model.named_buffers():
            assert torch.equal(buffer, again.get_buffer(name)), name
        # Where tensors lie in memory decides about the last digit
        assert_same(expected, run(again.eval(), inputs), atol=1e-6)
        assert dict(model.named_buffers()).keys() == dict(again.named_buffers()).keys()
    assert set(load_file(tmp_path / "model.safetensors")) <= set(model.state_dict())


@trainable_heads
def test_backbone_and_head_exchange_weights(entry, auto_class, tmp_path):
    base, head = build(entry, "AutoModel"), build(entry, auto_class)
    base.save_pretrained(tmp_path / "base")
    head.save_pretrained(tmp_path / "head")
    prefix = head.base_model_prefix + "."

    loaded, info = type(head).from_pretrained(tmp_path / "base", output_loading_info=True)
    new = {name for name in head.state_dict() if not name.startswith(prefix)}
    assert set(info["missing_keys"]) == new
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    dropped = tiny(entry).base_only if auto_class == "AutoModelForSequenceClassification" else ()
    for name, value in base.state_dict().items():
        if name.startswith(dropped):
            assert prefix + name not in loaded.state_dict()
        else:
            assert torch.equal(value, loaded.state_dict()[prefix + name]), name

    loaded, info = type(base).from_pretrained(tmp_path / "head", output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, head.state_dict()[prefix + name]), name


@every_model
def test_another_number_of_labels(entry, tmp_path):
    model = build(entry, "AutoModelForSequenceClassification")
    model.save_pretrained(tmp_path)
    loader = transformers.AutoModelForSequenceClassification
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        loader.from_pretrained(tmp_path, num_labels=5)
    again = loader.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    logits = run(again.eval(), inputs_of(entry, "AutoModelForSequenceClassification", 2)).logits
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@every_head
def test_each_parameter_left_out_is_initialised(entry, auto_class, tmp_path):
    model = build(entry, auto_class)
    model.save_pretrained(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    for name in whole:
        save_file({key: value for key, value in whole.items() if key != name}, tmp_path / "model.safetensors")
        loaded = []
        for garbage in (torch.nan, 3.0e38):
            # Memory that has just been freed: what nobody initialises is likely to show it
            filling = garbage if whole[name].is_floating_point() else torch.iinfo(whole[name].dtype).max
            del_me = [torch.full_like(whole[name], filling) for _ in range(8)]
            del del_me
            torch.manual_seed(5)
            again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
            tied = {other for other, source in model.all_tied_weights_keys.items() if source == name}
            assert set(info["missing_keys"]) - tied == {name}
            loaded.append(again.state_dict())
        for key, value in loaded[0].items():
            assert value.isfinite().all(), key
            assert value.abs().max() < 100, key
            assert torch.equal(value, loaded[1][key]), f"{key} is not seeded when {name} is left out"
            saved_as = model.all_tied_weights_keys.get(key, key)
            if saved_as != name:
                assert torch.equal(value, whole[saved_as]), f"{key} changed when {name} was left out"


@every_head
def test_eager_attention_equals_sdpa(entry, auto_class):
    if not tiny(entry).has_attention:
        pytest.skip("no attention in this architecture")
    eager, sdpa = build(entry, auto_class, eager=True), build(entry, auto_class)
    assert sdpa.config._attn_implementation == "sdpa"
    for padded in (False, True):
        inputs = inputs_of(entry, auto_class, 3, padded)
        assert_same(run(eager, inputs), run(sdpa, inputs), atol=3e-5)


@every_head
def test_hidden_states_and_attentions(entry, auto_class):
    model = build(entry, auto_class, eager=True)
    inputs = inputs_of(entry, auto_class, 2)
    output = run(model, inputs, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) == model.config.num_hidden_layers + 1
    attentions = output.get("attentions") or ()
    assert len(attentions) == (model.config.num_hidden_layers if tiny(entry).has_attention else 0)
    for attention in attentions:
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))
    assert run(model, inputs).get("hidden_states") is None


@every_head
def test_tuples(entry, auto_class):
    model = build(entry, auto_class)
    inputs = inputs_of(entry, auto_class, 2, padded=True)
    if auto_class != "AutoModel":
        inputs |= targets(entry, auto_class, 2)
    for options in ({}, {"output_hidden_states": True}):
        as_tuple = run(model, inputs, return_dict=False, **options)
        assert isinstance(as_tuple, tuple)
        assert_same(as_tuple, run(model, inputs, **options))


@trainable_heads
def test_gradient_checkpointing(entry, auto_class):
    gradients = []
    for checkpointing in (False, True):
        model = build(entry, auto_class, **settled(entry, auto_class)).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        loss = model(**inputs_of(entry, auto_class, 2, padded=True), **targets(entry, auto_class, 2)).loss
        loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-5)


@every_head
@pytest.mark.parametrize("padded", [False, True])
def test_a_record_alone_equals_a_record_in_company(entry, auto_class, padded):
    model = build(entry, auto_class)
    inputs = inputs_of(entry, auto_class, 4, padded)
    together = per_record(entry, run(model, inputs))
    for row in range(4):
        alone = run(model, {name: value[row : row + 1] for name, value in inputs.items()})
        assert_same(per_record(entry, alone), [value[row : row + 1] for value in together], atol=3e-5)


@every_head
def test_padding_changes_nothing(entry, auto_class):
    if tiny(entry).padding_proof is None:
        pytest.skip("padding reaches real samples in this architecture")
    model = build(entry, auto_class, **tiny(entry).padding_proof)
    padded = inputs_of(entry, auto_class, 2, padded=True)
    real = padded["attention_mask"][0].sum()
    short = padded | {"input_values": padded["input_values"][..., :real]}
    del short["attention_mask"]
    dim = tiny(entry).token_dim
    shorter, longer = tensors_of(run(model, short)), tensors_of(run(model, padded))
    for one, other in zip(shorter, longer, strict=True):
        kept = other.narrow(dim, 0, one.shape[dim]) if one.shape != other.shape else other
        torch.testing.assert_close(one, kept, atol=1e-5, rtol=0)
    outside = (padded["attention_mask"] == 0).reshape(2, *[1] * (padded["input_values"].ndim - 2), -1)
    garbage = padded | {"input_values": padded["input_values"].masked_fill(outside, 50.0)}
    for one, before, after in zip(shorter, longer, tensors_of(run(model, garbage)), strict=True):
        if one.shape != before.shape:
            before, after = (values.narrow(dim, 0, one.shape[dim]) for values in (before, after))
        torch.testing.assert_close(before, after, atol=1e-5, rtol=0)


@every_head
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("eager", [False, True], ids=["sdpa", "eager"])
def test_half_precision_is_finite(entry, auto_class, dtype, eager):
    model = build(entry, auto_class, eager=eager).to(dtype)
    inputs = inputs_of(entry, auto_class, 3, padded=True)
    inputs["attention_mask"][0] = 0
    if auto_class != "AutoModel":
        inputs |= targets(entry, auto_class, 3)
    model.train()
    output = model(**inputs)
    assert all(tensor.isfinite().all() for tensor in tensors_of(without(output, tiny(entry).excluding)))
    assert not any(tensor.isnan().any() for tensor in tensors_of(output))
    if auto_class != "AutoModel":
        output.loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@every_head
def test_a_blank_record_is_finite(entry, auto_class):
    inputs = inputs_of(entry, auto_class, 2, padded=True)
    inputs["attention_mask"][0] = 0
    inputs["input_values"][0] = 0
    for eager in (False, True):
        output = run(build(entry, auto_class, eager=eager), inputs)
        assert all(tensor.isfinite().all() for tensor in tensors_of(output))


@every_head
@pytest.mark.parametrize("padded", [False, True])
def test_export_with_a_dynamic_batch(entry, auto_class, padded):
    model = build(entry, auto_class)
    inputs = inputs_of(entry, auto_class, 2, padded)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        model, args=(), kwargs=inputs, dynamic_shapes={name: {0: batch} for name in inputs}, strict=False
    )
    for records in (1, 5):
        inputs = inputs_of(entry, auto_class, records, padded)
        assert_same(program.module()(**inputs), run(model, inputs), atol=3e-5)


@every_head
def test_compiles_without_graph_breaks(entry, auto_class):
    torch._dynamo.reset()
    model = build(entry, auto_class)
    # Before, transformers' own layers write to a log, which breaks the graph
    whole = Version(transformers.__version__) >= Version("5.23")
    compiled = torch.compile(model, backend="eager", fullgraph=whole)
    for padded in (False, True):
        inputs = inputs_of(entry, auto_class, 2, padded)
        assert_same(run(compiled, inputs), run(model, inputs), atol=3e-5)


@every_model
def test_configuration_survives_json(entry, tmp_path):
    config = tiny(entry).config()
    assert set(json.loads(config.to_json_string(use_diff=False))) >= tiny(entry).fields
    config.save_pretrained(tmp_path)
    for again in (type(config).from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(again) is type(config)
        assert again.to_json_string() == config.to_json_string()
    default = entry.get_config_class()()
    default.save_pretrained(tmp_path)
    assert entry.get_config_class().from_pretrained(tmp_path).to_json_string() == default.to_json_string()


@every_model
def test_fields_of_the_configuration_are_frozen(entry, tmp_path):
    # A misspelt field would be kept without a word, so what is written is compared with what is known
    tiny(entry).config().save_pretrained(tmp_path)
    written = set(json.loads((tmp_path / "config.json").read_text()))
    assert written == tiny(entry).fields


@pytest.mark.parametrize(
    "entry, wrong, name",
    [(entry, *case) for entry in MODELS for case in TINY_MODELS[entry.model_type].wrong],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_values_are_named(entry, wrong, name):
    with pytest.raises(Exception, match=f"['`]{name}['`]"):
        tiny(entry).config(**wrong)


class Rows(Dataset):
    def __init__(self, entry, auto_class, records=16):
        self.inputs = inputs_of(entry, auto_class, records) | targets(entry, auto_class, records)
        if entry.model_type == "hubert_ecg" and auto_class == "AutoModelForPreTraining":
            self.inputs["mask_time_indices"] = torch.arange(9).expand(records, 9) % 3 == 0

    def __len__(self):
        return len(self.inputs["input_values"])

    def __getitem__(self, index):
        return {name: value[index] for name, value in self.inputs.items()}


class Keep(TrainerCallback):
    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(logs)


@trainable_heads
def test_accumulated_steps_equal_one_large_step(entry, auto_class, tmp_path):
    results = []
    for size, steps in ((16, 1), (4, 4)):
        model = build(entry, auto_class, **settled(entry, auto_class))
        tiny(entry).hold_batch_statistics(model)
        arguments = TrainingArguments(
            str(tmp_path / str(size)),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            learning_rate=1e-2,
            optim="sgd",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        keep = Keep()
        Trainer(model, arguments, train_dataset=Rows(entry, auto_class), callbacks=[keep]).train()
        results.append((keep.logs[0]["loss"], keep.logs[0]["grad_norm"], model.state_dict()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-4)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)
    for name, value in results[0][2].items():
        torch.testing.assert_close(value, results[1][2][name], atol=1e-6, rtol=0)
