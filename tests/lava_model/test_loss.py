"""The loss against a plain-loop float64 reference, and its properties."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_dense import dense_nce
from torch import Tensor

from lava_model.config import LossWeights
from lava_model.errors import ConfigError
from lava_model.loss import LossOutput, lava_loss, nce
from lava_model.model import Embeddings

FORMS = ("pooled", "infonce", "symmetric", "mil_nce")
CENTROIDS = ("literal", "stop_grad", "leave_one_out")
POLICIES = ("complete_pair", "available_mean")
NAMES = tuple(field.name for field in fields(Embeddings))


# --- the reference: python floats and loops, straight from the formulas ---


def _cosine(left: list[float], right: list[float]) -> float:
    dot = sum(a * b for a, b in zip(left, right, strict=True))
    return dot / math.sqrt(sum(a * a for a in left)) / math.sqrt(sum(b * b for b in right))


def _lse(values: list[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))


def reference_nce(
    queries: list[list[float]],
    keys: list[list[float]],
    rows: list[int],
    form: str,
    t: float,
    groups: Sequence[list[int]] = (),
) -> float:
    """``groups``: rows with the same number (not 0) in one of them are no negatives of each other."""

    def are_apart(i: int, j: int) -> bool:
        return all(group[i] != group[j] or group[i] == 0 for group in groups)

    seen = {i: [j for j in rows if i == j or are_apart(i, j)] for i in rows}
    seen = {i: js for i, js in seen.items() if len(js) > 1}
    if not seen:
        return 0.0

    def score(i: int, j: int) -> float:
        return _cosine(queries[i], keys[j]) / t

    if form == "pooled":
        return _lse([score(i, j) for i, js in seen.items() for j in js]) - _lse([score(i, i) for i in seen])
    losses = []
    for i, js in seen.items():
        row, column = [score(i, j) for j in js], [score(j, i) for j in js]
        if form == "infonce":
            losses.append(_lse(row) - score(i, i))
        elif form == "symmetric":
            losses.append((_lse(row) + _lse(column)) / 2 - score(i, i))
        else:
            losses.append(_lse(row + column) - score(i, i))
    return math.fsum(losses) / len(losses)


def reference_avt(
    z: dict[str, list[list[float]]],
    has: dict[str, list[bool]],
    form: str,
    t: float,
    centroid: str,
    policy: str,
    groups: Sequence[list[int]] = (),
) -> float:
    batch = range(len(has["video"]))
    count = [sum(has[m][i] for m in has) for i in batch]
    rows = [i for i in batch if count[i] >= (3 if policy == "complete_pair" else 2)]
    total = 0.0
    for m in ("video", "audio", "text"):
        targets: list[list[float]] = []
        for i in batch:
            parts = [z[o][i] for o in has if has[o][i] and not (centroid == "leave_one_out" and o == m)]
            targets.append([math.fsum(column) / len(parts) for column in zip(*parts, strict=True)] if parts else [])
        total += reference_nce(z[m], targets, [i for i in rows if has[m][i]], form, t, groups)
    return total


# --- material ---


def random_embeddings(batch: int = 7, dim: int = 5, dtype: torch.dtype = torch.float64) -> Embeddings:
    generator = torch.Generator().manual_seed(3)
    return Embeddings(
        **{name: torch.randn(batch, dim, generator=generator, dtype=torch.float64).to(dtype) for name in NAMES}
    )


def presence(kind: str, batch: int = 7) -> dict[str, Tensor]:
    masks = {
        "all": ([1] * 7, [1] * 7, [1] * 7),
        "some": ([1, 1, 1, 1, 1, 1, 0], [1, 0, 1, 1, 0, 1, 1], [1, 1, 0, 1, 1, 1, 0]),
        "few": ([1, 1, 1, 0, 0, 1, 1], [1, 1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 1, 0, 0]),
    }[kind]
    names = ("has_video", "has_audio", "has_text")
    return {name: torch.tensor(mask[:batch], dtype=torch.bool) for name, mask in zip(names, masks, strict=True)}


def with_gradient(embeddings: Embeddings) -> Embeddings:
    return Embeddings(**{name: getattr(embeddings, name).clone().requires_grad_() for name in NAMES})


# --- nce ---


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [(0, 1, 2, 3, 4, 5, 6), (0, 2, 3, 6), (1, 4), (5,), ()])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_nce_is_the_formula_on_the_valid_rows(form, rows, dtype, tolerance):
    both = random_embeddings(dtype=dtype)
    queries, keys = 3 * both.av_video, both.av_audio
    valid = torch.zeros(7, dtype=torch.bool)
    valid[list(rows)] = True
    expected = reference_nce(queries.double().tolist(), keys.double().tolist(), list(rows), form, 0.07)
    actual = nce(queries, keys, temperature=0.07, form=form, valid_B=valid)
    assert actual.dtype == dtype
    assert actual.item() == pytest.approx(expected, abs=tolerance, rel=tolerance)


def test_nce_of_two_by_two_worked_by_hand():
    # cos = [[1, 0], [0.6, 0.8]], temperature 1
    queries = torch.tensor([[2.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    keys = torch.tensor([[1.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
    e = math.e
    row = (math.log(e + 1) - 1 + math.log(e**0.6 + e**0.8) - 0.8) / 2
    column = (math.log(e + e**0.6) - 1 + math.log(1 + e**0.8) - 0.8) / 2
    expected = {
        "pooled": math.log(e + 1 + e**0.6 + e**0.8) - math.log(e + e**0.8),
        "infonce": row,
        "symmetric": (row + column) / 2,
        "mil_nce": (math.log(2 * e + 1 + e**0.6) - 1 + math.log(2 * e**0.8 + e**0.6 + 1) - 0.8) / 2,
    }
    for form, value in expected.items():
        assert nce(queries, keys, temperature=1.0, form=form).item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_uniform_similarity_gives_ln_n(form):
    same = torch.ones(32, 4)
    assert nce(same, same, form=form).item() == pytest.approx(math.log(64 if form == "mil_nce" else 32), abs=1e-5)


def test_one_aligned_pair_solves_the_pooled_form_but_not_the_symmetric():
    # model-notes: one perfect pair of 32, everything else orthogonal
    queries, keys = torch.eye(64, dtype=torch.float64)[:32], torch.eye(64, dtype=torch.float64)[32:].clone()
    keys[0] = queries[0]
    assert nce(queries, keys, form="pooled").item() == pytest.approx(6.2e-4, rel=0.02)
    assert nce(queries, keys, form="symmetric").item() == pytest.approx(3.36, abs=0.01)


@pytest.mark.parametrize("form", ["pooled", "symmetric", "mil_nce"])
def test_transposition_changes_nothing(form):
    both = random_embeddings()
    valid = presence("some")["has_audio"]
    forth = nce(both.av_video, both.av_audio, form=form, valid_B=valid)
    back = nce(both.av_audio, both.av_video, form=form, valid_B=valid)
    assert forth.item() == pytest.approx(back.item(), abs=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_order_and_length_of_rows_change_nothing(form):
    both = random_embeddings()
    valid = presence("some")["has_audio"]
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    plain = nce(both.av_video, both.av_audio, form=form, valid_B=valid)
    shuffled = nce(7 * both.av_video[order], 0.1 * both.av_audio[order], form=form, valid_B=valid[order])
    assert plain.item() == pytest.approx(shuffled.item(), abs=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_all_valid_is_the_same_as_no_mask(form):
    both = random_embeddings()
    masked = nce(both.av_video, both.av_audio, form=form, valid_B=torch.ones(7, dtype=torch.bool))
    assert torch.equal(masked, nce(both.av_video, both.av_audio, form=form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [(0, 2, 3, 6), (1,), ()])
@pytest.mark.parametrize("filling", [math.nan, math.inf, 0.0, 1e30])
def test_rows_that_are_not_valid_change_nothing_and_get_no_gradient(form, rows, filling):
    both = random_embeddings(dtype=torch.float32)
    valid = torch.zeros(7, dtype=torch.bool)
    valid[list(rows)] = True
    clean = [both.av_video.clone().requires_grad_(), both.av_audio.clone().requires_grad_()]
    dirty = [torch.where(valid[:, None], tensor.detach(), filling).requires_grad_() for tensor in clean]
    losses = [nce(*pair, form=form, valid_B=valid) for pair in (clean, dirty)]
    for loss in losses:
        loss.backward()
    assert torch.equal(*losses)
    for one, other in zip(clean, dirty, strict=True):
        assert torch.equal(one.grad, other.grad)
        assert (other.grad[~valid] == 0).all()
        assert (other.grad[valid] != 0).any() == (len(rows) > 1)


@pytest.mark.parametrize("form", FORMS)
def test_valid_zero_vectors_have_a_finite_gradient(form):
    queries = torch.zeros(4, 3, requires_grad=True)
    keys = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    nce(queries, keys, form=form).backward()
    assert queries.grad.isfinite().all()
    assert keys.grad.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_low_temperature_does_not_overflow(form):
    both = random_embeddings(dtype=torch.float32)
    queries = both.av_video.clone().requires_grad_()
    loss = nce(queries, both.av_audio, temperature=0.01, form=form)
    loss.backward()
    expected = reference_nce(
        both.av_video.double().tolist(), both.av_audio.double().tolist(), list(range(7)), form, 0.01
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert queries.grad.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_gradient_is_the_derivative(form):
    both = random_embeddings(batch=5, dim=4)
    valid = torch.tensor([True, True, False, True, True])
    queries, keys = both.av_video.requires_grad_(), both.av_audio.requires_grad_()
    assert torch.autograd.gradcheck(lambda q, k: nce(q, k, temperature=0.3, form=form, valid_B=valid), (queries, keys))


@pytest.mark.parametrize("form", FORMS)
def test_temperature_has_its_gradient(form):
    both = random_embeddings(batch=5, dim=4)
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: nce(both.av_video, both.av_audio, temperature=t, form=form), temperature)


def test_symmetric_is_the_loss_of_clip():
    both = random_embeddings()
    logits = F.normalize(both.av_video, dim=1) @ F.normalize(both.av_audio, dim=1).T / 0.07
    own = torch.arange(7)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert nce(both.av_video, both.av_audio).item() == pytest.approx(expected.item(), abs=1e-12)


# In the first row 2 shares one number or the other with each row that is valid.
GROUPS = {
    "one without a negative": [[1, 1, 1, 1, 2, 3, 4], [5, 6, 7, 8, 7, 7, 7]],
    "none at all": [[0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]],
    "pairs": [[1, 2, 1, 2, 0, 0, 0], [-(2**63), 0, 0, 2**62, 2**62 + 1, 2**62, 0]],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", GROUPS)
def test_rows_of_one_group_are_no_negatives_of_each_other(form, kind):
    both = random_embeddings()
    valid = torch.tensor([True, True, True, True, True, False, True])
    rows = [0, 1, 2, 3, 4, 6]
    expected = reference_nce(both.av_video.tolist(), both.av_audio.tolist(), rows, form, 0.1, GROUPS[kind])
    queries, keys = both.av_video.requires_grad_(), both.av_audio.requires_grad_()
    groups = torch.tensor(GROUPS[kind]).T
    loss = nce(queries, keys, temperature=0.1, form=form, valid_B=valid, groups_BG=groups)
    loss.backward()
    assert loss.item() == pytest.approx(expected, abs=1e-10)
    assert (queries.grad[2] == 0).all() == (keys.grad[2] == 0).all() == (kind == "one without a negative")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    form=st.sampled_from(FORMS),
    valid=st.lists(st.booleans(), min_size=6, max_size=6),
    groups=st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), min_size=1, max_size=2),
)
def test_whatever_is_valid_and_grouped_value_and_gradient_are_the_formula(form, valid, groups):
    rows, found = torch.tensor(valid), []
    allowed = rows & rows[:, None]
    for group in map(torch.tensor, groups):
        allowed &= (group[:, None] != group) | (group == 0) | torch.eye(6, dtype=torch.bool)
    both = random_embeddings(batch=6)
    for by_rows in (True, False):
        queries, keys = both.av_video.clone().requires_grad_(), both.av_audio.clone().requires_grad_()
        if by_rows:
            options = {"valid_B": rows, "groups_BG": torch.tensor(groups).T}
            loss = nce(queries, keys, temperature=0.1, form=form, **options)
        else:
            loss = dense_nce(queries, keys, allowed, form, 0.1)
        found.append([loss, *torch.autograd.grad(loss, [queries, keys], materialize_grads=True)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_groups_that_all_differ_change_nothing_and_a_single_group_leaves_a_connected_zero(form):
    both = random_embeddings()
    plain = nce(both.av_video, both.av_audio, form=form)
    assert torch.equal(plain, nce(both.av_video, both.av_audio, form=form, groups_BG=torch.arange(1, 8)[:, None]))
    queries = both.av_video.requires_grad_()
    loss = nce(queries, both.av_audio, form=form, groups_BG=torch.ones(7, 1, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert (queries.grad == 0).all()


def test_half_precision_input_is_computed_in_float32_even_under_autocast():
    both = random_embeddings(dtype=torch.bfloat16)
    plain = nce(both.av_video.float(), both.av_audio.float())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = nce(both.av_video, both.av_audio)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, plain)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="unknown form 'nce'"):
        nce(torch.ones(2, 3), torch.ones(2, 3), form="nce")  # type: ignore[arg-type]  # refused at run time
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 3\)"):
        nce(torch.ones(2, 3), torch.ones(3, 3))
    with pytest.raises(ValueError, match=r"groups_BG must be int64 \(2, G\), got torch.float32 \(2,\)"):
        nce(torch.ones(2, 3), torch.ones(2, 3), groups_BG=torch.ones(2))
    with pytest.raises(ValueError, match=r"titles_B must have a row for each of 7 samples, got \(6,\)"):
        lava_loss(random_embeddings(), **presence("all"), titles_B=torch.ones(6, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"av_video must have a row for each of 7 samples, got \(5, 5\)"):
        lava_loss(random_embeddings(batch=5), **presence("all"))
    with pytest.raises(ValueError, match="temperature must be above 0"):
        lava_loss(random_embeddings(), **presence("all"), temperature=0.0)
    with pytest.raises(ValueError, match="unknown negatives 'all'"):
        lava_loss(random_embeddings(), **presence("all"), negatives="all")  # type: ignore[arg-type]  # refused at run time
    with pytest.raises(ValueError, match="centroid 'kmeans' needs clusters_KE"):
        lava_loss(random_embeddings(), **presence("all"), centroid="kmeans")
    with pytest.raises(ConfigError, match="unknown loss terms va"):
        lava_loss(random_embeddings(), **presence("all"), weights={"va": 1.0})
    with pytest.raises(ValueError, match="unknown centroid 'mean'"):
        lava_loss(random_embeddings(), **presence("all"), centroid="mean")  # type: ignore[arg-type]  # refused at run time


# --- lava_loss ---


@pytest.mark.parametrize("kind", ["all", "some", "few"])
@pytest.mark.parametrize(("form", "centroid", "policy"), list(itertools.product(FORMS, CENTROIDS, POLICIES)))
def test_lava_loss_is_the_formula(kind, form, centroid, policy):
    embeddings, has = random_embeddings(), presence(kind)
    weights = LossWeights(av=0.5, vt=2.0, avt=3.0, at=0.25)
    loss = lava_loss(embeddings, **has, temperature=0.1, form=form, centroid=centroid, weights=weights, policy=policy)

    z = {name: getattr(embeddings, name).tolist() for name in NAMES}
    flags = {name.removeprefix("has_"): mask.tolist() for name, mask in has.items()}
    pairs = {
        term: [i for i in range(7) if flags[left][i] and flags[right][i]]
        for term, left, right in (("av", "video", "audio"), ("vt", "video", "text"), ("at", "audio", "text"))
    }
    av = reference_nce(z["av_video"], z["av_audio"], pairs["av"], form, 0.1)
    vt = reference_nce(z["vt_video"], z["vt_text"], pairs["vt"], form, 0.1)
    at = reference_nce(z["avt_audio"], z["avt_text"], pairs["at"], form, 0.1)
    avt = reference_avt({m: z[f"avt_{m}"] for m in flags}, flags, form, 0.1, centroid, policy)
    assert loss.av.item() == pytest.approx(av, abs=1e-10)
    assert loss.vt.item() == pytest.approx(vt, abs=1e-10)
    assert loss.at.item() == pytest.approx(at, abs=1e-10)
    assert loss.avt.item() == pytest.approx(avt, abs=1e-10)
    assert loss.total.item() == pytest.approx(0.5 * av + 2 * vt + 3 * avt + 0.25 * at, abs=1e-9)
    wanted = 3 if policy == "complete_pair" else 2
    num_avt = sum(sum(flags[m][i] for m in flags) >= wanted for i in range(7))
    counts = (loss.num_av, loss.num_vt, loss.num_at, loss.num_avt)
    assert tuple(map(int, counts)) == (len(pairs["av"]), len(pairs["vt"]), len(pairs["at"]), num_avt)


@pytest.mark.parametrize(("centroid", "policy"), list(itertools.product(CENTROIDS, POLICIES)))
def test_what_an_absent_modality_holds_changes_no_gradient(centroid, policy):
    has = presence("some")
    clean = with_gradient(random_embeddings(dtype=torch.float32))
    spoilt = {}
    for name in NAMES:
        mask = has[f"has_{name.split('_')[1]}"]
        spoilt[name] = torch.where(mask[:, None], getattr(clean, name).detach(), math.nan).requires_grad_()
    dirty = Embeddings(**spoilt)
    for embeddings in (clean, dirty):
        lava_loss(embeddings, **has, centroid=centroid, policy=policy).total.backward()
    for name in NAMES:
        assert torch.equal(getattr(clean, name).grad, getattr(dirty, name).grad), name
        assert (getattr(dirty, name).grad[~has[f"has_{name.split('_')[1]}"]] == 0).all(), name


def test_no_complete_row_is_a_connected_zero():
    none = torch.zeros(7, dtype=torch.bool)
    embeddings = with_gradient(random_embeddings(dtype=torch.float32))
    loss = lava_loss(embeddings, has_video=none, has_audio=none, has_text=none)
    loss.total.backward()
    assert loss.total.item() == 0
    for name in NAMES:
        gradient = getattr(embeddings, name).grad
        assert gradient is None or (gradient == 0).all()
    assert embeddings.avt_text.grad is not None


def test_centroid_forms_differ_in_gradient_as_documented():
    def gradient(centroid: str) -> Tensor:
        embeddings = with_gradient(random_embeddings())
        weights = {"av": 0.0, "vt": 0.0}
        lava_loss(embeddings, **presence("all"), weights=weights, centroid=centroid).total.backward()
        return embeddings.avt_text.grad

    values: list[LossOutput] = [
        lava_loss(random_embeddings(), **presence("all"), centroid=centroid) for centroid in ("literal", "stop_grad")
    ]
    assert torch.equal(values[0].total, values[1].total)
    assert not torch.allclose(gradient("literal"), gradient("stop_grad"))


def test_the_literal_centroid_leaks_the_anchor_and_leave_one_out_does_not():
    # model-notes 4.3: three independent unit modalities, 32 rows: about .008 against about 3.6 per modality
    generator = torch.Generator().manual_seed(0)
    independent = Embeddings(**{name: torch.randn(32, 1024, generator=generator) for name in NAMES})
    has = {name: torch.ones(32, dtype=torch.bool) for name in ("has_video", "has_audio", "has_text")}
    assert lava_loss(independent, **has, centroid="literal", form="infonce").avt.item() / 3 < 0.05
    assert lava_loss(independent, **has, centroid="leave_one_out", form="infonce").avt.item() / 3 > 3


def test_weights_leave_the_reported_terms_alone():
    plain = lava_loss(random_embeddings(), **presence("some"))
    weighted = lava_loss(random_embeddings(), **presence("some"), weights=replace(LossWeights(), av=0.0))
    assert torch.equal(plain.av, weighted.av)
    assert weighted.total.item() == pytest.approx((plain.vt + plain.avt).item(), abs=1e-12)


@pytest.mark.parametrize("kind", ["all", "some"])
@pytest.mark.parametrize(("form", "policy"), list(itertools.product(FORMS, POLICIES)))
def test_same_titles_count_where_text_takes_part_and_same_videos_everywhere(kind, form, policy):
    embeddings, has = random_embeddings(), presence(kind)
    titles, videos = [5, 6, 5, 0, 5, 7, 0], [1, 1, 2, 3, 4, 4, 5]
    loss = lava_loss(
        embeddings,
        **has,
        temperature=0.1,
        form=form,
        policy=policy,
        titles_B=torch.tensor(titles),
        videos_B=torch.tensor(videos),
    )
    z = {name: getattr(embeddings, name).tolist() for name in NAMES}
    flags = {name.removeprefix("has_"): mask.tolist() for name, mask in has.items()}
    titles = [title if has_text else 0 for title, has_text in zip(titles, flags["text"], strict=True)]

    def pair(term: str, left: str, right: str, groups: list[list[int]]) -> float:
        rows = [i for i in range(7) if flags[left][i] and flags[right][i]]
        space = "avt" if term == "at" else term
        return reference_nce(z[f"{space}_{left}"], z[f"{space}_{right}"], rows, form, 0.1, groups)

    both = [titles, videos]
    avt = reference_avt({m: z[f"avt_{m}"] for m in flags}, flags, form, 0.1, "leave_one_out", policy, both)
    assert loss.av.item() == pytest.approx(pair("av", "video", "audio", [videos]), abs=1e-10)
    assert loss.vt.item() == pytest.approx(pair("vt", "video", "text", both), abs=1e-10)
    assert loss.at.item() == pytest.approx(pair("at", "audio", "text", both), abs=1e-10)
    assert loss.avt.item() == pytest.approx(avt, abs=1e-10)


def test_rows_without_text_never_have_the_same_title():
    has = presence("all") | {"has_text": torch.tensor([True, False, False, False, True, True, True])}
    plain, same = (
        lava_loss(random_embeddings(), **has, policy="available_mean", titles_B=torch.tensor(titles))
        for titles in ([0] * 7, [1, 9, 9, 9, 2, 3, 4])
    )
    assert torch.equal(plain.total, same.total)


@pytest.mark.parametrize(("form", "policy"), list(itertools.product(FORMS, POLICIES)))
def test_order_of_samples_changes_nothing(form, policy):
    embeddings, has, videos = random_embeddings(), presence("some"), torch.tensor([1, 2, 1, 3, 4, 4, 5])
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    plain = lava_loss(embeddings, **has, form=form, policy=policy, videos_B=videos)
    shuffled = lava_loss(
        embeddings.map(lambda rows: rows[order]),
        **{name: flags[order] for name, flags in has.items()},
        form=form,
        policy=policy,
        videos_B=videos[order],
    )
    for term in ("av", "vt", "at", "avt", "total"):
        assert getattr(plain, term).item() == pytest.approx(getattr(shuffled, term).item(), abs=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("centroid", ["literal", "leave_one_out", "kmeans"])
def test_gradient_of_the_whole_loss_is_the_derivative(form, centroid):
    has = {name: flags[:4] for name, flags in presence("some").items()}
    tensors = [getattr(random_embeddings(batch=4, dim=3), name).requires_grad_() for name in NAMES]
    clusters = torch.eye(3, dtype=torch.float64)

    def total(*tensors: Tensor) -> Tensor:
        embeddings = Embeddings(**dict(zip(NAMES, tensors, strict=True)))
        return lava_loss(
            embeddings,
            **has,
            temperature=0.5,
            form=form,
            centroid=centroid,
            weights={"at": 0.5},
            policy="available_mean",
            videos_B=torch.tensor([1, 2, 3, 3]),
            clusters_KE=clusters,
        ).total

    assert torch.autograd.gradcheck(total, tensors, fast_mode=True)


@pytest.mark.parametrize("policy", POLICIES)
def test_kmeans_classifies_each_modality_as_the_cluster_of_the_mean(policy):
    embeddings, has = random_embeddings(), presence("some")
    clusters = F.normalize(random_embeddings(batch=4).av_video, dim=1)
    loss = lava_loss(embeddings, **has, temperature=0.1, centroid="kmeans", policy=policy, clusters_KE=clusters)
    z = {m: getattr(embeddings, f"avt_{m}").tolist() for m in ("video", "audio", "text")}
    flags = {name.removeprefix("has_"): mask.tolist() for name, mask in has.items()}
    rows = [i for i in range(7) if sum(flags[m][i] for m in z) >= (3 if policy == "complete_pair" else 2)]
    expected = 0.0
    for m in z:
        losses = []
        for i in [i for i in rows if flags[m][i]]:
            mean = [math.fsum(parts) for parts in zip(*(z[o][i] for o in z if flags[o][i]), strict=True)]
            nearest = max(range(4), key=lambda k, mean=mean: _cosine(mean, clusters[k].tolist()))
            scores = [_cosine(z[m][i], clusters[k].tolist()) / 0.1 for k in range(4)]
            losses.append(_lse(scores) - scores[nearest])
        expected += math.fsum(losses) / len(losses)
    assert loss.avt.item() == pytest.approx(expected, abs=1e-10)
    assert int(loss.num_avt) == len(rows)
    assert torch.equal(loss.av, lava_loss(embeddings, **has, temperature=0.1).av)


def test_kmeans_without_clusters_yet_is_a_connected_zero():
    embeddings = with_gradient(random_embeddings(dtype=torch.float32))
    loss = lava_loss(embeddings, **presence("all"), centroid="kmeans", clusters_KE=torch.zeros(4, 5))
    loss.avt.backward()
    assert loss.avt.item() == 0 == int(loss.num_avt)
    assert all((getattr(embeddings, f"avt_{m}").grad == 0).all() for m in ("video", "audio", "text"))


@pytest.mark.parametrize("centroid", [*CENTROIDS, "kmeans"])
def test_the_whole_loss_is_computed_in_float32_even_under_autocast(centroid):
    embeddings = random_embeddings(dtype=torch.bfloat16)
    clusters = F.normalize(torch.randn(4, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    losses, gradients = [], []
    for enabled, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        leaves = with_gradient(embeddings.map(lambda rows, dtype=dtype: rows.to(dtype)))
        temperature = torch.tensor(0.07, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = lava_loss(
                leaves, **presence("some"), centroid=centroid, clusters_KE=clusters, temperature=temperature
            )
        loss.total.backward()
        losses.append(loss.total)
        gradients.append(temperature.grad)
    assert losses[0].dtype == torch.float32
    assert torch.equal(*losses)
    assert torch.equal(*gradients)
