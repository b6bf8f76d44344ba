import numpy as np
import pytest
import torch

from ecg_transformers import ECGFeatureExtractor, ECGRecord, HubertECGConfig, HubertECGForPreTraining, load_corpus
from ecg_transformers.training import (
    AugmentationSettings,
    Codebook,
    CodebookSet,
    HubertECGCollator,
    Teacher,
    describe_shards,
)
from ecg_transformers.training.hubert_ecg_targets import (
    LeadsAndRows,
    NamedSplit,
    NamedStream,
    draw_token_mask,
    open_targets,
)

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


@pytest.fixture(scope="module")
def extractor():
    return ECGFeatureExtractor.for_model_type("hubert_ecg")


@pytest.fixture(scope="module")
def corpus():
    return load_corpus("synthetic", num_patients=12, records_per_patient=1, seed=4)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    convolutions = {"conv_dim": [8] * 5, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    config = HubertECGConfig(**sizes, **convolutions, classifier_proj_size=8, vocab_sizes=[5])
    return HubertECGForPreTraining(config).eval()


@pytest.fixture(scope="module")
def codebooks():
    random = torch.Generator().manual_seed(0)
    return CodebookSet(
        [Codebook(torch.randn(codes, 29, generator=random)) for codes in (5, 9)],
        {"kind": "mixed", "sampling_rate": 100},
    )


def short_record(seconds=3.0):
    signal = np.random.default_rng(0).normal(scale=0.3, size=(12, int(500 * seconds))).astype(np.float32)
    return ECGRecord(np.cumsum(signal, axis=1) / 10, 500, LEADS)


class TestTokenMask:
    def test_counts_are_exact_up_to_the_fraction_of_a_token(self):
        allowed = torch.ones(400, 93, dtype=torch.bool)
        counts = draw_token_mask(range(400), allowed, 0.33).sum(1)
        # 0.33 x 93 is 30.69
        assert set(counts.tolist()) == {30, 31}
        assert counts.float().mean() == pytest.approx(30.69, abs=0.08)

    def test_padding_is_never_masked(self):
        allowed = torch.rand(50, 93, generator=torch.Generator().manual_seed(0)) < 0.4
        masked = draw_token_mask(range(50), allowed, 0.5)
        assert not (masked & ~allowed).any()
        assert ((masked.sum(1) - 0.5 * allowed.sum(1)).abs() <= 1).all()
        assert not draw_token_mask([1], torch.zeros(1, 93, dtype=torch.bool), 0.5).any()

    def test_a_row_does_not_depend_on_its_company(self):
        allowed = torch.ones(5, 93, dtype=torch.bool)
        together = draw_token_mask([7, 8, 9, 10, 11], allowed, 0.33)
        assert torch.equal(draw_token_mask([9], allowed[:1], 0.33)[0], together[2])
        assert len({tuple(row.tolist()) for row in together}) == 5


class TestPreprocessing:
    def test_rows_are_those_of_the_extractor(self, extractor, corpus):
        records = [*corpus["train"][:3]["ecg"], short_record()]
        whole = extractor(records, return_tensors="pt")
        leads, real, rows, valid = LeadsAndRows(extractor)(records)
        torch.testing.assert_close(rows, whole.input_values)
        assert torch.equal(valid.long(), whole.attention_mask)
        assert leads.shape == (4, 12, 2500) and real[:3].all() and real[3].sum() == 1500

    def test_other_recipes_are_refused(self):
        with pytest.raises(ValueError, match="no step 'concatenate_leads'"):
            LeadsAndRows(ECGFeatureExtractor.for_model_type("dbeta"))
        longer = ECGFeatureExtractor.for_model_type("hubert_ecg")
        recipe = [{**entry, "seconds": 10} if entry["step"] == "crop" else entry for entry in longer.recipe]
        with pytest.raises(ValueError, match="makes 5000 samples at 500 Hz"):
            LeadsAndRows(ECGFeatureExtractor(recipe=recipe, lead_names=longer.lead_names))


class TestCollator:
    def test_labels_are_the_codes_of_the_shards(self, extractor, corpus, codebooks, model):
        rows = NamedSplit(corpus["train"]).__getitems__([0, 3])
        batch = HubertECGCollator(extractor, model.config, codebooks, "first")(rows)
        leads = LeadsAndRows(extractor)([row["ecg"] for row in rows])[0]
        described = torch.nn.functional.normalize(describe_shards(leads, "mixed").nan_to_num(), dim=-1)
        for place, book in enumerate(codebooks.codebooks):
            nearest = torch.cdist(described, book.centers.expand(2, -1, -1)).argmin(-1)
            assert torch.equal(batch["labels"][:, place], nearest)
        assert batch["mask_time_indices"].sum(1).tolist() in ([30, 30], [30, 31], [31, 30], [31, 31])
        assert "attention_mask" not in batch
        loss = model(**batch | {"labels": batch["labels"][:, :1]}).loss
        assert loss.isfinite()

    def test_padding_has_no_labels_and_is_not_masked(self, extractor, codebooks, model):
        rows = [{"ecg": short_record(), "window_seed": 1}]
        batch = HubertECGCollator(extractor, model.config, codebooks)(rows)
        tokens = model.get_token_mask(batch["attention_mask"])[0]
        known = batch["labels"][0, 0] >= 0
        assert 30 < known.sum() < 60 and not (known & ~tokens).any()
        assert not (batch["mask_time_indices"][0] & ~tokens).any()

    def test_windows_move_with_the_epoch_and_not_with_the_place(self, extractor, corpus, codebooks, model):
        split = NamedSplit(corpus["train"], seed=3)
        collate = HubertECGCollator(extractor, model.config, codebooks)
        first, again = (collate([split[1]]) for _ in range(2))
        assert torch.equal(first["input_values"], again["input_values"])
        elsewhere = NamedSplit(corpus["train"].select([1]), seed=3)
        assert torch.equal(first["input_values"], collate([elsewhere[0]])["input_values"])
        split.set_epoch(1)
        assert not torch.equal(first["input_values"], collate([split[1]])["input_values"])

    def test_codes_are_those_of_the_undisturbed_record(self, extractor, corpus, codebooks, model):
        rows = NamedSplit(corpus["train"], seed=3).__getitems__([0, 1])
        loud = AugmentationSettings(augmentations=("emg",), augmentation_probability=1.0, emg_mv=0.5)
        clean = HubertECGCollator(extractor, model.config, codebooks)(rows)
        disturbed = HubertECGCollator(extractor, model.config, codebooks, augmentations=loud)(rows)
        assert torch.equal(clean["labels"], disturbed["labels"])
        assert torch.equal(clean["mask_time_indices"], disturbed["mask_time_indices"])
        assert (clean["input_values"] - disturbed["input_values"]).abs().mean() > 0.01
        taught = HubertECGCollator(extractor, model.config, augmentations=loud)(rows)
        assert torch.equal(taught["undisturbed_values"], clean["input_values"])
        assert torch.equal(taught["input_values"], disturbed["input_values"])

    def test_models_with_other_tokens_are_refused(self, extractor, codebooks):
        config = HubertECGConfig(conv_dim=[8], conv_kernel=[64], conv_stride=[32], vocab_sizes=[5, 9])
        with pytest.raises(ValueError, match="makes 186 tokens of a row, but there are codes for 93 shards"):
            HubertECGCollator(extractor, config, codebooks)
        with pytest.raises(ValueError, match="'first' or 'random'"):
            HubertECGCollator(extractor, config, windows="all")


def test_a_stream_gives_what_the_split_gives(corpus, extractor, codebooks, model):
    data, collate = corpus["train"], HubertECGCollator(extractor, model.config, codebooks)
    split = NamedSplit(data, seed=5)
    stream = iter(NamedStream(data.to_iterable_dataset(), seed=5, repeat=True))
    for epoch in range(2):
        split.set_epoch(epoch)
        one = collate(split.__getitems__(range(len(data))))
        other = collate([next(stream) for _ in range(len(data))])
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), (epoch, name)


@pytest.mark.parametrize("shards", [1, 4])
def test_processes_share_a_stream(corpus, shards):
    data = corpus["train"]
    stream = NamedStream(data.to_iterable_dataset(num_shards=shards), seed=2, shuffle_buffer=3)
    parts = [list(stream.share(process, 2)) for process in (0, 1)]
    assert all(parts) and sorted(row["record_id"] for part in parts for row in part) == sorted(data["record_id"])
    # Wherever a record is read, it is treated alike
    seeds = {row["record_id"]: row["window_seed"] for row in stream}
    assert all(seeds[row["record_id"]] == row["window_seed"] for part in parts for row in part)


def test_a_shuffled_stream_gives_every_record_once_an_epoch(corpus):
    data = corpus["train"]
    stream = iter(NamedStream(data.to_iterable_dataset(), shuffle_buffer=4, repeat=True))
    orders = [[next(stream)["record_id"] for _ in range(len(data))] for _ in range(2)]
    names = list(data["record_id"])
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(names)
    assert orders[0] != names and orders[0] != orders[1]
    once = NamedStream(data.to_iterable_dataset())
    assert [row["record_id"] for row in once] == names == [row["record_id"] for row in once]


@pytest.fixture(scope="module")
def folder(model, extractor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


class TestTeacher:
    @pytest.mark.parametrize("layer", [0, 1, 2])
    def test_hidden_states_of_a_layer(self, folder, model, layer):
        rows = torch.randn(2, 6000, generator=torch.Generator().manual_seed(0))
        teacher = Teacher.load(folder, layer)
        expected = model(rows, output_hidden_states=True).hidden_states[layer + 1]
        torch.testing.assert_close(teacher(rows), expected, rtol=1e-5, atol=1e-6)
        assert teacher.model.config.num_hidden_layers == layer + 1
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        assert not teacher.train().training and not teacher.model.training

    def test_codes_and_padding(self, folder):
        teacher = Teacher.load(folder, 1)
        books = CodebookSet([Codebook(torch.eye(16)[:4])], {"kind": "hidden_states", "layer": 1})
        rows = torch.randn(2, 6000, generator=torch.Generator().manual_seed(0))
        mask = torch.ones(2, 6000, dtype=torch.long)
        mask[1, 3000:] = 0
        labels = teacher.labels({"input_values": rows, "attention_mask": mask}, books)
        tokens = teacher.model.get_token_mask(mask)
        assert labels.shape == (2, 1, 93) and ((labels[:, 0] == -100) == ~tokens).all()
        directions = teacher(rows, mask)
        assert torch.equal(labels[0, 0], directions[0, :, :4].argmax(-1))

    def test_what_is_no_teacher_is_refused(self, folder, tmp_path):
        with pytest.raises(ValueError, match="--layer 3: .* has the layers 0 to 2"):
            Teacher.load(folder, 3)
        CodebookSet([Codebook(torch.eye(3))], {"kind": "wavelet"}).save(tmp_path)
        with pytest.raises(ValueError, match="hidden_states; found 'wavelet'"):
            open_targets(tmp_path)
