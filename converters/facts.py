"""The nodes of a trace and the facts that rules state about them: who moves together, who is fixed, who forms blocks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .domain import as_colour, broadcast, collapse, extent, mix, tighten, trim
from .partitions import classes, places


class Nodes:
    """All nodes of a trace and every fact the rules state about them. Facts are only collected here; `solve` uses them."""

    def __init__(self) -> None:
        self.count = 0
        self._is_block: list[np.ndarray] = []
        self.origins: list[tuple[int, str]] = []
        self.ties: list[tuple[np.ndarray, np.ndarray]] = []
        self.scale_ties: list[tuple[np.ndarray, np.ndarray]] = []
        self.members: list[tuple[np.ndarray, np.ndarray]] = []
        self.orders: list[np.ndarray] = []  # nodes of the entries of every operand, in the orders in which they may be read
        self.fixed: list[tuple[np.ndarray, str]] = []
        self.colours: list[tuple[np.ndarray, np.ndarray]] = []
        self.scale_fixed: list[np.ndarray] = []
        self.sign_fixed: list[np.ndarray] = []
        self.live: list[np.ndarray] = []
        self.activations: list[tuple[np.ndarray, str]] = []
        self.axis_nodes: dict[tuple[str, int], Tensor] = {}
        self.grouped_axes: dict[tuple[str, int], tuple[Tensor, int]] = {}
        self.roles: dict[tuple[str, int], set[str]] = {}
        self._salt = 0
        self._ordered: set[tuple[int, int]] = set()
        self._canonical = np.zeros(0, dtype=np.int64)
        self._canonical_at = (-1, -1)

    # -- nodes -------------------------------------------------------------------------------------------------------
    def new(self, count: int, origin: str, block: bool = False) -> Tensor:
        """Ids of `count` fresh nodes; `origin` names them in the spec."""
        ids = torch.arange(self.count, self.count + count)
        self.origins.append((self.count, origin))
        self.count += count
        self._is_block.append(np.full(count, block))
        return ids

    @property
    def is_block(self) -> np.ndarray:
        """Which nodes stand for a block of units (a head, a group); bool, shape (nodes,)."""
        if len(self._is_block) > 1:
            self._is_block = [np.concatenate(self._is_block)]
        flags: np.ndarray = self._is_block[0] if self._is_block else np.zeros(0, dtype=bool)
        return flags

    def fresh_colours(self, shape: Sequence[int]) -> Tensor:
        """Colours that differ from each other and from all others; shape `shape`."""
        self._salt += 1
        count = int(np.prod(shape)) if len(shape) else 1
        seed = mix(np.full(1, self._salt, dtype=np.uint64))
        with np.errstate(over="ignore"):
            hashes = mix(np.arange(count, dtype=np.uint64) * np.uint64(2) + seed)
        return torch.from_numpy(as_colour(hashes)).reshape(tuple(shape))

    def axis(self, name: str, axis: int, size: int) -> Tensor:
        """Ids of the nodes along one axis of a parameter or buffer, the same at every use."""
        key = (name, axis)
        if key not in self.axis_nodes:
            self.axis_nodes[key] = self.new(size, name)
        return self.axis_nodes[key]

    def canonical(self, ids: Tensor) -> Tensor:
        """The same ids with one node of each class, as far as ties are known now, in place of all that occur; tightened.

        Nodes that are exchanged like this are rescaled together from here on: one weight or one sum reads them all.
        """
        core, shape = trim(ids)
        if self._canonical_at != (len(self.ties), self.count):
            self._canonical = classes(self.count, self.ties)
            self._canonical_at = (len(self.ties), self.count)
        present = np.unique(core.numpy())
        nodes = present[present >= 0]
        _, first, of_class = np.unique(self._canonical[nodes], return_index=True, return_inverse=True)
        chosen = nodes[first][of_class]
        if (chosen != nodes).any():
            self.scale_ties.append((nodes, chosen))
            flat = core.numpy()
            where = np.searchsorted(nodes, flat.clip(min=nodes[0]))
            core = torch.from_numpy(np.ascontiguousarray(np.where(flat >= 0, chosen[where.clip(max=len(nodes) - 1)], flat)))
        return tighten(core.expand(shape))

    # -- facts -------------------------------------------------------------------------------------------------------
    def tie(self, a: Tensor, b: Tensor, scale: bool = True) -> None:
        """`a` and `b` (node ids, broadcastable) move together; with `scale` they are rescaled together too."""
        (a, b), _ = collapse(a, b)
        x, y = a.flatten().numpy(), b.flatten().numpy()
        keep = x != y
        if keep.any():
            x, y = x[keep], y[keep]
            self.ties.append((x, y))
            if scale:
                self.scale_ties.append((x, y))

    def meet(self, u: np.ndarray, v: np.ndarray, scale: bool = True) -> None:
        """States that nodes u[i] and v[i] meet: two units or two blocks are one, a unit is a member of a block."""
        bu, bv = self.is_block[u], self.is_block[v]
        same = bu == bv
        self.tie(torch.from_numpy(u[same]), torch.from_numpy(v[same]), scale)
        for units, blocks in ((u[~bu & bv], v[~bu & bv]), (v[bu & ~bv], u[bu & ~bv])):
            if len(units):
                self.members.append((units, blocks))

    def fix(self, ids: Tensor, reason: str) -> None:
        """The nodes among `ids` may not move."""
        nodes = self._nodes(ids)
        if len(nodes):
            self.fixed.append((nodes, reason))

    def produce(self, ids: Tensor) -> Tensor:
        """Returns `ids`, recorded as units of activations (and not only indices of a parameter)."""
        self.live.append(self._nodes(ids))
        return ids

    def fix_scale(self, ids: Tensor) -> None:
        """The nodes among `ids` may be neither rescaled nor negated."""
        self.scale_fixed.append(self._nodes(ids))
        self.fix_sign(ids)

    def fix_sign(self, ids: Tensor) -> None:
        """The nodes among `ids` may not be negated."""
        self.sign_fixed.append(self._nodes(ids))

    def mark(self, ids: Tensor, activation: str) -> None:
        """A nonlinearity reads these nodes."""
        self.activations.append((self._nodes(ids), activation))

    def role(self, name: str, axis: int, role: str) -> None:
        """Scaling nodes by s multiplies ("out") or divides ("in") this axis by s."""
        self.roles.setdefault((name, axis), set()).add(role)

    def _nodes(self, ids: Tensor) -> np.ndarray:
        core, _ = trim(ids)
        nodes = np.unique(core.numpy())
        return nodes[nodes >= 0]

    def colour(self, ids: Tensor, colours: Tensor) -> None:
        """Each node meets these colours, in the order of its entries; units are interchangeable only if they agree."""
        (ids, colours), _ = collapse(ids, colours)
        x, c = ids.flatten().numpy(), colours.flatten().numpy()
        keep = x >= 0
        x, c = x[keep], c[keep]
        if not len(x) or len(np.unique(c)) == 1:
            return
        order = np.argsort(x, kind="stable")
        x, c = x[order], c[order]
        starts = np.flatnonzero(np.r_[True, x[1:] != x[:-1]])
        rank = np.arange(len(x)) - np.repeat(starts, np.diff(np.r_[starts, len(x)]))
        self._salt += 1
        with np.errstate(over="ignore"):
            hashed = mix(c.view(np.uint64) ^ mix(rank.astype(np.uint64) + np.uint64(self._salt << 20)))
            self.colours.append((x[starts], np.add.reduceat(hashed, starts)))

    def touch(self, ids: Tensor, slot: int) -> None:
        """The nodes among `ids` are operands of the current operator, in this order; units are interchangeable only if theirs are alike."""
        core, _ = trim(ids)
        self.keep_order(tighten(ids))
        present, times = np.unique(core.numpy(), return_counts=True)
        keep = present >= 0
        self._salt += 1
        with np.errstate(over="ignore"):
            salt = np.uint64((self._salt << 20) + (slot << 16))
            self.colours.append((present[keep], mix(times[keep].astype(np.uint64) + salt)))

    def keep_order(self, ids: Tensor) -> None:
        """Adds the order of the nodes, by all orders of the dimensions: whichever of them an operator reads one by one come first in some."""
        core = trim(ids)[0].squeeze()
        for dims in itertools.permutations(range(core.dim())):
            flat = core.permute(dims).flatten().numpy()
            order = flat[flat >= 0]
            known = len(order), hash(order.tobytes())
            if known not in self._ordered:
                self._ordered.add(known)
                self.orders.append(order)

    def combine(self, a: Tensor, b: Tensor, scale: bool = True) -> Tensor:
        """Ids of an entrywise operation on two activations; states which nodes meet which.

        Two units that meet are one unit; a unit that meets a block label is a member of the block, and can only trade places with
        units that meet the same ones of its entries; a unit that meets varying colours only with units that meet the same.
        """
        (x, y), shape = collapse(a, b)
        x, y = x.contiguous(), y.contiguous()
        xn, yn = x >= 0, y >= 0
        if not bool((xn & yn).all()):
            if not bool(xn.any()) and not bool(yn.any()):
                return self.merge_colours(x, y).expand(shape)
            if bool((xn & ~yn).any()) and not self.only_broadcast(a, b):
                self.colour(torch.where(yn, torch.tensor(-1), x), y)
            if bool((yn & ~xn).any()) and not self.only_broadcast(b, a):
                self.colour(torch.where(xn, torch.tensor(-1), y), x)
        both = xn & yn
        if bool(both.any()):
            self._tell_entries_apart(a, b, both)
            self._tell_entries_apart(b, a, both)
            u, v = x[both].numpy(), y[both].numpy()
            u, v = np.divmod(np.unique(u * self.count + v), self.count)
            self.meet(u, v, scale)
            if not self.is_block[u].any() and not self.is_block[v].any() and bool(both.all()):
                return (y if extent(b) < extent(a) else x).expand(shape)
            block = torch.from_numpy(self.is_block)
            y_first = both & block[x.clamp(min=0)] & ~block[y.clamp(min=0)]
            x = torch.where(y_first, y, x)
        return torch.where(xn, x, y if bool((xn | yn).all()) else torch.where(yn, y, self.merge_colours(x, y))).expand(shape)

    def _tell_entries_apart(self, a: Tensor, b: Tensor, both: Tensor) -> None:
        """States which entry of a block label in `b` each unit in `a` meets where there are several: they move together and differ."""
        core, shape = trim(tighten(b))
        flat = core.flatten().numpy()
        if not self.is_block[flat[flat >= 0]].any():
            return
        rank = torch.from_numpy(as_colour(mix(places(flat)))).reshape(core.shape).expand(shape)
        (x, y, rank), _ = collapse(a, b, rank)
        block = torch.from_numpy(self.is_block)
        self.colour(torch.where(both & ~block[x.clamp(min=0)] & block[y.clamp(min=0)], x, torch.tensor(-1)), rank)

    @staticmethod
    def only_broadcast(ids: Tensor, colours: Tensor) -> bool:
        """Whether the colours are broadcast along every dimension in which the ids vary."""
        ids, colours = broadcast(ids, colours)
        return all(n == 1 or s == 0 or c == 0 for n, s, c in zip(ids.shape, ids.stride(), colours.stride(), strict=True))

    def renew_colours(self, ids: Tensor, apart: bool) -> Tensor:
        """Ids after weights have changed the entries that are no units, beside units: these are no longer what they were."""
        core, shape = trim(ids)
        constant = core < 0
        if not bool(constant.any()):
            return ids
        fresh = self.fresh_colours(core.shape if apart and not bool(constant.all()) else [1] * core.dim())
        return torch.where(constant, self.merge_colours(core, fresh), core).expand(shape)

    @staticmethod
    def merge_colours(a: Tensor, b: Tensor) -> Tensor:
        """Colour of each pair of colours."""
        (x, y), shape = collapse(a, b)
        with np.errstate(over="ignore"):
            hashed = mix(x.contiguous().numpy().view(np.uint64)) * np.uint64(3) + mix(y.contiguous().numpy().view(np.uint64))
        return torch.from_numpy(as_colour(mix(hashed))).expand(shape)

    def representative(self, ids: Tensor, keep: Sequence[int], scale: bool = True) -> Tensor:
        """Ids along the dimensions `keep` after tying everything along the others; shape of the kept dimensions."""
        keep = [d % ids.dim() for d in keep]
        ids = tighten(ids)
        if any(ids.stride(d) and ids.shape[d] > 1 for d in range(ids.dim()) if d not in keep):
            ids = self.canonical(ids)
        core, _ = trim(ids)
        others = [d for d in range(ids.dim()) if d not in keep]
        kept_shape = [core.shape[d] for d in sorted(keep)]
        rows = core.permute([*sorted(keep), *others]).reshape(math.prod(kept_shape), -1)
        top = rows.amax(dim=1)
        mixed = (rows != top[:, None]).any(1)
        if bool(mixed.any()):
            inputs, units = mixed & (top < 0), mixed & (top >= 0)
            top[inputs] = self.fresh_colours([int(inputs.sum())])
            if bool(units.any()):
                self.combine(top[units, None].expand(-1, rows.shape[1]).contiguous(), rows[units], scale)
        return top.reshape(kept_shape).expand([ids.shape[d] for d in sorted(keep)])

    def block_labels(self, ids: Tensor, dims: Sequence[int], origin: str) -> Tensor:
        """Ids of a symmetric function of the entries along `dims`; shape of the remaining dimensions.

        If all slices hold the same nodes the result depends on no permutation: fresh colours. If slices hold different
        nodes (heads, groups), each is a block: its members may only move within it, and blocks may only trade places
        whole, if what they hold besides nodes is the same. The result is labelled by block. Nodes of slices that share
        some of their nodes and not all (windows) may not move.
        """
        dims = [d % ids.dim() for d in dims]
        rest = [d for d in range(ids.dim()) if d not in dims]
        ids = self.canonical(ids)
        core, _ = trim(ids)
        rows = core.permute([*rest, *dims]).reshape([core.shape[d] for d in rest] + [-1])
        flat = rows.reshape(-1, rows.shape[-1])
        out_shape = [ids.shape[d] for d in rest]
        if bool((flat < 0).all()):
            return self.fresh_colours(out_shape)
        unique, where = np.unique(np.sort(flat.numpy(), axis=1), axis=0, return_inverse=True)
        where = where.reshape(-1)
        label = np.arange(len(unique))
        owner: dict[int, int] = {}
        for i, row in enumerate(unique):  # slices that share a node are one block
            found = {self._root(label, owner[n]) for n in np.unique(row[row >= 0]).tolist() if n in owner}
            for j in found:
                label[j] = self._root(label, i)
            for n in np.unique(row[row >= 0]).tolist():
                owner.setdefault(n, i)
        roots = np.array([self._root(label, i) for i in range(len(unique))])
        distinct, block_of = np.unique(roots, return_inverse=True)
        for block in range(len(distinct)):
            first, *others = (row[row >= 0] for row in unique[block_of == block])
            if any(not np.array_equal(first, other) for other in others):
                self.fix(torch.from_numpy(unique[block_of == block]), "is reduced over sets of units that overlap")
        if len(distinct) == 1:
            return self.fresh_colours(out_shape)
        blocks = self.new(len(distinct), origin, block=True).numpy()
        with np.errstate(over="ignore"):
            met = np.where(unique < 0, mix(unique.view(np.uint64)), np.uint64(0)).sum(axis=1, dtype=np.uint64).view(np.int64)
        self.colour(torch.from_numpy(blocks[block_of[where]]), torch.from_numpy(met[where]))
        for i, row in enumerate(unique):
            nodes = np.unique(row[row >= 0])
            inner = nodes[~self.is_block[nodes]]
            outer = nodes[self.is_block[nodes]]
            self.members.append((inner, np.full(len(inner), blocks[block_of[i]])))
            if len(outer):
                self.fix(torch.from_numpy(outer), "blocks inside blocks are reduced together")
        labels = torch.from_numpy(blocks[block_of[where]])
        return labels.reshape([core.shape[d] for d in rest]).expand(out_shape)

    @staticmethod
    def _root(label: np.ndarray, i: int) -> int:
        while label[i] != i:
            i = int(label[i])
        return int(i)
