"""DeepECG-SSL written down once more, record by record and token by token, in plain torch.

Nothing is batched, padded or composed of library layers, so that an error in how the model does these things cannot
be here too. Weights come as a state dictionary of the model.
"""

import math

import torch


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def norm(x, dim, eps=1e-5):
    mean = x.mean(dim=dim, keepdim=True)
    return (x - mean) / ((x - mean) ** 2).mean(dim=dim, keepdim=True).add(eps).sqrt()


def layer_norm(x, weights, name):
    return norm(x, -1) * weights[name + ".weight"] + weights[name + ".bias"]


def linear(x, weights, name):
    return x @ weights[name + ".weight"].T + weights[name + ".bias"]


def convolve(x, weight, bias, stride):
    """Tokens `(time, channels)` to tokens, by the definition of a convolution."""
    kernel = weight.shape[2]
    steps = range(0, x.shape[0] - kernel + 1, stride)
    windows = torch.stack([x[step : step + kernel] for step in steps])
    result = torch.einsum("tkc,ock->to", windows, weight)
    return result if bias is None else result + bias


def convolutions(record, config, weights):
    """A record `(leads, samples)` to `(tokens, channels)`, before the layer norm."""
    x = record.T
    for index, stride in enumerate(config.conv_stride):
        name = f"feature_extractor.conv_layers.{index}"
        x = convolve(x, weights[name + ".conv.weight"], weights.get(name + ".conv.bias"), stride)
        if config.feat_extract_norm == "layer":
            x = layer_norm(x, weights, name + ".layer_norm")
        elif index == 0:
            x = norm(x, 0) * weights[name + ".layer_norm.weight"] + weights[name + ".layer_norm.bias"]
        x = gelu(x)
    return x


def positions(x, config, weights):
    """The positional convolution: weight-normalised over all but the kernel, grouped, of the same length."""
    name = "encoder.pos_conv_embed.conv."
    gain = weights[name + "parametrizations.weight.original0"]
    direction = weights[name + "parametrizations.weight.original1"]
    weight = gain * direction / (direction**2).sum(dim=(0, 1), keepdim=True).sqrt()
    kernel, groups = config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups
    zeros = x.new_zeros(kernel // 2, x.shape[1])
    padded = torch.cat([zeros, x, zeros])
    width = x.shape[1] // groups
    parts = [
        convolve(padded[:, g * width : (g + 1) * width], weight[g * width : (g + 1) * width], None, 1)
        for g in range(groups)
    ]
    # An even kernel gives one token too many, at the end
    return gelu(torch.cat(parts, dim=1)[: x.shape[0]] + weights[name + "bias"])


def attention(x, keys, config, weights, name):
    heads = config.num_attention_heads
    width = x.shape[1] // heads
    query, key, value = (linear(x, weights, f"{name}.{part}_proj") for part in "qkv")
    results = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = query[:, part] @ key[keys][:, part].T / math.sqrt(width)
        scores = scores - scores.max(dim=1, keepdim=True).values
        shares = scores.exp() / scores.exp().sum(dim=1, keepdim=True)
        results.append(shares @ value[keys][:, part])
    return linear(torch.cat(results, dim=1), weights, name + ".out_proj")


def feed_forward(x, weights, name):
    inner = gelu(linear(x, weights, name + ".intermediate_dense"))
    return linear(inner, weights, name + ".output_dense")


def token_count(samples, config):
    for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    return max(samples, 0)


def encode(record, config, weights, length=None, masked=None, factor=1.0):
    """One record `(leads, samples)`, of which the first `length` samples are real.

    Returns the last hidden states, the normalised features and the convolutions' output, all `(tokens, ...)`.
    """
    states = convolutions(record, config, weights)
    if factor != 1:
        states = states * factor + states.detach() * (1 - factor)
    features = layer_norm(states, weights, "feature_projection.layer_norm")
    x = features
    if config.conv_dim[-1] != config.hidden_size:
        x = linear(x, weights, "feature_projection.projection")
    if masked is not None:
        x = torch.stack([weights["masked_spec_embed"] if hide else row for hide, row in zip(masked, x, strict=True)])
    x = x + positions(x, config, weights)
    real = x.shape[0] if length is None else token_count(length, config)
    x = torch.cat([x[:real], torch.zeros_like(x[real:])])
    keys = slice(0, real)
    if not config.do_stable_layer_norm:
        x = layer_norm(x, weights, "encoder.layer_norm")
    for index in range(config.num_hidden_layers):
        name = f"encoder.layers.{index}"
        if config.do_stable_layer_norm:
            x = x + attention(layer_norm(x, weights, name + ".layer_norm"), keys, config, weights, name + ".attention")
            x = x + feed_forward(layer_norm(x, weights, name + ".final_layer_norm"), weights, name + ".feed_forward")
        else:
            x = layer_norm(x + attention(x, keys, config, weights, name + ".attention"), weights, name + ".layer_norm")
            x = layer_norm(x + feed_forward(x, weights, name + ".feed_forward"), weights, name + ".final_layer_norm")
    if config.do_stable_layer_norm:
        x = layer_norm(x, weights, "encoder.layer_norm")
    return x, features, states


def pool(x, config, length=None):
    real = x.shape[0] if length is None else token_count(length, config)
    return torch.stack([column[:real].sum() / max(int((column[:real] != 0).sum()), 1) for column in x.T])


def attentive_head(x, config, weights, length=None):
    real = x.shape[0] if length is None else token_count(length, config)
    x = torch.cat([x[:real], torch.zeros_like(x[real:])])
    query = weights["query"][0, 0]
    tokens = layer_norm(x, weights, "token_norm")
    q = linear(query, weights, "q_proj")
    k, v = linear(tokens, weights, "k_proj"), linear(tokens, weights, "v_proj")
    width = len(q) // config.classifier_num_heads
    parts = []
    for head in range(config.classifier_num_heads):
        part = slice(head * width, (head + 1) * width)
        shares = (k[:, part] @ q[part] / math.sqrt(width)).exp()
        parts.append((shares / shares.sum()) @ v[:, part])
    pooled = query + linear(torch.cat(parts), weights, "out_proj")
    inner = gelu(linear(layer_norm(pooled, weights, "pooled_norm"), weights, "intermediate_dense"))
    return linear(pooled + linear(inner, weights, "output_dense"), weights, "output")


def pretraining(records, lengths, masks, negatives, patients, segments, config, weights):
    """All losses of a batch with the most probable codes; each argument is a list over records, `weights` a whole
    state dictionary. Returns the parts by name and the total by masked token."""
    base = {
        name.removeprefix("deepecg_ssl."): value for name, value in weights.items() if name.startswith("deepecg_ssl.")
    }
    groups, size = config.num_codevector_groups, config.num_codevectors_per_group
    book = weights["quantizer.codevectors"][0]
    cross_entropy, probabilities, best, squares, pooled = 0.0, [], [], [], []
    for record, length, mask, drawn in zip(records, lengths, masks, negatives, strict=True):
        x, features, states = encode(record, config, base, length, mask, config.feature_grad_mult)
        squares.append((states**2).flatten())
        pooled.append(pool(x, config, length))
        targets, codes, predictions = [], [], []
        for token in mask.nonzero().flatten().tolist():
            scores = linear(features[token], weights, "quantizer.weight_proj").view(groups, size)
            probabilities.append(scores.exp() / scores.exp().sum(dim=1, keepdim=True))
            code = scores.argmax(dim=1).tolist()
            best.append(torch.eye(size, dtype=scores.dtype)[code])
            vector = torch.cat([book[group * size + entry] for group, entry in enumerate(code)])
            targets.append(linear(vector, weights, "project_q"))
            codes.append(code)
            predictions.append(linear(x[token], weights, "project_hid"))
        for place, prediction in enumerate(predictions):
            others = [other for other in drawn[place].tolist() if codes[other] != codes[place]]
            similarities = torch.stack(
                [
                    (prediction @ targets[other]) / (prediction.norm() * targets[other].norm())
                    for other in [place, *others]
                ]
            )
            scores = similarities / config.contrastive_logits_temperature
            cross_entropy = cross_entropy + scores.exp().sum().log() - scores[0]
    count = len(best)

    def perplexity(distributions):
        mean = torch.stack(distributions).mean(dim=0)
        return (-(mean * (mean + 1e-7).log()).sum(dim=1)).exp().sum()

    found = {
        "contrastive_loss": cross_entropy / count,
        "prob_perplexity": perplexity(probabilities),
        "code_perplexity": perplexity(best),
        "feature_penalty": torch.cat(squares).mean(),
    }
    found["diversity_loss"] = (groups * size - found["prob_perplexity"]) / (groups * size)
    directions = [vector / vector.detach().norm() for vector in pooled]
    first = [row for row, segment in enumerate(segments) if segment == 0]
    second = [row for row, segment in enumerate(segments) if segment == 1]
    terms = {0: [], 1: []}
    for row in first:
        for column in second:
            if patients[row] != patients[column]:
                continue
            similarity = directions[row] @ directions[column] / config.cmsc_temperature
            for side, rivals in (
                (0, [directions[row] @ directions[other] for other in second]),
                (1, [directions[other] @ directions[column] for other in first]),
            ):
                rivals = torch.stack(rivals) / config.cmsc_temperature
                terms[side].append(rivals.exp().sum().log() - similarity)
    found["cmsc_loss"] = sum(torch.stack(terms[side]).mean() for side in (0, 1)) / 2
    found["loss"] = (
        found["contrastive_loss"]
        + config.diversity_loss_weight * found["diversity_loss"]
        + config.feature_penalty_weight * found["feature_penalty"]
        + config.cmsc_loss_weight * found["cmsc_loss"]
    )
    return found, count
