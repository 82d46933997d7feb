"""What is computed once per pair: views and teachers' permutations, in memory, on disk, and for the pair the other way round."""

from __future__ import annotations

import pytest
import torch

from graphalign import group
from graphalign.aligner import Aligner, AlignerConfig
from graphalign.encoder import encode_pair
from graphalign.training import views as module
from graphalign.training.teachers import Teacher, Teachers
from graphalign.training.views import Views


@pytest.fixture
def aligner():
    return Aligner(AlignerConfig(codes=32, candidates=2))


def same(first, second):
    one, other = first.tensors(), second.tensors()
    return one.keys() == other.keys() and all(torch.equal(t, other[n]) for n, t in one.items())


@pytest.mark.parametrize("real", [False, True])
def test_views_are_found_again(mlp, aligner, tmp_path, monkeypatch, real):
    made = Views(aligner, tmp_path, 40).get(mlp, 0, 1, real=real)
    assert same(made, Views(aligner, None, 40).get(mlp, 0, 1, real=real))
    expected = encode_pair(mlp.architecture, mlp.states[0], mlp.states[1], made.inputs)
    assert all(torch.allclose(s, made.agreement.forward[n]) for n, s in expected.forward.items())
    monkeypatch.setattr(module, "encode_pair", None)  # from disk alone
    assert same(made, Views(aligner, tmp_path, 40).get(mlp, 0, 1, real=real))


def test_a_damaged_file_is_made_again(mlp, aligner, tmp_path):
    made = Views(aligner, tmp_path, 40).get(mlp, 0, 1, real=True)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(b"broken")
    assert same(made, Views(aligner, tmp_path, 40).get(mlp, 0, 1, real=True))


def test_the_other_way_round(mlp, aligner):
    views = Views(aligner, None, 40)
    there, back = views.get(mlp, 0, 2, real=True), views.get(mlp, 2, 0, real=True)
    assert all(torch.equal(s.mT, back.agreement.forward[n]) for n, s in there.agreement.forward.items())
    assert all(torch.equal(s.mT, back.agreement.backward[n]) for n, s in there.agreement.backward.items())


def test_codes_depend_on_the_configuration_and_real_inputs_do_not(mlp, aligner, tmp_path):
    other = Aligner(AlignerConfig(codes=32, candidates=3))
    for real, files in ((True, 1), (False, 3)):
        for each in (aligner, other):
            Views(each, tmp_path, 40).get(mlp, 0, 1, real=real)
        assert len(list(tmp_path.glob("*.safetensors"))) == files


def test_memory_is_bounded(mlp, aligner, monkeypatch):
    monkeypatch.setattr(module, "HELD", 1)
    views = Views(aligner, None, 40)
    views.get(mlp, 0, 1, real=True)
    views.get(mlp, 0, 2, real=True)
    assert len(views._held) == 1


@pytest.mark.parametrize("method", ["consensus", "sinkhorn"])
def test_teachers_solve_a_pair_once(mlp, aligner, tmp_path, monkeypatch, method):
    teacher = Teacher(method, steps=3, images=64, batches=2)
    found = Teachers(teacher, Views(aligner, None, 40), tmp_path).get(mlp, [(0, 1), (1, 0), (2, 1)])
    assert len(list(tmp_path.glob("teacher_*.safetensors"))) == 2
    assert group.same(found[1], group.inverse(found[0]))
    monkeypatch.setattr(Teachers, "_solve", None)  # from disk alone
    again = Teachers(teacher, Views(aligner, None, 40), tmp_path).get(mlp, [(0, 1), (1, 2)])
    assert group.same(again[0], found[0])
    assert group.same(again[1], group.inverse(found[2]))
