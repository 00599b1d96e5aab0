"""The loss against a plain-loop float64 reference, and its properties."""

from __future__ import annotations

import itertools
import math
from dataclasses import fields, replace

import pytest
import torch
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


def reference_nce(queries: list[list[float]], keys: list[list[float]], rows: list[int], form: str, t: float) -> float:
    if len(rows) < 2:
        return 0.0
    s = [[_cosine(queries[i], keys[j]) / t for j in rows] for i in rows]
    n = range(len(rows))
    if form == "pooled":
        return _lse([s[i][j] for i in n for j in n]) - _lse([s[i][i] for i in n])
    losses = []
    for i in n:
        row, column = [s[i][j] for j in n], [s[j][i] for j in n]
        if form == "infonce":
            losses.append(_lse(row) - s[i][i])
        elif form == "symmetric":
            losses.append((_lse(row) + _lse(column)) / 2 - s[i][i])
        else:
            losses.append(_lse(row + column) - s[i][i])
    return math.fsum(losses) / len(losses)


def reference_avt(
    z: dict[str, list[list[float]]], has: dict[str, list[bool]], form: str, t: float, centroid: str, policy: str
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
        total += reference_nce(z[m], targets, [i for i in rows if has[m][i]], form, t)
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
    with pytest.raises(ConfigError, match="unknown loss terms va"):
        lava_loss(random_embeddings(), **presence("all"), weights={"va": 1.0})
    with pytest.raises(ValueError, match="centroid = 'mean'"):
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
