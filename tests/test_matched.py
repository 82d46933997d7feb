"""Matched averaging of whole networks: copies, disjoint networks, growth, weights, conventions, refusals, digits."""

import copy
import itertools

import pytest
import torch
from torch import nn

from graphalign import MatchedAverage, group, matched_average, save_state, trace
from graphalign.data import digits
from graphalign.errors import InvalidInput, SpecMismatch, UnsupportedNetwork
from graphalign.evaluation import evaluate
from graphalign.experiments.training import fit, initialise
from graphalign.matched import MatchedAveraging, Prior

from .traced import traced

X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
IMAGES = torch.randn(3, 2, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
APART, TOGETHER = MatchedAveraging(prior=Prior(gamma=1e30)), MatchedAveraging(prior=Prior(gamma=1e-30))


def mlp(*widths, seed=0, activation=nn.ReLU):
    torch.manual_seed(seed)
    layers = []
    for inputs, outputs in itertools.pairwise((5, *widths, 3)):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1]).double()


def cnn(a=6, b=7, hidden=8, seed=0):
    """Strides, padding, two kinds of pooling and a flatten over 2 x 2 positions."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, a, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(a, b, (1, 3), stride=(1, 2), padding=(0, 1), bias=False),
        nn.LeakyReLU(), nn.AvgPool2d((2, 1)), nn.Flatten(), nn.Linear(4 * b, hidden), nn.Tanh(), nn.Linear(hidden, 3),
    ).double()  # fmt: skip


NETWORKS = {"mlp": (lambda seed=0: mlp(8, 9, seed=seed), X), "cnn": (lambda seed=0: cnn(seed=seed), IMAGES)}


def shuffled(model, example, count, seed=1):
    """Copies of a network with their units in random orders, and the units of the original at each slot."""
    spec, generator = trace(model, example), torch.Generator().manual_seed(seed)
    elements = [group.random_element(spec, generator) for _ in range(count)]
    return [group.apply_to_module(spec, element, model) for element in elements], elements


def close(found, expected):
    return torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", ["forward", "backward"])
@pytest.mark.parametrize("name", NETWORKS)
def test_permuted_copies_give_the_network_itself(name, order):
    build, example = NETWORKS[name]
    first = build()
    copies, elements = shuffled(first, example, 3)
    found = matched_average([first, *copies], example_input=example, settings=MatchedAveraging(order=order))
    assert found.sizes == {cell.name: cell.units for cell in trace(first, example).cells}
    assert all(found.converged.values())
    for assignment, element in zip(found.assignments[1:], elements, strict=True):
        assert all(torch.equal(assignment[cell], element[cell]) for cell in element)
    for name, tensor in first.state_dict().items():
        close(found.state[name], tensor)
    close(found.module()(example), first(example))


@pytest.mark.parametrize("order", ["forward", "backward"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_kept_apart_grow_to_the_sum_and_give_their_mean_logits(name, order):
    build, example = NETWORKS[name]
    clients = [build(seed) for seed in (1, 2, 3)]
    settings = MatchedAveraging(prior=Prior(gamma=1e30), order=order)
    found = matched_average(clients, example_input=example, settings=settings, samples=[1, 2, 5])
    assert found.sizes == {cell.name: 3 * cell.units for cell in trace(clients[0], example).cells}
    assert all(found.shared(cell) == 0 for cell in found.sizes)
    close(found.module()(example), sum(w / 8 * c(example) for w, c in zip((1, 2, 5), clients, strict=True)))


def test_units_split_from_their_copies_leave_the_function_as_it_is():
    first = mlp(8, 9)
    copies, _ = shuffled(first, X, 2)
    found = matched_average([first, *copies], example_input=X, settings=MatchedAveraging(prior=Prior(gamma=30)))
    assert 8 < found.sizes["0"] < 24
    close(found.module()(X), first(X))


def test_disjoint_units_grow_and_common_ones_are_shared():
    """Two clients that hold units 0-5 and 3-8 of one layer."""
    whole = mlp(9, seed=4)
    clients = []
    for units in (torch.arange(6), torch.tensor([5, 8, 3, 7, 4, 6])):
        part = mlp(6)
        with torch.no_grad():
            part[0].weight.copy_(whole[0].weight[units])
            part[0].bias.copy_(whole[0].bias[units])
            part[2].weight.copy_(whole[2].weight[:, units])
        clients.append(part)
    settings = MatchedAveraging(prior=Prior(gamma=2.0, sigma=0.3))
    found = matched_average(clients, example_input=X, settings=settings)
    assert found.sizes == {"0": 9}
    assert found.assignments[0]["0"].tolist() == list(range(6))
    assert found.assignments[1]["0"][[0, 2, 4]].tolist() == [5, 3, 4]
    assert found.shared("0") == pytest.approx(3 / 9)


def test_small_gamma_keeps_the_width_and_large_gamma_grows_it():
    clients = [mlp(8, 6, seed=seed) for seed in range(3)]
    sizes = [
        matched_average(clients, example_input=X, settings=MatchedAveraging(prior=Prior(gamma=gamma))).sizes
        for gamma in (1e-30, 1.0, 20.0, 1e30)
    ]
    for cell, width in {"0": 8, "2": 6}.items():
        widths = [s[cell] for s in sizes]
        assert widths == sorted(widths)
        assert (widths[0], widths[-1]) == (width, 3 * width)


def test_max_width_limits_the_growth():
    clients = [mlp(8, 6, seed=seed) for seed in range(3)]
    settings = MatchedAveraging(prior=Prior(gamma=1e30), max_width=11)
    assert matched_average(clients, example_input=X, settings=settings).sizes == {"0": 11, "2": 11}
    settings = MatchedAveraging(prior=Prior(gamma=1e30), max_width=7)
    assert matched_average(clients, example_input=X, settings=settings).sizes == {"0": 8, "2": 7}


def test_clients_may_differ_in_hidden_widths():
    clients = [mlp(4, 9, seed=1), mlp(8, 3, seed=2)]
    found = matched_average(clients, example_input=X, settings=TOGETHER)
    assert found.sizes == {"0": 8, "2": 9}
    assert [{cell: len(a) for cell, a in own.items()} for own in found.assignments] == [{"0": 4, "2": 9}, {"0": 8, "2": 3}]
    assert found.module()[2].in_features == 8
    apart = matched_average(clients, example_input=X, settings=APART)
    close(apart.module()(X), (clients[0](X) + clients[1](X)) / 2)


def test_a_narrow_copy_of_a_wide_client_is_found_in_it():
    wide = mlp(10, seed=5)
    order = torch.tensor([7, 2, 9, 0])
    narrow = mlp(4)
    with torch.no_grad():
        narrow[0].weight.copy_(wide[0].weight[order])
        narrow[0].bias.copy_(wide[0].bias[order])
        narrow[2].weight.copy_(wide[2].weight[:, order])
    found = matched_average([wide, narrow], example_input=X)
    assert found.sizes == {"0": 10}
    assert found.assignments[1]["0"].tolist() == order.tolist()


def test_trap_logits_and_inputs_are_never_matched():
    """A client whose classes are in another order is averaged class by class, not re-ordered."""
    first = mlp(8)
    second = copy.deepcopy(first)
    order = torch.tensor([1, 2, 0])
    with torch.no_grad():
        second[2].weight.copy_(first[2].weight[order])
        second[2].bias.copy_(first[2].bias[order])
    found = matched_average([first, second], example_input=X, settings=APART)
    assert set(found.sizes) == {"0"}
    close(found.module()(X), (first(X) + first(X)[:, order]) / 2)


def test_trap_a_unit_of_one_client_is_not_averaged_with_zeros():
    """A global unit is the mean of its copies, not of all clients."""
    clients = [mlp(5, seed=1), mlp(5, seed=2)]
    found = matched_average(clients, example_input=X, settings=APART)
    close(found.state["0.weight"], torch.cat([clients[0][0].weight, clients[1][0].weight]).detach())
    close(found.state["2.weight"], torch.cat([clients[0][2].weight, clients[1][2].weight], 1).detach() / 2)


def test_samples_weigh_the_copies():
    first = mlp(6, 5)
    second = copy.deepcopy(first)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(1.01)
    found = matched_average([first, second], example_input=X, samples=[3, 1])
    for name, tensor in first.state_dict().items():
        close(found.state[name], 0.75 * tensor + 0.25 * second.state_dict()[name])


def test_class_counts_weigh_the_rows_of_the_last_layer():
    first = mlp(6)
    second = copy.deepcopy(first)
    with torch.no_grad():
        second[2].weight.mul_(1.02)
        second[2].bias.add_(0.01)
    counts = [[10, 0, 0], [0, 30, 0]]
    found = matched_average([first, second], example_input=X, samples=[1, 3], class_counts=counts)
    a, b = first.state_dict(), second.state_dict()
    for name in ("2.weight", "2.bias"):
        close(found.state[name][0], a[name][0])
        close(found.state[name][1], b[name][1])
        close(found.state[name][2], 0.25 * a[name][2] + 0.75 * b[name][2])


def test_the_posterior_is_shrunk_towards_the_prior():
    first = mlp(6)
    settings = MatchedAveraging(estimate="posterior", prior=Prior(sigma=2.0, sigma0=3.0, mean=0.5), standardise=False)
    found = matched_average([first, first], example_input=X, settings=settings)
    own, prior = 2 / 2.0**2, 1 / 3.0**2
    close(found.state["0.weight"], (own * first[0].weight.detach() + prior * 0.5) / (own + prior))
    close(found.state["0.bias"], (own * first[0].bias.detach() + prior * 0.5) / (own + prior))
    close(found.state["2.weight"], first[2].weight.detach())


def test_standardised_matching_does_not_depend_on_the_scale_of_a_layer():
    clients = [mlp(8, seed=seed) for seed in range(3)]
    scaled = copy.deepcopy(clients)
    with torch.no_grad():
        for client in scaled:
            for parameter in client.parameters():
                parameter.mul_(100)
    for standardise in (True, False):
        settings = MatchedAveraging(standardise=standardise)
        found = [matched_average(c, example_input=X, settings=settings).assignments for c in (clients, scaled)]
        same = all(torch.equal(a["0"], b["0"]) for a, b in zip(*found, strict=True))
        assert same == standardise


def test_forward_matching_uses_the_weights_that_are_known():
    """Units that differ in their outgoing weights alone are told apart in the last hidden layer, forward or backward."""
    first = mlp(6, 5)
    with torch.no_grad():
        first[2].weight.zero_()
        first[2].bias.zero_()
    copies, elements = shuffled(first, X, 1)
    for order in ("forward", "backward"):
        found = matched_average([first, *copies], example_input=X, settings=MatchedAveraging(order=order))
        assert torch.equal(found.assignments[1]["2"], elements[0]["2"])


def test_bare_state_dicts_and_files_are_clients_too(tmp_path):
    first = mlp(8, 9)
    copies, _ = shuffled(first, X, 2)
    save_state(copies[1].state_dict(), tmp_path / "client.safetensors")
    found = matched_average([first.state_dict(), copies[0].state_dict(), tmp_path / "client.safetensors"])
    assert set(found.sizes.values()) == {8, 9}
    close(found.module()(X), first(X))
    close(matched_average([copies[0].state_dict(), first], example_input=X).module()(X), first(X))
    wider = matched_average([mlp(4).state_dict(), mlp(7, seed=3).state_dict()], settings=APART)
    assert wider.sizes == {"0": 11}
    close(wider.module()(X), (mlp(4)(X) + mlp(7, seed=3)(X)) / 2)


def test_inputs_are_not_modified_and_modules_are_copies():
    clients = [mlp(6, seed=1), mlp(6, seed=2)]
    before = [{n: t.clone() for n, t in c.state_dict().items()} for c in clients]
    found = matched_average(clients, example_input=X, settings=APART)
    module = found.module()
    with torch.no_grad():
        module[0].weight.zero_()
    assert float(found.module()[0].weight.detach().abs().max()) > 0
    assert float(found.state["0.weight"].abs().max()) > 0
    for client, state in zip(clients, before, strict=True):
        assert client.training
        assert client[0].out_features == 6
        assert all(torch.equal(t, state[n]) for n, t in client.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_dtype_of_the_clients_is_kept(dtype):
    clients = [mlp(6).to(dtype), mlp(6).to(dtype)]
    found = matched_average(clients, example_input=X.to(dtype))
    assert found.state["0.weight"].dtype == dtype
    assert torch.equal(found.state["0.weight"], clients[0][0].weight)
    assert found.module()(X.to(dtype)).dtype == dtype


def test_equal_seeds_give_equal_networks():
    clients = [mlp(8, 8, seed=seed) for seed in range(5)]
    first, second = (matched_average(clients, example_input=X, seed=7) for _ in range(2))
    assert all(torch.equal(first.state[n], second.state[n]) for n in first.state)
    assert first.seed == 7


@pytest.mark.parametrize(
    ("name", "message"),
    [("vgg_11_bn", "batch_norm in module 'features.1'"), ("resnet_basic", "add in module 'layer1.0'"), ("shared_linear", "shared.weight")],
)
def test_trap_networks_with_norms_skips_or_shared_weights_are_refused(name, message):
    network = traced(name)
    with pytest.raises(UnsupportedNetwork, match=message):
        matched_average([network.model, network.model], example_input=network.example)


class LeNet(nn.Module):
    """Its view holds the number of features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(2, 4, 3), nn.Linear(4 * 49, 3)

    def forward(self, x):
        return self.out(self.conv(x).relu().view(-1, 4 * 49))


def test_code_with_its_widths_written_in_it_is_refused_when_it_must_grow():
    torch.manual_seed(0)
    clients = [LeNet().double(), LeNet().double()]
    matched_average(clients, example_input=IMAGES, settings=TOGETHER)
    with pytest.raises(UnsupportedNetwork, match="LeNet does not run with the widths of the global network"):
        matched_average(clients, example_input=IMAGES, settings=APART)


def test_clients_of_other_architectures_are_refused_with_all_differences():
    with pytest.raises(SpecMismatch, match=r"client 1 runs linear, relu, linear, relu, linear, client 0 (?s:.)*client 2 runs"):
        matched_average([mlp(4), mlp(4, 4), mlp(4, 4, 4)], example_input=X)
    other = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    with pytest.raises(SpecMismatch, match=r"client 1: axis 0 of '2.weight' cannot move and has length 3 in A and 2 in B"):
        matched_average([mlp(4), other], example_input=X)
    kernels = [nn.Sequential(nn.Conv2d(2, 4, k, padding="same"), nn.ReLU(), nn.Conv2d(4, 3, 1)).double() for k in (3, 1)]
    with pytest.raises(SpecMismatch, match=r"client 1: axis 2 of '0.weight' cannot move and has length 3 in A and 1 in B"):
        matched_average(kernels, example_input=IMAGES)
    biases = [nn.Sequential(nn.Linear(5, 4, bias=b), nn.ReLU(), nn.Linear(4, 3)).double() for b in (True, False)]
    with pytest.raises(SpecMismatch, match=r"client 1: '0.bias' is only in A"):
        matched_average(biases, example_input=X)


def test_clients_with_other_activations_are_refused():
    with pytest.raises(SpecMismatch, match="client 1 runs linear, tanh, linear, client 0 linear, relu, linear"):
        matched_average([mlp(4), mlp(4, activation=nn.Tanh)], example_input=X)


def test_bad_arguments_are_refused():
    pair = [mlp(4), mlp(4)]
    with pytest.raises(InvalidInput, match="found 1 network, expected two or more"):
        matched_average(pair[:1], example_input=X)
    with pytest.raises(InvalidInput, match="found a module and no example_input"):
        matched_average(pair)
    for samples in ([1.0], [1.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(InvalidInput, match="expected 2 positive finite numbers"):
            matched_average(pair, example_input=X, samples=samples)
    for counts in ([[1, 2], [3, 4]], [[1, 2, 3]], [[1, 2, -3], [1, 2, 3]]):
        with pytest.raises(InvalidInput, match=r"class_counts: found a table of shape .* expected \(2, 3\)"):
            matched_average(pair, example_input=X, class_counts=counts)
    with torch.no_grad():
        pair[1][0].weight[0, 0] = torch.nan
    with pytest.raises(InvalidInput, match="client 1 cannot be aligned"):
        matched_average(pair, example_input=X)
    with pytest.raises(InvalidInput, match="order='sideways'.*; found estimate='mode'.*; found sweeps=-1.*; found max_width=0"):
        MatchedAveraging(order="sideways", estimate="mode", sweeps=-1, max_width=0)
    with pytest.raises(InvalidInput, match="shared: found '7', expected one of 0"):
        matched_average([mlp(4), mlp(4)], example_input=X).shared("7")


def test_it_prints_what_became_of_the_units():
    found = matched_average([mlp(4), mlp(4)], example_input=X)
    assert repr(found) == "MatchedAverage(2 clients; 0 4+4 -> 4 units, 100% shared)"
    assert "<td>4+4 -&gt; 4 units, 100% shared</td>" in found._repr_html_()
    assert isinstance(found, MatchedAverage)


def test_one_shot_on_digits_beats_naive_averaging_and_every_client():
    """Four clients with different shares of the classes and different initialisations."""
    (x, y), (test_x, test_y) = digits("train").tensors, digits("test").tensors
    x, test_x = x.flatten(1), test_x.flatten(1)
    generator = torch.Generator().manual_seed(0)
    shares = torch.distributions.Dirichlet(torch.full((4,), 0.5))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        owner = torch.multinomial(shares.sample((10,))[y], 1, generator=generator).flatten()
        clients = []
        for client in range(4):
            network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
            initialise(network)
            clients.append(fit(network, x[owner == client], y[owner == client], epochs=15, batch=32, seed=client))
    counts = torch.stack([torch.bincount(y[owner == client], minlength=10) for client in range(4)])
    found = matched_average(clients, example_input=x[:2], samples=counts.sum(1).tolist(), class_counts=counts)
    naive = copy.deepcopy(clients[0])
    with torch.no_grad():
        for parameter, *own in zip(naive.parameters(), *(c.parameters() for c in clients), strict=True):
            parameter.copy_(sum(n * p for n, p in zip(counts.sum(1), own, strict=True)) / counts.sum())
    accuracy = [evaluate(m, [(test_x, test_y)]).accuracy for m in (found.module(), naive, *clients)]
    assert accuracy[0] > 0.85
    assert accuracy[1] < 0.6
    assert accuracy[0] > max(accuracy[2:]) + 0.05
    assert all(32 <= units <= 128 for units in found.sizes.values())
