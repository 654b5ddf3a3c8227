"""Our embedding and Gaussian process beside the libraries that people would take for them.

python benchmarks/libraries.py [--quick]

Prints two Markdown tables, in processor seconds of one thread. Embedding: the packaged backbone on the 3 x 3 tiles of
spots, exact and dense, beside timm in a plain PyTorch data loader that reads each tile by itself. Process: one and the
same sum of five kernels fitted to program scores, and their mean and deviation at other spots, beside scikit-learn's
and, where it is installed, GPyTorch's (Adam, 75 steps).
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _networks import load_backbone
from _slide import SMALL_PX, dense_tasks, lattice, task_of, write_slide
from _synthetic import PITCH_UM, make_measured
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Kernel, Matern, WhiteKernel
from threadpoolctl import threadpool_limits

from spamcaf.datasets.features import FeaturesDataset
from spamcaf.histology.backbone import Backbone
from spamcaf.histology.dense import pool_windows
from spamcaf.histology.tiles import N_TILES
from spamcaf.histology.workers import Workers, embed_sites
from spamcaf.model.data import ImageFeatures
from spamcaf.model.gaussian_process import LENGTH_SCALES_PITCHES, Kernels, condition, learn_hyperparameters

MPP = 0.5
N_COMPONENTS, N_PROGRAMS, ADAM_STEPS = 30, 8, 75
CPU = torch.device("cpu")
Float64 = NDArray[np.float64]


class Tiles(torch.utils.data.Dataset[torch.Tensor]):
    """The 3 x 3 tiles of sites, each read by itself, as a tutorial would write it."""

    def __init__(self, path: Path, xy_px: NDArray[np.float64], backbone: Backbone) -> None:
        self._job = task_of(path, xy_px, MPP, backbone)
        self._boxes = self._job.geometry.tiles(xy_px).reshape(-1, 3)
        self._mean, self._std = (torch.tensor(v)[:, None, None] for v in (backbone.mean, backbone.std))

    def __len__(self) -> int:
        return len(self._boxes)

    def __getitem__(self, index: int) -> torch.Tensor:
        x, y, width = self._boxes[index].tolist()
        tile, _ = self._job.slide.read(x, y, width, width)
        pixels = torch.from_numpy(np.ascontiguousarray(tile)).permute(2, 0, 1).float() / 255
        return (pixels - self._mean) / self._std


def embed_plainly(path: Path, xy_px: NDArray[np.float64], backbone: Backbone) -> None:
    """Embed every tile of every site with a data loader and the network."""
    with torch.inference_mode():
        for batch in torch.utils.data.DataLoader(Tiles(path, xy_px, backbone), batch_size=64):
            backbone.network(batch)


def embed_exactly(path: Path, xy_px: NDArray[np.float64], backbone: Backbone) -> None:
    """Embed the same tiles as the node does, in single precision."""
    for _ in embed_sites(task_of(path, xy_px, MPP, backbone), backbone, Workers.of(CPU, torch.float32, 64), set()):
        pass


def embed_densely(path: Path, xy_px: NDArray[np.float64], backbone: Backbone) -> None:
    """Average the same windows of one map of the slide, stored in between as the nodes do."""
    of_map, sites = dense_tasks(path, xy_px, MPP, backbone, 7)
    with tempfile.TemporaryDirectory() as folder:
        store = FeaturesDataset(filepath=folder)
        for block in embed_sites(of_map, backbone, Workers.of(CPU, torch.float32, 64), set()):
            store.save(block)
        for _ in pool_windows(store.load(), sites, set()):
            pass


def print_embedding(n_spots: int) -> None:
    """Print the table of embedding, for spots alone and with the three sites between them."""
    backbone = load_backbone()
    print("### Embedding\n\n|  | sites | processor seconds | seconds per 1000 tiles of windows | x |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        write_slide(path, SMALL_PX)
        for k in (1, 2):
            xy_px = lattice(n_spots, k, MPP)
            plain = 0.0
            for name, embed in (
                ("timm and a data loader", embed_plainly),
                ("spamcaf, exact", embed_exactly),
                ("spamcaf, dense", embed_densely),
            ):
                took = _cpu_seconds(lambda embed=embed, xy_px=xy_px: embed(path, xy_px, backbone))  # type: ignore[misc]
                plain = plain or took
                each = took / len(xy_px) / N_TILES * 1000
                print(f"| {name} | {len(xy_px)} | {took:.1f} | {each:.1f} | {took / plain:.2f} |", flush=True)


@dataclass(frozen=True)
class Data:
    """Spots to learn from and others to predict: image features, positions in pitches, program scores."""

    target: NDArray[np.float32]
    neighbourhood: NDArray[np.float32]
    pitches: Float64
    scores: Float64
    depth: Float64
    n_train: int

    @classmethod
    def made_up(cls, n_train: int, n_test: int) -> Data:
        """Return a made-up section whose programs are learned on the first `n_train` spots."""
        made = make_measured(n_train + n_test, 64, 300, seed=0)
        centred = made.expression - made.expression[:n_train].mean(axis=0)
        loadings = np.linalg.svd(centred[:n_train], full_matrices=False)[2][:N_PROGRAMS]
        scores = (centred @ loadings.T).astype(np.float64)
        parts = []
        for whole in (made.sites.target, made.sites.neighbours.mean(axis=1)):
            features = whole - whole[:n_train].mean(axis=0)
            axes = np.linalg.svd(features[:n_train], full_matrices=False)[2][:N_COMPONENTS]
            parts.append((features @ axes.T).astype(np.float32))
        pitches = made.sites.xy_um / PITCH_UM
        return cls(parts[0], parts[1], pitches, scores, made.depth, n_train)

    def inputs(self) -> Float64:
        """Return all inputs side by side, image features divided by one number each."""
        scaled = [part / np.sqrt(np.square(part).sum(axis=1).mean()) for part in (self.target, self.neighbourhood)]
        return np.hstack([*scaled, self.pitches]).astype(np.float64)

    def pcc(self, predicted: Float64) -> float:
        """Return the mean over programs of the correlation at the other spots."""
        truth = self.scores[self.n_train :]
        return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(truth.T, predicted.T, strict=True)]))


def ours(data: Data) -> Float64:
    """Fit and predict with this package."""
    n = data.n_train
    features = ImageFeatures(data.target, data.neighbourhood, np.zeros((len(data.target), 2), np.float32))
    train, xy_um = features.at(slice(0, n)), data.pitches * PITCH_UM
    kernels = Kernels.of_spots(train, xy_um[:n], np.zeros(n, np.int64), PITCH_UM)
    hyper = learn_hyperparameters(kernels.gram(), data.scores[:n], data.depth[:n])
    process = condition(kernels, hyper, data.scores[:n], data.depth[:n])
    mean, _ = process.at(features.at(slice(n, None)), xy_um[n:])
    return mean


class Columns(Kernel):  # type: ignore[misc]
    """A kernel of scikit-learn on some columns of the inputs, with a weight."""

    def __init__(self, inner: Kernel, start: int = 0, stop: int = 1) -> None:
        self.inner, self.start, self.stop = inner, start, stop

    def __call__(self, X: Float64, Y: Float64 | None = None, eval_gradient: bool = False) -> Any:  # noqa: ANN401, D102
        cut = slice(self.start, self.stop)
        return self.inner(X[:, cut], None if Y is None else Y[:, cut], eval_gradient)

    def diag(self, X: Float64) -> Float64:
        """Return the diagonal."""
        return np.asarray(self.inner.diag(X[:, self.start : self.stop]))

    def is_stationary(self) -> bool:
        """Tell that it is not."""
        return False

    @property
    def theta(self) -> Float64:
        """The logarithms of the hyper-parameters."""
        return np.asarray(self.inner.theta)

    @theta.setter
    def theta(self, theta: Float64) -> None:
        self.inner.theta = theta

    @property
    def hyperparameters(self) -> list[Any]:
        """Their descriptions."""
        return list(self.inner.hyperparameters)

    @property
    def bounds(self) -> Float64:
        """Their bounds."""
        return np.asarray(self.inner.bounds)


def by_scikit_learn(data: Data) -> Float64:
    """Fit and predict the same kernels, program by program."""
    short, long, exponential = LENGTH_SCALES_PITCHES
    linear = DotProduct(0.0, "fixed")
    spatial = [Matern(short, "fixed", 1.5), Matern(long, "fixed", 1.5), Matern(exponential, "fixed", 0.5)]
    image = [Columns(ConstantKernel(0.1) * linear, i * N_COMPONENTS, (i + 1) * N_COMPONENTS) for i in range(2)]
    at = 2 * N_COMPONENTS
    kernel: Any = WhiteKernel(0.5)
    for part in (*image, *(Columns(ConstantKernel(0.1) * each, at, at + 2) for each in spatial)):
        kernel = kernel + part
    inputs, n = data.inputs(), data.n_train
    columns = []
    for y in data.scores.T:
        process = GaussianProcessRegressor(kernel, normalize_y=True).fit(inputs[:n], y[:n])
        columns.append(process.predict(inputs[n:], return_std=True)[0])
    return np.column_stack(columns)


def by_gpytorch(data: Data) -> Float64:
    """Fit and predict the same kernels, program by program, in double precision."""
    import gpytorch
    from gpytorch.kernels import LinearKernel, MaternKernel, ScaleKernel

    inputs, n = torch.from_numpy(data.inputs()), data.n_train
    at = 2 * N_COMPONENTS

    def kernel() -> Any:  # noqa: ANN401
        linear = [LinearKernel(active_dims=tuple(range(i * N_COMPONENTS, (i + 1) * N_COMPONENTS))) for i in range(2)]
        parts: list[Any] = list(linear)
        for scale, nu in zip(LENGTH_SCALES_PITCHES, (1.5, 1.5, 0.5), strict=True):
            stationary = MaternKernel(nu, active_dims=(at, at + 1))
            stationary.lengthscale = scale
            stationary.raw_lengthscale.requires_grad_(False)
            parts.append(ScaleKernel(stationary))
        return sum(parts[1:], parts[0])

    class Model(gpytorch.models.ExactGP):  # type: ignore[misc]
        def __init__(self, y: torch.Tensor, likelihood: Any) -> None:  # noqa: ANN401
            super().__init__(inputs[:n], y, likelihood)
            self.mean_module, self.covar_module = gpytorch.means.ConstantMean(), kernel()

        def forward(self, x: torch.Tensor) -> Any:  # noqa: ANN401
            return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))

    columns = []
    for score in data.scores.T:
        scale = score[:n].std()
        likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
        model = Model(torch.from_numpy(score[:n] / scale), likelihood).double()
        loss = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for _ in range(ADAM_STEPS):
            optimizer.zero_grad()
            (-loss(model(inputs[:n]), model.train_targets)).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            predicted = likelihood.eval()(model(inputs[n:]))
            columns.append(predicted.mean.numpy() * scale)
            _ = predicted.variance
    return np.column_stack(columns)


def print_process(n_train: int) -> None:
    """Print the table of the process."""
    data = Data.made_up(n_train, n_train)
    fits: list[tuple[str, Callable[[Data], Float64]]] = [("spamcaf", ours), ("scikit-learn", by_scikit_learn)]
    try:
        import gpytorch
    except ImportError:
        print("\nGPyTorch is not installed: its row is left out.")
    else:
        fits.append((f"GPyTorch {gpytorch.__version__}", by_gpytorch))
    print(f"\n### Process\n\n{N_PROGRAMS} programs, {n_train} spots, as many predicted.\n")
    print("|  | processor seconds | x | mean correlation |\n| --- | --- | --- | --- |", flush=True)
    first = 0.0
    for name, fit in fits:
        found: list[Float64] = []
        took = _cpu_seconds(lambda fit=fit, found=found: found.append(fit(data)))  # type: ignore[misc]
        first = first or took
        print(f"| {name} | {took:.2f} | {took / first:.1f} | {data.pcc(found[0]):.3f} |", flush=True)


def _cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few spots")
    is_quick = parser.parse_args().quick
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of optimisers that end at a bound
            print_embedding(4 if is_quick else 40)
            print_process(60 if is_quick else 500)
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    main()
