import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

import ecg_transformers as et
from ecg_transformers.evaluation import embed_texts
from ecg_transformers.pipelines import list_tasks
from ecg_transformers.readers.numpy_files import save_npz

TASK = "zero-shot-ecg-classification"
LABELS = ["Atrial fibrillation", "sinus rhythm", "left bundle branch block"]


@pytest.fixture(scope="module")
def zero_shot(dbeta_folder):
    return et.pipeline(TASK, model=dbeta_folder, device="cpu")


@pytest.fixture(scope="module")
def corpus():
    return et.load_corpus("synthetic", num_patients=5, records_per_patient=1, seed=2)["train"]


@pytest.fixture(scope="module")
def records(corpus):
    return [row["ecg"] for row in corpus]


def scores(answer):
    return {entry["label"]: entry["logit"] for entry in answer}


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert scores(one) == pytest.approx(scores(other), abs=1e-4)


@pytest.fixture(scope="module")
def expected(dbeta_folder, records):
    """Dot products computed with model and processor alone."""
    model, processor = AutoModel.from_pretrained(dbeta_folder).eval(), AutoProcessor.from_pretrained(dbeta_folder)
    with torch.no_grad():
        texts = torch.cat([model.get_text_features(**processor(text=label, return_tensors="pt")) for label in LABELS])
        inputs = processor(ecg=records, return_tensors="pt")
        ecgs = model.get_ecg_features(inputs["input_values"], attention_mask=inputs["attention_mask"])
    return (ecgs @ texts.T).double()


def test_the_score_is_the_sigmoid_of_the_dot_product(zero_shot, records, expected):
    assert (expected.amax(0) - expected.amin(0)).min() > 0.01, "the fixture tells recordings apart"
    answers = zero_shot(records, candidate_labels=LABELS)
    for answer, dots in zip(answers, expected, strict=True):
        assert [set(entry) for entry in answer] == [{"label", "score", "logit"}] * 3
        assert [entry["score"] for entry in answer] == sorted((entry["score"] for entry in answer), reverse=True)
        assert scores(answer) == pytest.approx(dict(zip(LABELS, dots.tolist(), strict=True)), abs=1e-4)
        probabilities = {entry["label"]: entry["score"] for entry in answer}
        assert probabilities == pytest.approx(dict(zip(LABELS, dots.sigmoid().tolist(), strict=True)), abs=1e-4)


def test_labels_that_exclude_each_other(zero_shot, records, expected):
    answers = zero_shot(records, candidate_labels=LABELS, multi_label=False)
    for answer, dots in zip(answers, expected.softmax(-1), strict=True):
        probabilities = {entry["label"]: entry["score"] for entry in answer}
        assert probabilities == pytest.approx(dict(zip(LABELS, dots.tolist(), strict=True)), abs=1e-4)
        assert sum(probabilities.values()) == pytest.approx(1)


def test_every_kind_of_input_gives_the_same(zero_shot, records, tmp_path):
    record = records[0]
    wanted = zero_shot(record, LABELS)
    path = tmp_path / "record.npz"
    save_npz(record, path)
    assert_same([zero_shot(path, LABELS)], [wanted])
    assert_same([zero_shot(str(path), LABELS)], [wanted])
    assert_same([zero_shot({"ecg": record, "age": 3}, LABELS)], [wanted])
    assert_same([zero_shot(record.signal, LABELS, sampling_rate=record.sampling_rate)], [wanted])
    tensor = torch.from_numpy(record.signal * 1000)
    assert_same([zero_shot(tensor, LABELS, sampling_rate=record.sampling_rate, units="uV")], [wanted])
    order = [3, 0, 11, 1, 2, *range(4, 11)]
    names = [record.lead_names[index] for index in order]
    shuffled = record.signal[order]
    assert_same([zero_shot(shuffled, LABELS, sampling_rate=500, lead_names=names)], [wanted])
    bare = tmp_path / "bare.npy"
    np.save(bare, shuffled)
    assert_same([zero_shot(bare, LABELS, sampling_rate=500, lead_names=names)], [wanted])
    assert_same(zero_shot([path, record, record.signal], LABELS, sampling_rate=500), [wanted] * 3)
    assert_same(zero_shot((path, record), LABELS), [wanted] * 2)
    stacked = np.stack([record.signal, record.signal])
    assert_same(zero_shot(stacked, LABELS, sampling_rate=500), [wanted] * 2)
    assert zero_shot([], LABELS) == []


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"batch_size": 8, "num_workers": 2}])
def test_batches_do_not_change_the_scores(zero_shot, records, corpus, options):
    # A shorter and a longer recording, another rate, other leads: they share batches.
    mixed = [
        *records,
        et.ECGRecord(records[1].signal[:, :3000], 500, records[1].lead_names),
        et.ECGRecord(np.concatenate([entry.signal for entry in records], axis=1), 500, records[0].lead_names),
        et.ECGRecord(records[2].signal[:, ::2], 250, records[2].lead_names),
        et.ECGRecord(records[0].signal[::-1], 500, records[0].lead_names[::-1]),
    ]
    alone = [zero_shot(record, LABELS) for record in mixed]
    assert_same(zero_shot(mixed, LABELS, **options), alone)
    assert_same([alone[-1]], [alone[0]])
    for inputs in (corpus, corpus.to_iterable_dataset(), iter(records), (record for record in records), corpus["ecg"]):
        answers = zero_shot(inputs, LABELS, **options)
        assert not isinstance(answers, list)
        assert_same(list(answers), alone[: len(records)])


def test_generators_are_read_as_they_are_needed(zero_shot, records):
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield records[len(taken) % len(records)]

    answers = iter(zero_shot(endless(), LABELS, batch_size=2))
    for _ in range(3):
        next(answers)
    assert len(taken) <= 6


def test_labels_are_embedded_once_per_call(zero_shot, records, monkeypatch):
    calls, original = [], type(zero_shot.model).get_text_features

    def counted(self, input_ids, **kwargs):
        calls.extend(input_ids.tolist())
        return original(self, input_ids, **kwargs)

    monkeypatch.setattr(type(zero_shot.model), "get_text_features", counted)
    zero_shot([*records, *records], LABELS, batch_size=2)
    assert len(calls) == len(LABELS)


def test_words_around_and_behind_labels(zero_shot, dbeta_folder, records):
    record = records[0]
    model, processor = zero_shot.model, zero_shot.processor
    features = processor(ecg=record, return_tensors="pt")
    with torch.no_grad():
        ecg = model.get_ecg_features(features["input_values"], attention_mask=features["attention_mask"])

    def dots(texts):
        return (embed_texts(model, processor, texts) @ ecg[0]).tolist()

    answer = scores(zero_shot(record, LABELS, hypothesis_template="the ecg shows {}"))
    filled = dots([f"the ecg shows {label}" for label in LABELS])
    assert [answer[label] for label in LABELS] == pytest.approx(filled, abs=1e-4)
    described = {"AF": ["no p waves", "irregular rhythm"], "SR": "a p wave before each qrs"}
    answer = scores(zero_shot(record, described))
    first, second, third = dots(["no p waves", "irregular rhythm", "a p wave before each qrs"])
    assert answer == pytest.approx({"AF": (first + second) / 2, "SR": third}, abs=1e-4)
    assert [entry["label"] for entry in zero_shot(record, "sinus rhythm")] == ["sinus rhythm"]
    everything = zero_shot(record, LABELS)
    assert zero_shot(record, LABELS, top_k=2) == everything[:2]
    # Given when the pipeline is built, they are the defaults of its calls.
    built = et.pipeline(TASK, dbeta_folder, device="cpu", candidate_labels=LABELS, top_k=1, batch_size=2)
    assert_same(built([record, record]), [everything[:1]] * 2)
    exclaimed = scores(built(record, hypothesis_template="{}!", top_k=3))
    assert [exclaimed[label] for label in LABELS] == pytest.approx(dots([f"{label}!" for label in LABELS]), abs=1e-4)
    assert scores(built(record, candidate_labels=["flutter"])) == scores(zero_shot(record, ["flutter"]))


def test_windows_of_long_recordings(zero_shot, records):
    long = et.ECGRecord(np.concatenate([records[0].signal, records[1].signal], axis=1), 500, records[0].lead_names)
    first, second = (scores(zero_shot(record, LABELS)) for record in records[:2])
    found = {how: zero_shot(long, LABELS, aggregation=how) for how in ("mean", "max")}
    sigmoid = lambda value: 1 / (1 + np.exp(-value))  # noqa: E731
    for entry in found["mean"]:
        mean = (sigmoid(first[entry["label"]]) + sigmoid(second[entry["label"]])) / 2
        assert entry["score"] == pytest.approx(mean, abs=1e-4)
        assert entry["logit"] == pytest.approx(np.log(mean / (1 - mean)), abs=1e-2)
    for entry in found["max"]:
        assert entry["logit"] == pytest.approx(max(first[entry["label"]], second[entry["label"]]), abs=1e-3)
    assert_same([zero_shot(long, LABELS, windows="first")], [zero_shot(records[0], LABELS)])


@pytest.mark.parametrize(
    ("inputs", "options", "words"),
    [
        ("record", {"candidate_labels": None}, "Pass `candidate_labels=`"),
        ("record", {"candidate_labels": []}, "at least one"),
        ("record", {"candidate_labels": [""]}, "at least one"),
        ("record", {"candidate_labels": [3]}, "at least one"),
        ("record", {"candidate_labels": ["a", "b", "a"]}, "more than once: a"),
        ("record", {"candidate_labels": {"a": 3}}, "must describe 'a'"),
        ("record", {"candidate_labels": {}}, "describes no label"),
        ("record", {"hypothesis_template": "no place"}, "one place for the label"),
        ("record", {"windows": "some"}, "`windows` is 'all' or 'first'"),
        ("record", {"aggregation": "sum"}, "`aggregation` is 'mean' or 'max'"),
        ("record", {"top_k": 0}, "`top_k`"),
        ("array", {}, "Pass `sampling_rate="),
        ("array", {"sampling_rate": 500, "units": "parsec"}, "Unknown unit"),
        ("array", {"sampling_rate": -1}, "sampling rate"),
        ("two leads", {"sampling_rate": 500}, "Pass `lead_names="),
        ("two leads", {"sampling_rate": 500, "lead_names": ["I"]}, "2 leads need 2 names"),
        (3, {}, "got int"),
        ([[1.0, 2.0]], {}, "got list"),
        ({"signal": 3}, {}, "got dict"),
        ("/nowhere/at/all.hea", {}, "/nowhere/at/all.hea"),
        ("microvolts", {}, "of record record-7 span"),
        ("corpus", {}, "Choose one split"),
        ("columns", {}, "has a column `ecg`"),
    ],
)
def test_bad_input_is_explained(zero_shot, records, corpus, inputs, options, words):
    import datasets

    broken = et.ECGRecord(records[0].signal * 1000, 500, records[0].lead_names, {"record_id": "record-7"})
    known = {
        "record": records[0],
        "array": records[0].signal,
        "two leads": records[0].signal[:2],
        "microvolts": [records[0], broken, records[1]],
        "corpus": datasets.DatasetDict(test=corpus),
        "columns": corpus.remove_columns("ecg"),
    }
    given = known[inputs] if isinstance(inputs, str) and inputs in known else inputs
    with pytest.raises(ValueError, match=words):
        zero_shot(given, **{"candidate_labels": LABELS, "batch_size": 3, **options})


def changed_folder(dbeta_folder, tmp_path, name="changed", **config):
    folder = tmp_path / name
    shutil.copytree(dbeta_folder, folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | config))
    return folder


def test_code_in_the_folder_is_never_run(dbeta_folder, tmp_path, records, zero_shot):
    marker = tmp_path / "marker"
    classes = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoProcessor": "evil.Processor"}
    pipelines = {TASK: {"impl": "evil.Pipe", "pt": ["AutoModel"], "type": "text"}}
    folder = changed_folder(dbeta_folder, tmp_path, auto_map=classes, custom_pipelines=pipelines)
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Pipe: pass\nModel = Config = Pipe")
    for name in ("tokenizer_config.json", "preprocessor_config.json"):
        content = json.loads((folder / name).read_text())
        content["auto_map"] = {"AutoProcessor": "evil.Processor", "AutoFeatureExtractor": "evil.Pipe"}
        (folder / name).write_text(json.dumps(content))
    answer = et.pipeline(TASK, folder, device="cpu")(records[0], LABELS)
    assert_same([answer], [zero_shot(records[0], LABELS)])
    assert not marker.exists()
    with pytest.raises(ValueError, match="trust_remote_code"):
        et.pipeline(TASK, folder, trust_remote_code=True)
    # A model type that nobody here knows is refused, not asked about.
    other = changed_folder(dbeta_folder, tmp_path, "other", auto_map=classes, model_type="evil_ecg")
    shutil.copy(folder / "evil.py", other)
    with pytest.raises(ValueError, match="other is neither a model folder"):
        et.pipeline(TASK, other)
    assert not marker.exists()


def test_folders_that_do_not_do(dbeta_folder, tmp_path, golden):
    folder = changed_folder(dbeta_folder, tmp_path, "no_tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ValueError, match=r"(?s)no_tokenizer has no tokenizer.*AutoTokenizer.*save_pretrained"):
        et.pipeline(TASK, folder)
    with pytest.raises(ValueError, match="'hubert_ecg', which has no text encoder; .* needs one of dbeta"):
        et.pipeline(TASK, golden / "hubert_ecg" / "hub_checkpoint" / "checkpoint")
    folder = changed_folder(dbeta_folder, tmp_path, "ecg_only", ecg_only=True)
    with pytest.raises(ValueError, match="ECG branch of a dbeta model only"):
        et.pipeline(TASK, folder)
    folder = changed_folder(dbeta_folder, tmp_path, "torn")
    weights = load_file(folder / "model.safetensors")
    missing = next(name for name in sorted(weights) if name.startswith("text"))
    save_file({k: v for k, v in weights.items() if k != missing}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="lacks 1 tensors"):
        et.pipeline(TASK, folder)
    with pytest.raises(ValueError, match="There is no model folder"):
        et.pipeline(TASK, "/nowhere/at/all")
    with pytest.raises(ValueError, match="cannot be used here"):
        et.pipeline(TASK, dbeta_folder, device="cuda:99")
    with pytest.raises(ValueError, match=f"Unknown task 'text-classification'; .* are .*{TASK}"):
        et.pipeline("text-classification", dbeta_folder)
    with pytest.raises(ValueError, match="needs its processor"):
        et.pipeline(TASK, AutoModel.from_pretrained(dbeta_folder))


def test_saved_pipelines_open_without_remote_code(zero_shot, records, tmp_path):
    zero_shot.save_pretrained(tmp_path / "saved")
    assert "custom_pipelines" not in (tmp_path / "saved" / "config.json").read_text()
    again = et.pipeline(TASK, tmp_path / "saved", device="cpu")
    assert_same([again(records[0], LABELS)], [zero_shot(records[0], LABELS)])


def test_transformers_knows_the_task(dbeta_folder, records, zero_shot):
    assert TASK in list_tasks()
    built = transformers.pipeline(TASK, model=str(dbeta_folder), device="cpu")
    assert_same(built(records, LABELS, batch_size=2), zero_shot(records, LABELS))
    model, processor = AutoModel.from_pretrained(dbeta_folder).train(), AutoProcessor.from_pretrained(dbeta_folder)
    built = et.pipeline(TASK, model, processor=processor, device="cpu")
    assert not built.model.training
    assert_same([built(records[0], LABELS)], [zero_shot(records[0], LABELS)])


def test_half_precision(dbeta_folder, records, zero_shot):
    built = et.pipeline(TASK, dbeta_folder, device="cpu", dtype=torch.bfloat16)
    assert built.model.dtype == torch.bfloat16
    answer = built(records[0], LABELS)
    assert scores(answer) == pytest.approx(scores(zero_shot(records[0], LABELS)), abs=0.5)


def test_the_zero_shot_scores_of_the_original(golden, tmp_path):
    """From the original's checkpoint to the dot products that the original gave, text by text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    case = golden / "dbeta" / "checkpoint"
    inputs, expected = load_file(case / "inputs.safetensors"), load_file(case / "outputs.safetensors")["similarity"]
    size = json.loads((case / "t5_config.json").read_text())["vocab_size"]
    # Words that stand for the recorded token numbers.
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, **{f"w{n}": n for n in range(2, size)}}, "w2"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
    et.convert_checkpoint(case, tmp_path / "converted", tokenizer=tokenizer)

    texts = []
    for numbers, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        kept = numbers[mask.bool()].tolist()
        assert kept[-1] == 1
        texts.append(" ".join(f"w{number}" for number in kept[:-1]))
    zero_shot = et.pipeline(TASK, tmp_path / "converted", device="cpu")
    answers = zero_shot(inputs["ecg"], texts, sampling_rate=500, batch_size=2)
    found = torch.tensor([[scores(answer)[text] for text in texts] for answer in answers])
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
