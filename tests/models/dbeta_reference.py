"""D-BETA in plain torch and NumPy, from the original's settings and parameter names; slow, and none of our code."""

import math

import numpy as np
import torch

PATCH_SAMPLES = 5000


def settings(**overrides):
    """The original's configuration of a tiny model."""
    values = {
        "encoder_layers": 2,
        "encoder_embed_dim": 24,
        "encoder_ffn_embed_dim": 40,
        "encoder_attention_heads": 3,
        "layer_norm_first": False,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "dropout_input": 0.1,
        "extractor_mode": "default",
        "conv_feature_layers": [(16, 2, 2)] * 4,
        "in_d": 12,
        "conv_bias": False,
        "conv_pos": 16,
        "conv_pos_groups": 4,
        "vocab_size": 37,
        "hidden_dim": 20,
        "num_heads": 2,
        "drop_rate": 0.1,
        "num_top_layer": 2,
        "mem_layer": 1,
        "mem_prob": 0.75,
        "mem_decoder_hidden_dim": 18,
        "mem_decoder_num_layers": 2,
        "mem_decoder_num_heads": 3,
    }
    return {**values, **overrides}


def t5_settings(**overrides):
    values = {
        "model_type": "t5",
        "d_model": 24,
        "d_kv": 6,
        "num_heads": 3,
        "d_ff": 28,
        "num_layers": 2,
        "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 10,
        "vocab_size": 37,
        "layer_norm_epsilon": 1e-6,
        "tie_word_embeddings": False,
    }
    return {**values, **overrides}


def conv_layers(model):
    return model["conv_feature_layers"]


def count_tokens(model, samples):
    for _, kernel, stride in conv_layers(model):
        samples = (samples - kernel) // stride + 1
    return samples


def patch_size(model):
    return PATCH_SAMPLES // count_tokens(model, PATCH_SAMPLES)


def random_state(model, t5, seed):
    """A state dictionary under the original's names, with random values in every entry."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {}

    def linear(name, inputs, outputs, bias=True):
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    def norm(name, width):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    width, hidden = model["encoder_embed_dim"], model["hidden_dim"]
    shapes["class_embedding"] = (width,)
    channels = model["in_d"]
    for index, (out, kernel, _) in enumerate(conv_layers(model)):
        name = f"ecg_encoder.feature_extractor.conv_layers.{index}"
        shapes[f"{name}.0.weight"] = (out, channels, kernel)
        if model["conv_bias"]:
            shapes[f"{name}.0.bias"] = (out,)
        if model["extractor_mode"] == "layer_norm":
            norm(f"{name}.2.1", out)
        elif index == 0:
            norm(f"{name}.2", out)
        channels = out
    norm("ecg_encoder.layer_norm", channels)
    if channels != width:
        linear("ecg_encoder.post_extract_proj", channels, width)
    taps = model["conv_pos"]
    shapes["ecg_encoder.conv_pos.pos_conv.0.bias"] = (width,)
    shapes["ecg_encoder.conv_pos.pos_conv.0.weight_g"] = (1, 1, taps)
    shapes["ecg_encoder.conv_pos.pos_conv.0.weight_v"] = (width, width // model["conv_pos_groups"], taps)
    norm("ecg_encoder.encoder.layer_norm", width)
    for index in range(model["encoder_layers"]):
        name = f"ecg_encoder.encoder.layers.{index}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{name}.self_attn.{part}", width, width)
        norm(f"{name}.self_attn_layer_norm", width)
        linear(f"{name}.fc1", width, model["encoder_ffn_embed_dim"])
        linear(f"{name}.fc2", model["encoder_ffn_embed_dim"], width)
        norm(f"{name}.final_layer_norm", width)

    inner = t5["d_kv"] * t5["num_heads"]
    shapes["language_encoder.shared.weight"] = (t5["vocab_size"], t5["d_model"])
    for index in range(t5["num_layers"]):
        name = f"language_encoder.encoder.block.{index}.layer"
        for part in "qkv":
            linear(f"{name}.0.SelfAttention.{part}", t5["d_model"], inner, bias=False)
        linear(f"{name}.0.SelfAttention.o", inner, t5["d_model"], bias=False)
        if index == 0:
            buckets = t5["relative_attention_num_buckets"]
            shapes[f"{name}.0.SelfAttention.relative_attention_bias.weight"] = (buckets, t5["num_heads"])
        shapes[f"{name}.0.layer_norm.weight"] = shapes[f"{name}.1.layer_norm.weight"] = (t5["d_model"],)
        for part in ("wi_0", "wi_1") if t5["feed_forward_proj"].startswith("gated") else ("wi",):
            linear(f"{name}.1.DenseReluDense.{part}", t5["d_model"], t5["d_ff"], bias=False)
        linear(f"{name}.1.DenseReluDense.wo", t5["d_ff"], t5["d_model"], bias=False)
    shapes["language_encoder.encoder.final_layer_norm.weight"] = (t5["d_model"],)

    linear("multi_modal_language_proj", t5["d_model"], hidden)
    linear("multi_modal_ecg_proj", width, hidden)
    shapes["modality_type_embeddings.weight"] = (2, hidden)
    for stream in ("ecg", "language"):
        for index in range(model["num_top_layer"]):
            name = f"multi_modal_{stream}_layers.{index}"
            for attention in ("attention", "crossattention"):
                for part in ("query", "key", "value"):
                    linear(f"{name}.{attention}.self.{part}", hidden, hidden)
                linear(f"{name}.{attention}.output.dense", hidden, hidden)
                norm(f"{name}.{attention}.output.LayerNorm", hidden)
            linear(f"{name}.intermediate.dense", hidden, 4 * hidden)
            linear(f"{name}.output.dense", 4 * hidden, hidden)
            norm(f"{name}.output.LayerNorm", hidden)
        linear(f"multi_modal_{stream}_pooler.dense", hidden, hidden)
        linear(f"unimodal_{stream}_pooler.dense", hidden, hidden)
    shapes["mlm_head.bias"] = (model["vocab_size"],)
    linear("mlm_head.transform.dense", hidden, hidden)
    norm("mlm_head.transform.LayerNorm", hidden)
    linear("mlm_head.decoder", hidden, model["vocab_size"], bias=False)
    small = model["mem_decoder_hidden_dim"]
    shapes["mim_head.mask_token"] = (1, 1, small)
    linear("mim_head.decoder_embed", hidden, small)
    for index in range(model["mem_decoder_num_layers"]):
        name = f"mim_head.decoder.resblocks.{index}"
        shapes[f"{name}.attn.in_proj_weight"], shapes[f"{name}.attn.in_proj_bias"] = (3 * small, small), (3 * small,)
        linear(f"{name}.attn.out_proj", small, small)
        norm(f"{name}.ln_1", small)
        linear(f"{name}.mlp.c_fc", small, 4 * small)
        linear(f"{name}.mlp.c_proj", 4 * small, small)
        norm(f"{name}.ln_2", small)
    norm("mim_head.decoder_norm", small)
    linear("mim_head.decoder_pred", small, model["in_d"] * patch_size(model))
    linear("itm_head.fc", 2 * hidden, 2)

    state = {}
    for name, shape in shapes.items():
        scale = 1.0 if len(shape) == 1 or name.endswith(("shared.weight", "weight_g")) else shape[1] ** -0.5
        state[name] = torch.randn(shape, generator=generator) * scale
        # Scales of normalisations: around 1
        if name.endswith(("orm.weight", "ln_1.weight", "ln_2.weight", ".2.weight", ".2.1.weight")):
            state[name] = 1 + 0.3 * state[name]
    state["language_encoder.encoder.embed_tokens.weight"] = state["language_encoder.shared.weight"].clone()
    state["mim_head.decoder_pos_embed.pe"] = positions(512, small)[None]
    return state


def positions(length, width):
    table = np.zeros((length, width))
    for position in range(length):
        for column in range(width):
            angle = position / 10000 ** ((column - column % 2) / width)
            table[position, column] = math.cos(angle) if column % 2 else math.sin(angle)
    return torch.tensor(table, dtype=torch.float32)


class Reference:
    """The model; every method follows one paragraph of the description of the original."""

    def __init__(self, model, t5, state):
        self.model, self.t5 = model, t5
        self.state = {name: value.double() for name, value in state.items()}

    def __getitem__(self, name):
        return self.state[name]

    def linear(self, x, name):
        x = x @ self[f"{name}.weight"].T
        return x + self[f"{name}.bias"] if f"{name}.bias" in self.state else x

    def norm(self, x, name, eps=1e-5):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return scaled * self[f"{name}.weight"] + self[f"{name}.bias"]

    @staticmethod
    def gelu(x):
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))

    @staticmethod
    def attend(query, key, value, heads, scale, bias=0.0):
        """Attention over (records, tokens, width), head by head."""
        parts = []
        for q, k in zip(query.chunk(heads, -1), key.chunk(heads, -1), strict=True):
            parts.append(q @ k.transpose(1, 2) * scale)
        scores = torch.stack(parts, 1) + bias
        weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
        values = torch.stack(value.chunk(heads, -1), 1)
        return torch.cat((weights @ values).unbind(1), -1)

    # ECG

    def conv_features(self, ecg):
        x = ecg.double()
        for index, (_, kernel, stride) in enumerate(conv_layers(self.model)):
            name = f"ecg_encoder.feature_extractor.conv_layers.{index}"
            windows = x.unfold(2, kernel, stride)
            x = torch.einsum("bctk,ock->bot", windows, self[f"{name}.0.weight"])
            if self.model["conv_bias"]:
                x = x + self[f"{name}.0.bias"][:, None]
            if self.model["extractor_mode"] == "layer_norm":
                x = self.norm(x.transpose(1, 2), f"{name}.2.1").transpose(1, 2)
            elif index == 0:
                centred = x - x.mean(2, keepdim=True)
                x = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt()
                x = x * self[f"{name}.2.weight"][:, None] + self[f"{name}.2.bias"][:, None]
            x = self.gelu(x)
        return x

    def embeddings(self, ecg):
        x = self.norm(self.conv_features(ecg).transpose(1, 2), "ecg_encoder.layer_norm")
        if "ecg_encoder.post_extract_proj.weight" in self.state:
            x = self.linear(x, "ecg_encoder.post_extract_proj")
        taps, groups = self.model["conv_pos"], self.model["conv_pos_groups"]
        direction, gain = (self[f"ecg_encoder.conv_pos.pos_conv.0.weight_{part}"] for part in "vg")
        weight = gain * direction / direction.square().sum((0, 1), keepdim=True).sqrt()
        records, tokens, width = x.shape
        padded = torch.zeros(records, tokens + 2 * (taps // 2), width, dtype=x.dtype)
        padded[:, taps // 2 : taps // 2 + tokens] = x
        inputs, outputs = padded.chunk(groups, -1), weight.chunk(groups, 0)
        parts = [
            torch.einsum("btik,oik->bto", part.unfold(1, taps, 1), kernel)
            for part, kernel in zip(inputs, outputs, strict=True)
        ]
        positional = torch.cat(parts, -1) + self["ecg_encoder.conv_pos.pos_conv.0.bias"]
        return x + self.gelu(positional[:, :tokens])

    def encode(self, tokens):
        """Class token in front, transformer, projection."""
        model = self.model
        x = torch.cat([self["class_embedding"].expand(tokens.shape[0], 1, -1), tokens], 1)
        heads = model["encoder_attention_heads"]
        scale = (x.shape[2] // heads) ** -0.5
        first = model["layer_norm_first"]
        if not first:
            x = self.norm(x, "ecg_encoder.encoder.layer_norm")
        for index in range(model["encoder_layers"]):
            name = f"ecg_encoder.encoder.layers.{index}"
            inputs = self.norm(x, f"{name}.self_attn_layer_norm") if first else x
            q, k, v = (self.linear(inputs, f"{name}.self_attn.{part}_proj") for part in "qkv")
            x = x + self.linear(self.attend(q, k, v, heads, scale), f"{name}.self_attn.out_proj")
            if not first:
                x = self.norm(x, f"{name}.self_attn_layer_norm")
            inputs = self.norm(x, f"{name}.final_layer_norm") if first else x
            x = x + self.linear(self.gelu(self.linear(inputs, f"{name}.fc1")), f"{name}.fc2")
            if not first:
                x = self.norm(x, f"{name}.final_layer_norm")
        if first:
            x = self.norm(x, "ecg_encoder.encoder.layer_norm")
        return x

    def pool(self, x, name):
        return self.linear(x[:, 0], f"{name}.dense").tanh()

    def ecg_features(self, ecg):
        x = self.linear(self.encode(self.embeddings(ecg)), "multi_modal_ecg_proj")
        return self.pool(x, "unimodal_ecg_pooler")

    # Text

    def bucket(self, distance):
        """Bucket of a key that lies `distance` tokens behind the query."""
        buckets = self.t5["relative_attention_num_buckets"] // 2
        start = buckets if distance > 0 else 0
        distance = abs(distance)
        exact = buckets // 2
        if distance < exact:
            return start + distance
        share = math.log(distance / exact) / math.log(self.t5["relative_attention_max_distance"] / exact)
        return start + min(exact + int(share * (buckets - exact)), buckets - 1)

    def t5_norm(self, x, name):
        eps = self.t5["layer_norm_epsilon"]
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * self[f"{name}.weight"]

    def text_hidden(self, ids, mask=None):
        t5 = self.t5
        x = self["language_encoder.shared.weight"][ids]
        length = ids.shape[1]
        table = self["language_encoder.encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        bias = torch.stack(
            [torch.stack([table[self.bucket(key - query)] for key in range(length)]) for query in range(length)]
        ).permute(2, 0, 1)[None]
        if mask is not None:
            bias = bias.masked_fill(mask[:, None, None] == 0, -torch.inf)
        for index in range(t5["num_layers"]):
            name = f"language_encoder.encoder.block.{index}.layer"
            inputs = self.t5_norm(x, f"{name}.0.layer_norm")
            q, k, v = (self.linear(inputs, f"{name}.0.SelfAttention.{part}") for part in "qkv")
            x = x + self.linear(self.attend(q, k, v, t5["num_heads"], 1.0, bias), f"{name}.0.SelfAttention.o")
            inputs = self.t5_norm(x, f"{name}.1.layer_norm")
            dense = f"{name}.1.DenseReluDense"
            if t5["feed_forward_proj"] == "relu":
                inner = self.linear(inputs, f"{dense}.wi").clamp(min=0)
            else:
                gate = self.linear(inputs, f"{dense}.wi_0")
                cubic = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
                inner = 0.5 * gate * (1 + cubic.tanh()) * self.linear(inputs, f"{dense}.wi_1")
            x = x + self.linear(inner, f"{dense}.wo")
        return self.t5_norm(x, "language_encoder.encoder.final_layer_norm")

    def text_states(self, ids, mask=None):
        return self.linear(self.text_hidden(ids, mask), "multi_modal_language_proj")

    def text_features(self, ids, mask=None):
        return self.pool(self.text_states(ids, mask), "unimodal_language_pooler")

    # Fusion

    def fusion_layer(self, x, other, name, own_bias, other_bias):
        heads = self.model["num_heads"]
        scale = 1 / math.sqrt(x.shape[2] // heads)
        for attention, keys, bias in (("attention", x, own_bias), ("crossattention", other, other_bias)):
            keys = x if keys is None else keys
            part = f"{name}.{attention}"
            q = self.linear(x, f"{part}.self.query")
            k, v = self.linear(keys, f"{part}.self.key"), self.linear(keys, f"{part}.self.value")
            update = self.linear(self.attend(q, k, v, heads, scale, bias), f"{part}.output.dense")
            x = self.norm(x + update, f"{part}.output.LayerNorm", 1e-12)
        inner = self.gelu(self.linear(x, f"{name}.intermediate.dense"))
        return self.norm(x + self.linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm", 1e-12)

    def fuse(self, text, ecg, text_mask=None):
        """Return text, ECG, class features and the ECG stream before each layer and after the last."""
        text = text + self["modality_type_embeddings.weight"][0]
        ecg = ecg + self["modality_type_embeddings.weight"][1]
        bias = 0.0
        if text_mask is not None:
            bias = torch.zeros(text_mask.shape, dtype=text.dtype).masked_fill(text_mask == 0, -torch.inf)[
                :, None, None
            ]
        streams = []
        for index in range(self.model["num_top_layer"]):
            streams.append(ecg)
            old_text, old_ecg = text, ecg
            text = self.fusion_layer(old_text, old_ecg, f"multi_modal_language_layers.{index}", bias, 0.0)
            ecg = self.fusion_layer(old_ecg, old_text, f"multi_modal_ecg_layers.{index}", 0.0, bias)
        streams.append(ecg)
        pooled = [self.pool(text, "multi_modal_language_pooler"), self.pool(ecg, "multi_modal_ecg_pooler")]
        return text, ecg, torch.cat(pooled, -1), streams

    # Pretraining

    def decode(self, stream, ids_restore):
        model, x = self.model, self.linear(stream, "mim_head.decoder_embed")
        records, tokens = ids_restore.shape
        width, heads = x.shape[2], model["mem_decoder_num_heads"]
        full = self["mim_head.mask_token"].expand(records, tokens + 1, -1).clone()
        full[:, 0] = x[:, 0]
        for record in range(records):
            for token in range(tokens):
                place = ids_restore[record, token]
                if place < x.shape[1] - 1:
                    full[record, token + 1] = x[record, place + 1]
        x = full + positions(tokens + 1, width)
        for index in range(model["mem_decoder_num_layers"]):
            name = f"mim_head.decoder.resblocks.{index}"
            inputs = self.norm(x, f"{name}.ln_1")
            q, k, v = (inputs @ self[f"{name}.attn.in_proj_weight"].T + self[f"{name}.attn.in_proj_bias"]).chunk(3, -1)
            x = x + self.linear(self.attend(q, k, v, heads, (width // heads) ** -0.5), f"{name}.attn.out_proj")
            inner = self.linear(self.norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc")
            x = x + self.linear(inner / (1 + (-1.702 * inner).exp()), f"{name}.mlp.c_proj")
        x = self.linear(self.norm(x, "mim_head.decoder_norm"), "mim_head.decoder_pred")[:, 1:]
        return x.reshape(records, tokens, model["in_d"], -1)

    def targets(self, ecg):
        patch, tokens = patch_size(self.model), count_tokens(self.model, ecg.shape[2])
        signal = ecg[..., : tokens * patch].double().numpy()
        result = np.empty((ecg.shape[0], tokens, ecg.shape[1], patch))
        for record, lead in np.ndindex(signal.shape[:2]):
            samples = signal[record, lead]
            scaled = (samples - samples.mean()) / np.sqrt(samples.var(ddof=1) + 1e-6)
            result[record, :, lead] = scaled.reshape(tokens, patch)
        return torch.from_numpy(result)

    def pretrain(self, ecg, ids, text_mask, labels, is_aligned, noise):
        model = self.model
        tokens = self.embeddings(ecg)
        records, count, width = tokens.shape
        keep = int(count * (1 - model["mem_prob"]))
        order = noise.argsort(1)
        ids_restore = order.argsort(1)
        kept = torch.stack([tokens[record, order[record, :keep]] for record in range(records)])
        mask = torch.ones(records, count)
        for record in range(records):
            mask[record, order[record, :keep]] = 0
        ecg_states = self.linear(self.encode(kept), "multi_modal_ecg_proj")
        text_states = self.text_states(ids)
        ecg_embeds = self.pool(ecg_states, "unimodal_ecg_pooler")
        text_embeds = self.pool(text_states, "unimodal_language_pooler")
        text, _, pooled, streams = self.fuse(text_states, ecg_states, text_mask)
        mem_logits = self.decode(streams[model["mem_layer"]], ids_restore)
        inner = self.gelu(self.linear(text, "mlm_head.transform.dense"))
        mlm_logits = self.norm(inner, "mlm_head.transform.LayerNorm", 1e-12) @ self["mlm_head.decoder.weight"].T
        mlm_logits = mlm_logits + self["mlm_head.bias"]
        etm_logits = self.linear(pooled, "itm_head.fc")

        def cross_entropy(logits, label):
            return logits.exp().sum().log() - logits[label]

        known = [(r, t) for r in range(records) for t in range(ids.shape[1]) if labels[r, t] != -100]
        losses = {
            "mlm_loss": sum(cross_entropy(mlm_logits[r, t], labels[r, t]) for r, t in known) / len(known),
            "mem_loss": ((mem_logits - self.targets(ecg)).square().mean((2, 3)) * mask).sum() / mask.sum(),
            "etm_loss": sum(cross_entropy(etm_logits[r], int(is_aligned[r])) for r in range(records)) / records,
        }
        scores = ecg_embeds @ text_embeds.T
        pairs = [
            torch.log1p(torch.exp((-1.0 if i == j and is_aligned[i] else 1.0) * scores[i, j]))
            for i in range(records)
            for j in range(records)
        ]
        losses["ets_loss"] = sum(pairs) / len(pairs)
        return {
            **losses,
            "loss": sum(losses.values()),
            "mem_logits": mem_logits,
            "mlm_logits": mlm_logits,
            "etm_logits": etm_logits,
            "mem_mask": mask,
            "mem_ids_restore": ids_restore,
            "ecg_embeds": ecg_embeds,
            "text_embeds": text_embeds,
            "multi_modal_embeds": pooled,
        }
