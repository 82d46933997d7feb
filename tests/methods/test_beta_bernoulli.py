"""MAP matching of units under a Beta-Bernoulli process: against its definition, and where the right answer is known."""

import itertools
import math
from collections import Counter

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from graphalign.errors import InvalidInput
from graphalign.methods.beta_bernoulli import Prior, _Atoms, _value, match_units


def posterior(features, assignments, prior, precisions=None):
    """Twice the log posterior of a partition of units, from the definition; features and assignments by client."""
    clients = len(features)
    precisions = precisions or [1.0] * clients
    total = 0.0
    atoms = sorted({int(g) for columns in assignments for g in columns})
    held = []
    for atom in atoms:
        start = torch.full((features[0].shape[1],), prior.mean / prior.sigma0**2, dtype=torch.float64)
        sums, precision, holders = start.clone(), prior.sigma0**-2, []
        for client in range(clients):
            for unit, column in zip(features[client], assignments[client], strict=True):
                if int(column) == atom:
                    sums += unit * precisions[client] / prior.sigma**2
                    precision += precisions[client] / prior.sigma**2
                    holders.append(client)
        count = len(holders)
        total += float(sums @ sums) / precision - float(start @ start) * prior.sigma0**2
        total += 2 * (math.lgamma(clients - count + 1) + math.lgamma(count) - math.lgamma(clients + 1) + math.log(prior.gamma))
        held.append(tuple(holders))
    return total - 2 * sum(math.lgamma(n + 1) for n in Counter(held).values())


def units(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def match(features, prior=None, *, precisions=None, sweeps=50, max_units=None, seed=0):
    return match_units(
        features, prior or Prior(), precisions=precisions or [1.0] * len(features), sweeps=sweeps, max_units=max_units,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip


def shuffled_copies(clients, count, dimensions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    first = units(seed, count, dimensions)
    orders = [torch.arange(count), *(torch.randperm(count, generator=generator) for _ in range(clients - 1))]
    return [first[order] for order in orders], orders


@pytest.mark.parametrize("precisions", [[1.0, 1.0, 1.0], [0.5, 2.0, 0.5]])
def test_a_units_scores_are_the_gains_of_the_posterior(precisions):
    prior = Prior(gamma=1.7, sigma=0.8, sigma0=1.3, mean=0.3)
    features = [units(1, 2, 4), units(2, 2, 4), units(3, 1, 4)]
    assignments = [torch.tensor([0, 1]), torch.tensor([1, 2])]
    atoms = _Atoms(4)
    for client in (0, 1):
        atoms.add(client, assignments[client], features[client], precisions[client] / prior.sigma**2)
    scores = atoms.scores(features[2], precisions[2] / prior.sigma**2, 3, prior, new=1)
    values = [posterior(features, [*assignments, torch.tensor([column])], prior, precisions) for column in range(4)]
    found = [_value(atoms, 2, scores, torch.tensor([column])) for column in range(4)]
    assert [v - values[0] for v in values] == pytest.approx([f - found[0] for f in found])


def test_scores_of_several_new_units_count_their_order_once():
    prior = Prior(gamma=0.9)
    features = [units(1, 2, 3), units(2, 3, 3)]
    atoms = _Atoms(3)
    atoms.add(0, torch.arange(2), features[0], 1.0)
    scores = atoms.scores(features[1], 1.0, 2, prior, new=3)
    choices = list(itertools.permutations(range(5), 3))
    choices = [c for c in choices if sorted(x for x in c if x >= 2) == list(range(2, 2 + sum(x >= 2 for x in c)))]
    found = [_value(atoms, 1, scores, torch.tensor(c)) for c in choices]
    expected = [posterior(features, [torch.arange(2), torch.tensor(c)], prior) for c in choices]
    assert [f - found[0] for f in found] == pytest.approx([e - expected[0] for e in expected])


def test_the_last_client_gets_the_best_of_all_assignments():
    prior = Prior(gamma=2.0, sigma=0.7)
    first, second = units(3, 3, 5), units(4, 3, 5)
    second[1] = first[2] + 0.1 * units(5, 5)
    found = match([first, second], prior)
    best = max(
        posterior([first, second], [torch.arange(3), torch.tensor(c)], prior) for c in itertools.permutations(range(6), 3)
    )
    assert posterior([first, second], found.assignments, prior) == pytest.approx(best)
    assert found.assignments[1][1] == found.assignments[0][2]


@pytest.mark.parametrize("clients", [2, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_permuted_copies_are_matched_exactly(clients, seed):
    features, orders = shuffled_copies(clients, 9, 12, seed)
    found = match(features, seed=seed)
    assert found.units == 9
    assert found.converged
    for columns, order in zip(found.assignments, orders, strict=True):
        assert torch.equal(columns, order)


def test_trap_a_unit_that_all_other_clients_hold_can_be_matched_again():
    """log(c / (J - c)) is finite because the client itself is not among the c."""
    features, _ = shuffled_copies(5, 6, 10)
    assert match(features, sweeps=20).units == 6
    atoms = _Atoms(10)
    for client in range(4):
        atoms.add(client, torch.arange(6), features[0], 1.0)
    assert bool(atoms.scores(features[4], 1.0, 5, Prior(), new=6).isfinite().all())


def test_trap_counts_are_not_capped():
    """The published code caps counts at 10: the advantage of a unit that many clients share then stops growing."""
    atoms = _Atoms(3)
    for client in range(15):
        atoms.add(client, torch.tensor([0]), torch.zeros(1, 3, dtype=torch.float64), 1.0)
    scores = [float(atoms.scores(torch.zeros(1, 3, dtype=torch.float64), 1.0, j, Prior(), new=0)[0, 0]) for j in (16, 30)]
    assert scores == pytest.approx([2 * math.log(15 / 1), 2 * math.log(15 / 15)])


def test_trap_no_limit_is_built_in():
    """The published code stops adding units at 700."""
    features = [30 * units(1, 500, 4), 30 * units(2, 500, 4)]
    assert match(features, Prior(gamma=1e6, sigma=0.01), sweeps=1).units == 1000


def test_trap_scores_are_maximised():
    first, second = units(1, 4, 6), units(1, 4, 6)[torch.tensor([2, 0, 3, 1])]
    assert match([first, second], Prior(gamma=1e-9)).assignments[1].tolist() == [2, 0, 3, 1]


def test_units_without_a_counterpart_stay_apart():
    first, second = torch.zeros(4, 8, dtype=torch.float64), torch.zeros(3, 8, dtype=torch.float64)
    first[range(4), range(4)], second[range(3), range(4, 7)] = 5.0, 5.0
    found = match([first, second])
    assert found.units == 7
    assert [columns.tolist() for columns in found.assignments] == [[0, 1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("clients", [2, 4])
def test_width_grows_with_gamma_up_to_the_sum(clients):
    features = [units(client, 5, 6) for client in range(clients)]
    widths = [match(features, Prior(gamma=gamma)).units for gamma in (1e-12, 1.0, 10.0, 1e12)]
    assert widths == sorted(widths)
    assert widths[0] == 5
    assert widths[-1] == 5 * clients


def test_units_of_one_client_never_share_a_global_unit():
    features = [torch.ones(4, 3, dtype=torch.float64) for _ in range(3)]
    found = match(features, Prior(gamma=1e-9))
    assert all(len(set(columns.tolist())) == 4 for columns in found.assignments)
    assert found.units == 4


def test_max_units_is_kept_and_clients_may_differ_in_width():
    features = [units(1, 3, 6), units(2, 8, 6), units(3, 5, 6)]
    assert match(features, Prior(gamma=1e9)).units == 16
    assert match(features, Prior(gamma=1e9), max_units=10).units == 10
    assert match(features, Prior(gamma=1e9), max_units=8).units == 8
    with pytest.raises(InvalidInput, match="max_units=7, expected at least the 8 units of the widest client"):
        match(features, max_units=7)


@pytest.mark.parametrize("seed", range(6))
def test_sweeps_never_lower_the_posterior_and_end(seed):
    base = units(100 + seed, 12, 6)
    generator = torch.Generator().manual_seed(seed)
    features = [base[torch.randperm(12, generator=generator)[:8]] + 0.6 * units(seed * 10 + j, 8, 6) for j in range(5)]
    prior, precisions = Prior(gamma=2.0), [0.4, 1.6, 1.0, 0.5, 1.5]
    results = [match(features, prior, precisions=precisions, sweeps=n, seed=seed) for n in (0, 1, 2, 60)]
    values = [posterior(features, r.assignments, prior, precisions) for r in results]
    assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(values))
    assert results[-1].converged
    assert results[-1].sweeps < 60
    assert not results[0].converged


def test_a_client_alone_keeps_its_units():
    found = match([units(1, 4, 3)])
    assert found.units == 4
    assert found.converged
    assert torch.equal(found.assignments[0], torch.arange(4))


def test_equal_seeds_give_equal_matchings_and_inputs_stay_as_they_are():
    features = [units(j, 7, 5) for j in range(4)]
    before = [f.clone() for f in features]
    first, second = match(features, seed=3), match(features, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.assignments, second.assignments, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(features, before, strict=True))


def test_dead_units_do_not_swap_for_ever():
    features = [torch.cat([units(j, 3, 5), torch.zeros(5, 5, dtype=torch.float64)]) for j in range(3)]
    assert match(features, sweeps=10).converged


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 0.0}, "gamma=0.0, expected a positive"), ({"sigma": -1.0}, "sigma=-1.0"), ({"sigma0": math.inf}, "sigma0=inf"),
        ({"mean": math.nan}, "mean=nan, expected a finite"),
        ({"gamma": math.nan, "sigma": 0.0}, "gamma=nan, expected a positive finite number; found sigma=0.0"),
    ],
)  # fmt: skip
def test_a_prior_that_is_none_is_refused(settings, message):
    with pytest.raises(InvalidInput, match=message):
        Prior(**settings)


def test_units_compared_by_different_weights_are_refused():
    with pytest.raises(InvalidInput, match=r"units with \[3, 4\] features"):
        match([units(0, 2, 3), units(0, 2, 4)])


@pytest.mark.parametrize("seed", range(4))
def test_the_widest_client_comes_first(seed):
    prior = Prior(gamma=3.0)
    narrow, wide = units(seed, 4, 3), units(seed + 50, 9, 3)
    atoms = _Atoms(3)
    atoms.add(1, torch.arange(9), wide, 1.0)
    _, columns = linear_sum_assignment(atoms.scores(narrow, 1.0, 2, prior, new=4).numpy(), maximize=True)
    found = match([narrow, wide], prior, sweeps=0, seed=seed)
    expected = torch.as_tensor(columns)[:, None] == torch.arange(9)
    assert torch.equal(found.assignments[0][:, None] == found.assignments[1], expected)
